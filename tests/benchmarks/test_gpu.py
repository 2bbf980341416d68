"""The contestants of benchmarks/gpu.py on the CPU, where they must all be built; their times mean nothing here."""

import re
from typing import get_args

import pytest

import gpu
import gpu_contestants as of
import gpu_kernels
from gpu import Arguments, waves


def test_the_plan_fits_and_its_docstring_says_the_same():
    planned = [wave.seconds for wave in waves(Arguments())]
    assert sum(planned) <= 480
    described = list(map(int, re.findall(r"^ {4,6}(\d+)  ", gpu.__doc__, re.MULTILINE)))
    assert sum(described) == sum(planned) == int(re.search(r"^ +(\d+), of 480 seconds", gpu.__doc__, re.MULTILINE)[1])


def test_every_measurement_of_the_plan_has_a_name_of_its_own():
    names = [one.name for wave in waves(Arguments()) for one in wave.measurements]
    assert len(names) == len(set(names)) == 37
    forms = {one.setting["form"] for wave in waves(Arguments()) for one in wave.measurements if "form" in one.setting}
    assert forms == set(get_args(of.Form))


@pytest.mark.parametrize("name", [of.SMALL_PLAIN, of.SMALL_SE, of.SMALL_SENET])
def test_a_step_trains(name):
    ready = of.training(name, "eager", 2, 16, "cpu", "fp32")
    before = ready.run.model.fc.weight.detach().clone()
    ready.run()
    assert (ready.run.model.fc.weight - before).abs().max() > 0
    assert ready.run.model.fc.weight.grad is None  # a captured step leaves no gradients in its graph's memory


def test_what_needs_a_gpu_says_so():
    for form in ("eager, one graph", "compiled, one graph", "reduce-overhead"):
        with pytest.raises(ValueError, match="needs a GPU"):
            of.training(of.SMALL_PLAIN, form, 2, 16, "cpu", "fp32")


def test_a_whole_run_on_the_cpu_is_refused_with_a_remedy(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "carry_out", lambda *_, **__: pytest.fail("it started"))
    assert gpu.main(Arguments(device="cpu")) == 2
    assert "add --smoke" in capsys.readouterr().err


def test_trying_it_out_leaves_the_measurements_alone(monkeypatch, tmp_path):
    """docs/speed.md shows whatever benchmarks/results/gpu.json holds."""
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "share_cores", lambda: None)
    monkeypatch.setattr(gpu, "carry_out", lambda _, results, *__, **___: results.write() is None)
    assert gpu.main(Arguments(device="cpu", smoke=True)) == 0
    assert not list(tmp_path.iterdir())
    assert gpu.main(Arguments(device="cpu", smoke=True, output=tmp_path / "mine.json")) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["mine.json"]


def test_inference_is_built_as_the_other_benchmark_does():
    ready = of.inferring("SE", "eager", 1, 32, "cpu", "fp32")
    assert ready.run().shape == (1, 1000)
    assert ready.facts == {"differs": 0.0}


def test_kernels_are_checked_and_timed():
    facts = gpu_kernels.check("cpu", few=True).facts
    assert facts["made"] == facts["passed"] == 33
    facts = gpu_kernels.kernels("bf16", (2, 64, 7), "cpu", rounds=1).facts
    assert facts["share_of_copy"]["copy"] == 1
    assert set(facts["share_of_copy"]) == {*gpu_kernels.MAPS, "copy"}


def test_a_wrong_kernel_is_found(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "TOLERANCES", dict.fromkeys(gpu_kernels.TOLERANCES, 0.0))
    facts = gpu_kernels.check("cpu", few=True).facts
    assert facts["passed"] < facts["made"]
    assert len(facts["wrong"]) == facts["made"] - facts["passed"]


def test_a_run_of_senet_train_is_measured():
    facts = of.whole_run("cifar_se_resnet20", images=40, epochs=2, device="cpu").facts
    assert facts["images"] == 40
    assert len(facts["images_per_s"]) == 1
    assert facts["images_per_s"][0] > 0
