"""The parity report of networks whose difference is known, and of a network in ONNX Runtime."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import senet
from deployment.opened import opened
from senet import SenetError
from senet.cli.parity import show_parity
from senet.data.preprocessing import CIFAR
from senet.deployment import machine, timing
from senet.deployment.agreement import Tolerance
from senet.deployment.digests import parity_path
from senet.deployment.parity import compare_exported, conclude, write_parity
from senet.deployment.parity_page import write_parity_page
from senet.evaluation.batches import open_batches


class Brightness(nn.Module):
    """Ten logits from the brightness of parts of a picture."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 3 * 4 * 4, generator=torch.Generator().manual_seed(0)))
        self.preprocessing = CIFAR
        self.class_names = tuple(f"class {i}" for i in range(10))

    def forward(self, x):
        return torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight.T


def labeled_batches(model, sizes=(7, 7, 5)):
    draw = torch.Generator().manual_seed(1)
    for size in sizes:
        images = torch.randn(size, 3, 32, 32, generator=draw)
        yield images, model(images).argmax(1).where(torch.rand(size, generator=draw) < 0.8, torch.tensor(3))


@torch.no_grad()
def test_against_numpy():
    """Another network, whose numbers are computed here once more."""
    model = Brightness()
    data = list(labeled_batches(model))
    drift = torch.randn(10, generator=torch.Generator().manual_seed(2))
    report = compare_exported(model, lambda x: model(x) + drift, data, precision="int8", timed=False)
    images, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    own = model(images).double().numpy()
    other = own + drift.double().numpy()
    labels = labels.numpy()
    assert report.num_images == 19
    assert report.difference.largest == pytest.approx(np.abs(own - other).max(), rel=1e-5)
    assert report.difference.mean == pytest.approx(np.abs(own - other).mean(), rel=1e-5)
    assert report.difference.scale == pytest.approx(np.abs(own).max(), rel=1e-6)
    assert report.difference.relative_largest == pytest.approx(np.abs(own - other).max() / np.abs(own).max(), rel=1e-5)
    same = own.argmax(1) == other.argmax(1)
    assert 0 < same.sum() < 19
    assert report.agreeing == same.sum()
    assert report.accuracy.original == pytest.approx(100 * (own.argmax(1) == labels).mean())
    assert report.accuracy.exported == pytest.approx(100 * (other.argmax(1) == labels).mean())
    assert {each.index for each in report.disagreements} == set(np.flatnonzero(~same).tolist())
    sums = [each.original_probability + each.exported_probability for each in report.disagreements]
    assert sums == sorted(sums, reverse=True)
    first = report.disagreements[0]
    assert first.original == f"class {own[first.index].argmax()}"
    assert first.exported == f"class {other[first.index].argmax()}"
    assert first.class_name == f"class {labels[first.index]}"
    probability = np.exp(other[first.index]) / np.exp(other[first.index]).sum()
    assert first.exported_probability == pytest.approx(probability.max(), rel=1e-5)
    assert report.within_tolerance is False
    assert conclude(report) == 3
    assert conclude(compare_exported(model, model, data, timed=False)) == 0


def test_no_data_at_all_are_said(tmp_path, capsys):
    model = Brightness()
    report = compare_exported(model, model, timed=False)
    assert report.accuracy is None
    assert report.num_images == 16
    assert report.difference.scale > 0.1  # the pictures are not empty
    show_parity(report)
    assert "no accuracy was measured: there are no data" in capsys.readouterr().out
    write_parity(report, tmp_path / "x.json")
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["accuracy"] is None
    assert written["within_tolerance"] is True


def test_the_data_of_the_run_at_equal_distances(digits_run):
    model = senet.from_pretrained(digits_run)
    report = compare_exported(digits_run, model, images=10, timed=False)
    batches = open_batches(model, "digits")
    size = len(batches.images)
    assert report.num_images == 10
    seen = []
    compare_exported(digits_run, lambda x: seen.append(x) or model.eval()(x), images=10, timed=False)
    transform = senet.create_transform(model)
    expected = [transform(batches.images[round(i * (size - 1) / 9)][0]) for i in range(10)]
    assert torch.equal(torch.cat(seen), torch.stack(expected))
    assert report.accuracy.original > 50
    assert report.difference.largest == 0
    everything = compare_exported(digits_run, model, images=None, timed=False)
    assert everything.num_images == size
    assert everything.accuracy.original == pytest.approx(senet.evaluate(digits_run).top1)


