"""`senet.export` and `senet export` at less than float32: what is written, what it computes, and what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import senet
from senet.cli import main
from senet.errors import SenetError

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
NETWORK = "cifar_se_resnet20"


def pictures(number):
    generator = torch.Generator().manual_seed(0)
    soft = torch.nn.functional.interpolate(torch.rand(number, 3, 6, 6, generator=generator), 32, mode="bicubic")
    return soft.clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i, pixels in enumerate(pictures(12)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i:02d}.png")
    return folder


def expected():
    model = senet.create_model(NETWORK, pretrained=True).eval()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.preprocessing.mean, model.preprocessing.std))
    with torch.no_grad():
        return model((pictures(12) / 255 - mean) / std).numpy()


def error_of_pixels(path):
    """The change of the logits of a file that takes pixels, in ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = pictures(12).permute(0, 2, 3, 1).numpy()
    found = np.concatenate([session.run(None, {"images": pixels[i : i + 4]})[0] for i in (0, 4, 8)])
    return float(np.linalg.norm(found - expected()) / np.linalg.norm(expected()))


@pytest.mark.slow
def test_int8_from_pixels_in_batches_of_four(photos, tmp_path):
    made = senet.export(
        NETWORK,
        tmp_path / "int8.onnx",
        precision="int8",
        calibration=photos,
        keep_float=1,
        preprocess=True,
        dynamic=(),
        batch_size=4,
    )
    assert 1e-4 < error_of_pixels(made.path) < 0.1
    assert made.metadata["precision"] == "int8"
    costs = made.sensitivity
    assert len(costs.layers) == 20  # without the 18 of the gates
    assert costs.kept_float == (costs.layers[0].name,)
    assert not any(".se." in cost.name for cost in costs.layers)
    assert costs.images == 12


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8_weights"])
def test_weights_alone_from_pixels(precision, tmp_path):
    made = senet.export(NETWORK, tmp_path / "small.onnx", precision=precision, preprocess=True)
    assert 1e-6 < error_of_pixels(made.path) < 0.1
    assert made.sensitivity is None


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8_weights", "int8"])
def test_openvino(precision, photos, tmp_path):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    if precision != "fp16":
        pytest.importorskip("nncf", reason="nncf is not installed")
    calibration = photos if precision == "int8" else None
    made = senet.export(
        NETWORK, tmp_path / "a.xml", to="openvino", precision=precision, calibration=calibration, preprocess=True
    )
    compiled = openvino.compile_model(made.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(pictures(12).permute(0, 2, 3, 1).numpy())[0]
    assert 1e-6 < np.linalg.norm(found - expected()) / np.linalg.norm(expected()) < 0.1
    assert (tmp_path / "a.bin").stat().st_size < {"fp16": 600_000}.get(precision, 400_000)


@pytest.mark.slow
def test_int8_with_the_resize_inside(photos, tmp_path):
    made = senet.export(
        NETWORK, tmp_path / "any.onnx", precision="int8", calibration=photos, preprocess=True, resize=True
    )
    assert 1e-4 < error_of_pixels(made.path) < 0.1


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "finds its ranges on images, but there are none"),
        ({"precision": "int8", "calibration": "nowhere"}, "nowhere"),
        (
            {"precision": "int8", "calibration": torch.zeros(3, 3, 32, 32, dtype=torch.uint8)},
            "has 3 images; int8 needs",
        ),
        ({"precision": "int8", "calibration": torch.zeros(20, 1, 32, 32, dtype=torch.uint8)}, "1 channel, but"),
        ({"precision": "fp16", "calibration": "photos"}, "calibration has no effect with precision='fp16'"),
        ({"precision": "fp16", "keep_float": 1}, "keep_float=1 has no effect with precision='fp16'"),
        (
            {"precision": "int8", "keep_float": 20, "calibration": pictures(20)},
            "keep_float is 20, but the network has 20",
        ),
    ],
)
def test_what_is_refused(options, message, tmp_path):
    with pytest.raises(SenetError, match=message):
        senet.export(NETWORK, tmp_path / "a.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_table(photos, tmp_path, capsys):
    words = [NETWORK, str(tmp_path / "a.onnx"), "--int8", "--calibrate", str(photos), "--data", str(photos)]
    assert main(["export", *words, "--keep-float", "2"]) == 0
    said = capsys.readouterr().out
    assert "layer alone in int8" in said
    assert said.count("stays in float") == 2
    assert "On 12 calibration images. 10 layers that cost less are left out." in " ".join(said.split())


@pytest.mark.slow
def test_the_command_writes_the_table_as_json(photos, tmp_path, capsys):
    words = [NETWORK, str(tmp_path / "a.onnx"), "--int8", "--calibrate", str(photos), "--data", str(photos)]
    assert main(["export", *words, "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["sensitivity"]["layers"]
    assert len(layers) == 20
    assert {"name", "error", "changed", "accuracy"} == {*layers[0]}
