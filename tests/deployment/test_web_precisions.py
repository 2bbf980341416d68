"""Pages whose network is stored or computed in less than float32: smaller, and in the browser the same as in Python."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import senet
from browsers import started
from deployment.page_in_browser import classified, computed, opened, smooth
from senet.analysis.gates import find_blocks
from senet.cli import main
from senet.deployment.onnxruntime_web import SCRIPT, WASM
from senet.deployment.static_quantization import layers_of
from static_sites import onnxruntime_web, served

PRECISIONS = ("fp32", "fp16", "int8_weights", "int8")
LARGEST = {"fp32": 1.0, "fp16": 0.6, "int8_weights": 0.4, "int8": 0.45}
"""Of the network's file, relative to float32: a half, a quarter, and what the graph itself takes."""
CHANGE = {"fp16": 0.002, "int8_weights": 0.05, "int8": 0.1}
"""Of the logits, relative, by the rounding of weights and activations."""


def pictures(number, side=32):
    generator = torch.Generator().manual_seed(0)
    soft = torch.nn.functional.interpolate(torch.rand(number, 3, 6, 6, generator=generator), side, mode="bicubic")
    return soft.clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def model():
    return senet.create_model("cifar_se_resnet20", pretrained=True).eval()


def exported(model, folder, precision, runtime):
    calibration = pictures(40) if precision == "int8" else None
    return senet.export(
        model, folder, to="web", precision=precision, calibration=calibration, onnxruntime_web=runtime, num_images=16
    )


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """The pages without a runtime that computes."""
    runtime = tmp_path_factory.mktemp("runtime")
    (runtime / SCRIPT).write_bytes(b"/*! ONNX Runtime Web v1.2.3 */")
    (runtime / WASM).write_bytes(b"\0asm")
    folder = tmp_path_factory.mktemp("pages")
    return {precision: exported(model, folder / precision, precision, runtime) for precision in PRECISIONS}


def outputs_of(folder, pixels):
    """The logits and gates of one picture (side, side, 3), by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"images": pixels[None]})


@pytest.mark.slow
def test_smaller_and_nearly_the_same(made, model):
    size = {precision: (each.path / "model.onnx").stat().st_size for precision, each in made.items()}
    images = pictures(12).permute(0, 2, 3, 1).numpy()
    exact = [outputs_of(made["fp32"].path, image) for image in images]
    for precision, change in CHANGE.items():
        assert size[precision] < LARGEST[precision] * size["fp32"], precision
        assert (
            json.loads((made[precision].path / "model.json").read_text())["files"]["network"]["bytes"]
            == size[precision]
        )
        found = [outputs_of(made[precision].path, image) for image in images]
        logits, wanted = (np.stack([each[0] for each in all_of]) for all_of in (found, exact))
        assert 1e-6 < np.linalg.norm(logits - wanted) / np.linalg.norm(wanted) < change, precision
        for outputs, true in zip(found, exact, strict=True):
            for gates, own in zip(outputs[1:], true[1:], strict=True):
                assert np.abs(gates - own).max() < change, precision


@pytest.mark.slow
def test_int8_leaves_the_gates_in_float_and_reports_on_blocks_and_gates(made, model):
    int8 = made["int8"]
    file = onnx.load(int8.path / "model.onnx")
    in_gates = [layer.node for layer in layers_of(onnx.load(made["fp32"].path / "model.onnx")) if layer.in_gate]
    assert len(in_gates) == 2 * len(find_blocks(model))
    dequantized = {name for node in file.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    layers = {node.name: set(node.input) & dequantized for node in file.graph.node if node.op_type in ("Conv", "Gemm")}
    assert not any(layers[name] for name in in_gates)
    assert all(len(read) >= 2 for name, read in layers.items() if name not in in_gates)
    assert int8.sensitivity is not None
    assert len(int8.sensitivity.layers) == len(layers) - len(in_gates)
    inner = int8.parity.inner
    assert (len(inner.blocks), [gate.name for gate in inner.gates]) == (9, [each.name for each in find_blocks(model)])
    assert inner.missing == ""
    assert int8.parity.precision == "int8"
    assert int8.parity.file_size == (int8.path / "model.onnx").stat().st_size
    assert json.loads(int8.path.with_name("int8.parity.json").read_text())["inner"]["gates"]
    assert "computes in int8 a probability" in (int8.path / "index.html").read_text()


@pytest.mark.slow
def test_the_command(model, tmp_path, capsys):
    (tmp_path / SCRIPT).write_bytes(b"/*! ONNX Runtime Web v1.2.3 */")
    (tmp_path / WASM).write_bytes(b"\0asm")
    for i in range(12):
        smooth(40, 40, seed=i).save(tmp_path / f"{i}.png")
    words = [str(tmp_path / "site"), "--to", "web", "--onnxruntime-web", str(tmp_path), "--keep-float", "1"]
    assert main(["export", "cifar_se_resnet20", *words, "--int8", "--calibrate", str(tmp_path / "*.png")]) == 0
    said = capsys.readouterr().out
    assert "layer alone in int8" in said
    assert said.count("stays in float") == 1
    assert "relative error" in said


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("profile"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS[1:])
def test_the_browser_computes_what_python_computes(precision, chromium, model, tmp_path):
    site = tmp_path / "site"
    exported(model, site, precision, onnxruntime_web(tmp_path))
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        smooth(90 + 40 * i, 301 - 30 * i, seed=i).save(path)
    with served(site) as (address, _):
        chromium.get_log("browser")
        opened(chromium, address)
        found = classified(chromium, *paths)
        shown = [row.text for row in chromium.find_elements("css selector", "li:first-child .gates tbody th")]
        said = [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert shown == [block.name for block in find_blocks(model)]
    assert said == []
    for path, result in zip(paths, found, strict=True):
        pixels, probabilities, gates = computed(model, path)
        assert result["pixels"] == pixels.tolist()
        logits, *own = outputs_of(site, pixels.reshape(32, 32, 3))
        same_file = np.exp(logits[0] - logits.max()) / np.exp(logits[0] - logits.max()).sum()
        # In int8 a last bit before rounding is a step of 1 / 255 after it.
        tolerance = 0.02 if precision == "int8" else 1e-5
        assert np.abs(np.array(result["probabilities"]) - same_file).max() < tolerance
        for ours, theirs, true in zip(result["gates"], own, gates, strict=True):
            assert np.abs(np.array(ours) - theirs[0]).max() < tolerance
            assert np.abs(np.array(ours) - true).max() < CHANGE[precision]
        first, second = np.sort(probabilities)[[-1, -2]]
        if first - second > 0.1:  # where the network itself is sure
            assert result["classes"][0]["index"] == probabilities.argmax()
