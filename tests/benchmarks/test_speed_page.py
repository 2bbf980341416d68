"""What docs/speed.md says of a run of benchmarks/gpu.py."""

import pytest

from pages import speed_gpu

SETTING = {"errors": {}, "facts": {}, "milliseconds": {}}
STEP = {"kind": "training step", "batch": 256}


def times(**medians):
    return {name.replace("_", " "): [ms * scale for scale in (1.0, 1.1, 0.9)] for name, ms in medians.items()}


def of_networks(plain, se, senet):
    return times(timm_resnet50=plain, timm_seresnet50=se) | {"senet se_resnet50": times(x=senet)["x"]}


def of_inference(plain, se, senet):
    names = ("plain, senet inductor", "SE, compiled", "SE, senet inductor")
    return {name: [ms] for name, ms in zip(names, (plain, se, senet), strict=True)}


@pytest.fixture
def measured(monkeypatch):
    """Make the page read what the test appends to this list."""
    result = {
        "machine": {"accelerator": "a GPU"},
        "versions": {"torch": "2.11"},
        "date": "2026-11-27",
        "measured": [],
        "left_out": {},
    }
    monkeypatch.setattr(speed_gpu, "read", lambda name: result)
    return result["measured"]


def goals():
    """Return measured and reached of each goal."""
    rows = [line.split(" | ") for line in speed_gpu.gpu_goals_section().splitlines() if line.startswith("| ")]
    return [(row[2], row[3]) for row in rows[1:]]


def test_without_results_the_page_names_the_command(monkeypatch):
    monkeypatch.setattr(speed_gpu, "read", lambda name: None)
    assert "`make bench-gpu`" in speed_gpu.gpu_goals_section()
    assert goals() == [("not measured", "")] * 9
    assert speed_gpu.gpu_section() == ""


def test_goals_are_computed_from_the_results(measured):
    copies = {"gb_per_s": {}, "share_of_copy": {"moments": 0.9, "apply": 0.9, "sums": 0.9, "gradients": 0.9}}
    slow = {**copies, "share_of_copy": {**copies["share_of_copy"], "moments": 0.7}}
    shape = {"kind": "kernels", "channels": 64, "side": 7}
    measured += [
        {**SETTING, **STEP, "form": "eager", "facts": {
            "timm resnet50": {"peak_mb": 1000}, "senet se_resnet50": {"peak_mb": 1020}}},
        {**SETTING, **STEP, "form": "eager, one graph", "milliseconds": of_networks(60, 90, 54)},
        {**SETTING, **STEP, "form": "compiled", "milliseconds": of_networks(50, 60, 48)},
        {**SETTING, **STEP, "batch": 32, "form": "compiled", "milliseconds": of_networks(1, 1, 9)},
        {**SETTING, "kind": "inference", "batch": 1, "milliseconds": of_inference(0.5, 0.6, 0.54)},
        {**SETTING, "kind": "inference", "batch": 256, "milliseconds": of_inference(10, 11, 10.1)},
        {**SETTING, "kind": "senet.train", "facts": {"senet.train": {"images_per_s": [41_000, 42_000, 43_000]}}},
        {**SETTING, **shape, "batch": 256, "precision": "bf16", "facts": {"kernels": copies}},
        {**SETTING, **shape, "batch": 32, "precision": "bf16", "facts": {"kernels": slow}},
    ]  # fmt: skip
    assert goals() == [
        ("0.96 (0.96 to 0.96)", "yes"),
        ("0.80 (0.80 to 0.80)", "yes"),
        ("0.90 (0.90 to 0.90)", "no"),
        ("1.02", "no"),
        ("1.01", "no"),
        ("1.08", "yes"),
        ("0.90", "yes"),
        ("42,000", "yes"),
        ("0.70", "no"),
    ]
    text = speed_gpu.gpu_section()
    assert "a GPU; torch 2.11; 2026-11-27" in text
    assert "| timm resnet50 |  | 60.0 (1.00) | 50.0 (1.00) |  |  | 1,000 |" in text
    assert "| bf16, 32 x 64 x 7 x 7 | 0.70 | 0.90 | 0.90 | 0.90 |" in text


def test_failures_are_named(measured):
    measured.append(
        {**SETTING, **STEP, "name": "training step, batch 256", "errors": {"timm resnet50": "out of memory"}}
    )
    assert "- training step, batch 256: timm resnet50: out of memory\n" in speed_gpu.gpu_section()
    assert goals() == [("not measured", "")] * 9