@pytest.mark.slow
def test_onnx_runtime_computes_the_same(tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from senet.optimization.rewriting import rewrite

    model = senet.create_model("cifar_se_resnet20", weights="cifar10")
    path = tmp_path / "model.onnx"
    example = torch.zeros(2, 3, 32, 32)
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(rewrite(model), (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    report = compare_exported(model, opened(path), optimized=rewrite(model))
    assert 0 < report.difference.relative_largest < 1e-5
    assert report.agreement == 100
    files = [file for file in tmp_path.iterdir() if file.name.startswith("model.onnx")]
    assert report.file_size == sum(file.stat().st_size for file in files)
    assert report.original_size == sum(x.nbytes for x in model.state_dict().values())
    names = ["original", "exported", "optimized"]
    assert [(each.name, each.batch_size) for each in report.latencies] == [(n, size) for size in (1, 16) for n in names]
    assert all(each.low_ms <= each.median_ms <= each.high_ms for each in report.latencies)
    assert all(each.ratio == 1 for each in report.latencies if each.name == "original")
    assert report.versions["onnxruntime"] == onnxruntime.__version__
    show_parity(report)
    said = capsys.readouterr().out
    assert "model.onnx against" in said
    assert "within the tolerance of fp32" in said
    assert report.processor.name in said


class Cancelling(Brightness):
    """Adds a large number and takes it away again, so that in float32 the logits are only right to about 0.001."""

    def __init__(self, large=3e4):
        super().__init__()
        self.large = large

    def forward(self, x):
        return (super().forward(x) + self.large) - self.large


def test_float64_says_whether_rounding_explains_a_difference(tmp_path, capsys):
    model, other = Cancelling(), Cancelling(1e5)
    report = compare_exported(model, other, timed=False)
    images = torch.zeros(1, 3, 32, 32)
    assert report.difference.relative_largest > 1e-4
    assert 1e-4 < report.difference.rounding < 1.1e-3  # float32 near 30,000 has steps of 0.002
    assert report.within_tolerance
    show_parity(report)
    said = capsys.readouterr().out
    assert "within the tolerance of fp32" in said
    assert "rounding explains it: those of the original itself are up to 0.00" in said
    assert "rounding explains it" in write_parity_page(report, tmp_path / "page.html").read_text()
    write_parity(report, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["difference"]["rounding"] == report.difference.rounding
    wrong = compare_exported(model, lambda x: model(x) + 0.05, timed=False)
    assert wrong.difference.rounding < 1.1e-3
    assert wrong.problems
    assert not wrong.explanation
    assert compare_exported(model, model, timed=False).difference.rounding is None
    assert torch.equal(model(images), Cancelling()(images))  # it is a copy that was converted


def test_a_network_that_cannot_compute_in_float64_is_judged_without():
    class InFloat32(Brightness):
        def forward(self, x):
            return super().forward(x.float())

    model = InFloat32()
    report = compare_exported(model, lambda x: model(x) * 1.001, timed=False)
    assert report.difference.rounding is None
    assert report.problems


def test_infinite_outputs_are_beyond_any_tolerance(tmp_path, capsys):
    model = Brightness()
    report = compare_exported(model, lambda x: model(x) / 0, precision="int8", timed=False)
    assert not math.isfinite(report.difference.largest)
    assert conclude(report) == 3
    write_parity(report, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["difference"]["largest"] is None
    show_parity(report)
    assert "beyond the tolerance of int8: the exported network's outputs" in capsys.readouterr().out


def test_a_tolerance_that_is_given():
    model = Brightness()
    report = compare_exported(model, lambda x: model(x) * 1.001, tolerance=Tolerance(relative=0.01), timed=False)
    assert report.within_tolerance
    assert not compare_exported(model, lambda x: model(x) * 1.001, timed=False).within_tolerance


def test_what_cannot_be_compared():
    model = Brightness()
    with pytest.raises(SenetError, match="precision is 'int4'; expected one of fp32, "):
        compare_exported(model, model, precision="int4")
    with pytest.raises(SenetError, match=r"returns \(16, 9\) and the original \(16, 10\)"):
        compare_exported(model, lambda x: model(x)[:, :9], timed=False)
    with pytest.raises(SenetError, match="images is 0"):
        compare_exported(model, model, images=0)


def test_the_model_is_left_as_it_was():
    model = senet.create_model("cifar_se_resnet20").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compare_exported(model, lambda x: torch.zeros(len(x), 10), timed=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_times_are_medians_of_rounds_in_turn():
    """With a clock that says how long each call takes."""
    now, calls = [0.0], []

    def contestant(name, lengths):
        def run():
            calls.append(name)
            now[0] += lengths[(calls.count(name) - 1) % len(lengths)]

        return run

    first = contestant("original", [0.002])
    second = contestant("exported", [0.5, 0.001, 0.5, 0.003])  # the untimed calls are longer
    second()
    found = timing.latencies({"original": first, "exported": second}, 1, clock=lambda: now[0], seconds=0)
    assert found[0].rounds == timing.MIN_ROUNDS == 3
    assert found[0].median_ms == pytest.approx(2)
    assert found[1].median_ms == pytest.approx(3)
    assert found[1].low_ms == pytest.approx(2)  # of 1, 3 and 3
    assert found[1].ratio == pytest.approx(1.5)
    slow = timing.latencies({"original": first, "exported": contestant("slow", [0.3])}, 1, lambda: now[0], 0)
    assert slow[1].median_ms == pytest.approx(300)
    assert calls.count("slow") == 1 + timing.MIN_ROUNDS  # no untimed calls before those that take long
    assert calls[3:11] == ["original"] * 2 + ["exported"] * 4 + ["original"] * 2  # every other round goes backwards


X86 = "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\nflags\t\t: avx_vnni\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp sve\n"


@pytest.mark.parametrize(
    ("text", "name", "instructions", "has_int8"),
    [
        (X86, "Some CPU", ("AVX2", "AVX-512", "AVX-512 VNNI", "AMX int8"), True),
        (X86.replace("avx512_vnni amx_int8", "").replace("avx_vnni", ""), "Some CPU", ("AVX2", "AVX-512"), False),
        (ARM, None, ("NEON", "dot product", "SVE"), True),
        ("", None, (), None),
    ],
)
def test_the_processor(text, name, instructions, has_int8, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    found = machine.processor()
    assert found.name == name or name is None
    assert found.instructions == instructions
    assert found.has_int8 is has_int8
    assert found.threads == torch.get_num_threads()


def test_sizes_count_the_files_of_weights(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"x" * 10)
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    (tmp_path / "b.onnx").write_bytes(b"x" * 3)
    (tmp_path / "b.onnx.data").write_bytes(b"x" * 7)
    assert machine.size_of(tmp_path / "a.xml") == 110
    assert machine.size_of(tmp_path / "b.onnx") == 10
    assert machine.size_of(tmp_path) == 120
    assert parity_path(tmp_path / "a.xml") == tmp_path / "a.xml.parity.json"
