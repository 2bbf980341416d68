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

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch_export": ".pt2"}


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


@torch.no_grad()
def test_the_runtimes_alone_compute_the_files(network, tmp_path):
    wanted = network(images())
    senet.export(network, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    (found,) = session.run(["logits"], {"images": images().numpy()})
    assert relative(torch.from_numpy(found), wanted) < 1e-5
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    assert session.get_outputs()[0].shape == ["batch", 10]

    senet.export(network, tmp_path / "a.xml", to="openvino")
    compiled = openvino.compile_model(tmp_path / "a.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images().numpy()})["logits"]
    assert relative(torch.from_numpy(found), wanted) < 1e-5

    senet.export(network, tmp_path / "a.pt2", to="torch_export")
    assert relative(torch.export.load(tmp_path / "a.pt2").module()(images()), wanted) < 1e-5


def test_the_files_describe_themselves(network, tmp_path):
    senet.export(network, tmp_path / "a.onnx")
    said = json.loads({each.key: each.value for each in onnx.load(tmp_path / "a.onnx").metadata_props}["senet"])
    assert said["class_names"][0] == "airplane"
    assert said["preprocessing"]["mean"] == list(network.preprocessing.mean)
    assert said["source"]["network"] == "cifar_se_resnet20"
    assert torch.__version__.startswith(said["versions"]["torch"])
    senet.export(network, tmp_path / "a.xml", to="openvino")
    model = openvino.Core().read_model(tmp_path / "a.xml")
    assert json.loads(model.get_rt_info(["senet"]).astype(str))["class_names"] == said["class_names"]
    senet.export(network, tmp_path / "a.pt2", to="torch_export")
    extra = {"senet.json": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert json.loads(extra["senet.json"])["class_names"] == said["class_names"]


@torch.no_grad()
@pytest.mark.parametrize("to", SUFFIXES)
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
        senet.export("no_such_network", tmp_path / output, **options)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_commands_take_exported_files(network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "cifar_se_resnet20", "net.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == ["net.onnx"]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    assert main(["predict", "net.onnx", "photo.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]["classes"]
    (wanted,) = senet.predict(network, "photo.png")
    assert [each["class_name"] for each in found] == [each.class_name for each in wanted]
