"""Exported files compute what the network computes, in every runtime, whole or not at all."""

import json

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

import senet
from senet.cli import main
from senet.errors import SenetError
from tiers import slow_except

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}


@pytest.fixture(scope="module", autouse=True)
def timed_twice():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("senet.deployment.timing.MIN_ROUNDS", 2)
        patch.setattr("senet.deployment.timing.MAX_ROUNDS", 2)
        yield


@pytest.fixture(scope="module")
def network():
    return senet.from_pretrained("cifar_se_resnet20")


def images(number=3, size=32, channels=3):
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(0))


def relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.fixture(scope="module", params=SUFFIXES)
def exported(request, network, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / f"network{SUFFIXES[request.param]}"
    return senet.export(network, path, to=request.param)


@torch.no_grad()
def test_any_batch_gives_the_logits_of_the_network(exported, network):
    opened = senet.load_exported(exported.path)
    for number in (1, 3, 16):
        assert relative(opened(images(number)), network(images(number))) < 1e-5
    assert opened.class_names == network.class_names
    assert opened.preprocessing == network.preprocessing
    assert opened.num_classes == 10


def computed_alone(path, x):
    """Compute a file with its runtime, as people without this library do; return the logits and our metadata."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
        assert session.get_outputs()[0].shape == ["batch", 10]
        metadata = {each.key: each.value for each in onnx.load(path).metadata_props}["senet"]
        return session.run(["logits"], {"images": x.numpy()})[0], metadata
    if path.suffix == ".xml":
        model = openvino.Core().read_model(path)
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return compiled({"images": x.numpy()})["logits"], model.get_rt_info(["senet"]).astype(str)
    extra = {"senet.json": ""}
    return torch.export.load(path, extra_files=extra).module()(x).numpy(), extra["senet.json"]


@torch.no_grad()
def test_the_runtimes_alone_compute_the_files_which_describe_themselves(exported, network):
    found, metadata = computed_alone(exported.path, images())
    assert relative(torch.from_numpy(found), network(images())) < 1e-5
    said = json.loads(metadata)
    assert said == exported.metadata
    assert said["class_names"][0] == "airplane"
    assert said["preprocessing"]["mean"] == list(network.preprocessing.mean)
    assert said["source"]["network"] == "cifar_se_resnet20"
    assert torch.__version__.startswith(said["versions"]["torch"])


@torch.no_grad()
@pytest.mark.parametrize("to", slow_except(["onnx"], SUFFIXES))
def test_pixels_in_the_file_are_normalized_inside(to, network, tmp_path):
    path = senet.export(network, tmp_path / f"a{SUFFIXES[to]}", to=to, preprocess=True).path
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).double() for v in (network.preprocessing.mean, network.preprocessing.std))
    normalized = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2).float()
    opened = senet.load_exported(path)
    assert relative(opened.run_file(pixels)[0], network(normalized)) < 1e-5
    assert relative(opened(normalized), network(normalized)) < 1e-5  # which undoes the normalization first
    assert opened.metadata["input"]["shape"] == ["batch", 32, 32, 3]


@torch.no_grad()
def test_a_fixed_batch_takes_any_number_through_load_exported(network, tmp_path):
    path = senet.export(network, tmp_path / "a.onnx", dynamic=(), batch_size=4).path
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == [4, 3, 32, 32]
    for number in (1, 4, 6):
        assert relative(senet.load_exported(path)(images(number)), network(images(number))) < 1e-5
    with pytest.raises(SenetError, match=r"a\.onnx takes images of 32 rows, not 40"):
        senet.load_exported(path)(images(1, 40))


def test_an_export_that_fails_leaves_nothing(network, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.export.save", fails)
    with pytest.raises(SenetError, match="No space left"):
        senet.export(network, tmp_path / "a.pt2", to="torch_export")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("a.xml", {}, r"a\.xml does not end in \.onnx, as files of onnx do; name it so, or choose to='openvino'"),
        ("a", {}, r"a does not end in \.onnx"),
        ("there.onnx", {}, r"there\.onnx exists already; name another output, or remove it"),
        ("there.xml", {"to": "openvino"}, r"there\.bin exists already"),
        ("a.onnx", {"resize": True}, "resize=True has no effect without preprocess=True"),
        ("a.onnx", {"batch_size": 4}, "batch_size=4 has no effect on a dynamic batch"),
        ("a.xml", {"to": "openvino", "opset": 18}, "opset=18 has no effect on openvino"),
        ("a.onnx", {"opset": 11}, "opset is 11; expected 18 to 23"),
        ("a.onnx", {"keep_float": 2}, "keep_float=2 has no effect with precision='fp32'"),
        ("a.onnx", {"to": "onxx"}, "to is 'onxx'; expected one of onnx, openvino, "),
        ("a.onnx", {"dynamic": ("channels",)}, "dynamic is 'channels'; expected one of batch, height, width"),
    ],
)
def test_bad_input_is_refused_before_any_work(output, options, said, tmp_path):
    (tmp_path / "there.onnx").touch()
    (tmp_path / "there.bin").touch()
    with pytest.raises(SenetError, match=said):
        senet.export("no_such_network", tmp_path / output, **{"data": "no_such_data", **options})
    assert len(list(tmp_path.iterdir())) == 2


def test_the_commands_take_exported_files(network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "cifar_se_resnet20", "net.onnx", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == ["net.onnx", "net.onnx.parity.json"]
    assert said["parity"].items() < json.loads((tmp_path / "net.onnx.parity.json").read_text()).items()
    assert said["parity"]["within_tolerance"]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    for name in ("cat", "ship"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name / "0.png")
    assert main(["predict", "net.onnx", "photo.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]["classes"]
    (wanted,) = senet.predict(network, "photo.png")
    assert [each["class_name"] for each in found] == [each.class_name for each in wanted]
    assert main(["evaluate", "net.onnx", "--data", "pictures", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    own = senet.evaluate(network, "pictures")
    assert (measured["num_images"], measured["top1"]) == (own.num_images, own.top1)
    assert measured["loss"] == pytest.approx(own.loss, rel=1e-5)
