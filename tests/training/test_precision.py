"""bf16 where the hardware computes it, and a word where it does not."""

import json
from dataclasses import replace

import pytest
import torch

from senet.cli import main
from senet.data import loading
from senet.errors import SenetError, warn
from senet.nn import precision
from senet.recipes import RECIPES, get_recipe
from senet.training import trainer
from senet.training.loop import resume, train
from senet.training.sections import ComputeConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")
RUN = replace(get_recipe("digits"), epochs=1, compute=ComputeConfig(cpu=True, precision="auto"))


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch):
    open_all = loading.open_split
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_all(data, split), size=32))


def processor(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "architecture": "x86_64", **capabilities})


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, False),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
    ],
)
def test_a_processor_has_units_for_bf16_or_not(monkeypatch, capabilities, expected):
    processor(monkeypatch, **capabilities)
    assert precision.has_bf16(CPU) == expected


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bf16_has_no_units_for_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert precision.has_bf16(GPU) == native


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_chooses_what_is_fast_says_so_once_and_records_it(tmp_path, monkeypatch, capsys, native, chosen):
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    run = train(RUN, tmp_path / "run")
    said = capsys.readouterr().err
    assert said.count(f"compute.precision is auto, which is {chosen} here") == 1
    assert "emulates" not in said
    assert json.loads((run / "config.json").read_text())["compute"]["precision"] == chosen

    monkeypatch.setattr(precision, "has_bf16", lambda device: not native)  # it goes on as it began, wherever that is
    resume(run, epochs=2)
    assert ("emulates" in capsys.readouterr().err) == native


@pytest.mark.parametrize("native", [True, False])
def test_a_slow_precision_that_is_asked_for_is_taken_and_said(tmp_path, monkeypatch, capsys, native):
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    run = train(replace(RUN, compute=replace(RUN.compute, precision="bf16")), tmp_path / "run")
    assert json.loads((run / "config.json").read_text())["compute"]["precision"] == "bf16"
    told = "compute.precision bf16 is slow: this processor has no units for bf16 and emulates it, several times slower"
    assert (told in capsys.readouterr().err) != native


@pytest.mark.parametrize("native", [True, False])
def test_evaluate_and_record_say_that_bf16_is_slow(tmp_path, monkeypatch, capsys, native):
    monkeypatch.setattr(precision, "has_bf16", lambda device: native)
    run = train(RUN, tmp_path / "run")
    capsys.readouterr()
    for command in (["evaluate"], ["record", "--output", str(tmp_path / "gates.safetensors")]):
        warn.cache_clear()
        assert main([command[0], str(run), *command[1:], "--precision", "bf16"]) == 0
        said = capsys.readouterr()
        assert ("warning: precision bf16 is slow" in said.err) != native
        assert said.out


def test_recipes_take_what_is_fast_but_digits_which_is_compared_between_machines():
    chosen = {name: get_recipe(name).compute.precision for name in RECIPES}
    assert chosen.pop("digits") == "fp32"
    assert set(chosen.values()) == {"auto"}


@pytest.mark.parametrize("name", ["fp32", "tf32"])
def test_a_run_on_cuda_trains_and_evaluates_with_the_products_it_asked_for(tmp_path, monkeypatch, name):
    """On the CPU, whose run is told that it is on CUDA where it sets the products."""
    set_on_cuda, seen = precision.float32_products, []
    monkeypatch.setattr(trainer, "float32_products", lambda device, chosen: set_on_cuda(GPU, chosen))
    monkeypatch.setattr("senet.training.processes.check_precision", lambda *_: None)
    for method in ("backward", "evaluate"):
        original = getattr(trainer.Trainer, method)

        def watched(self, *args, original=original, **options):
            seen.append(torch.backends.cudnn.conv.fp32_precision)
            return original(self, *args, **options)

        monkeypatch.setattr(trainer.Trainer, method, watched)
    before = torch.backends.cudnn.conv.fp32_precision
    train(replace(RUN, compute=replace(RUN.compute, precision=name)), tmp_path / "run")
    assert seen == [{"fp32": "ieee", "tf32": "tf32"}[name]] * 2
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_tf32_on_the_cpu_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(SenetError, match=r"^compute\.precision is 'tf32'"):
        train(replace(RUN, compute=replace(RUN.compute, precision="tf32")), tmp_path / "run")
    assert not (tmp_path / "run").exists()
