"""The folder of `--to web`, without a browser: what is in it, the gates of its network, and what is refused."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import senet
from senet import SenetError
from senet.analysis.gates import find_blocks, gate_hooks
from senet.cli import main
from senet.deployment.config import ExportConfig
from senet.deployment.gate_outputs import WithGates, blocks_of, gate_layers
from senet.deployment.graph import plain_copy
from senet.deployment.onnxruntime_web import SCRIPT, WASM


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A folder that looks like onnxruntime-web."""
    folder = tmp_path_factory.mktemp("runtime")
    (folder / SCRIPT).write_bytes(b"/*! ONNX Runtime Web v1.2.3 */")
    (folder / WASM).write_bytes(b"\0asm")
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return senet.create_model("cifar_se_resnet20", pretrained=True).eval()


@pytest.fixture(scope="module")
def site(model, runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites") / "<my> site"
    named = senet.create_model("cifar_se_resnet20", pretrained=True).eval()
    named.class_names = tuple(f"<script>{name}" for name in model.class_names)
    senet.export(named, folder, to="web", onnxruntime_web=runtime)
    return folder


def normalized(pixels, model):
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.preprocessing.mean, model.preprocessing.std))
    return (pixels / 255 - mean) / std


def test_the_folder_has_all_that_the_page_names(site):
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    described = json.loads((site / "model.json").read_text())
    named = {each["name"] for each in described["files"].values()}
    assert files == {"index.html", "page.js", "page.css", "icon.svg", "model.json", *named}
    assert described["files"]["network"]["bytes"] == (site / "model.onnx").stat().st_size
    page = (site / "index.html").read_text()
    assert "<my>" not in page
    assert "--directory &#x27;&lt;my&gt; site&#x27;" in page
    assert "ONNX Runtime Web 1.2.3" in page
    assert "10 classes" in page
    assert "$" not in page
    assert described["class_names"][0] == "<script>airplane"


def test_the_network_takes_pixels_and_gives_logits_and_gates(site, model):
    session = onnxruntime.InferenceSession(site / "model.onnx")
    pixels = torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"images": pixels.numpy()}), strict=True))
    images = normalized(pixels.permute(0, 3, 1, 2), model)
    blocks, gates = find_blocks(model), {}
    with torch.no_grad(), gate_hooks(model, blocks, lambda block, value: gates.setdefault(block.name, value.numpy())):
        logits = model(images).numpy()
    assert np.abs(found.pop("logits") - logits).max() < 1e-4
    assert list(found) == [block.name for block in blocks]
    for name, values in found.items():
        assert values.shape == gates[name].shape
        assert np.abs(values - gates[name]).max() < 1e-5
    described = json.loads((site / "model.json").read_text())["gates"]
    assert [(each["name"], each["output"], each["channels"]) for each in described] == [
        (block.name, block.name, block.channels) for block in blocks
    ]


@pytest.mark.parametrize(
    "name",
    ["se_resnet50", "timm/mobilenetv3_small_050", "timm/legacy_seresnet18", "torchvision/mobilenet_v3_small"],
)
@pytest.mark.parametrize("rewritten", [True, False])
def test_gates_of_other_blocks(name, rewritten):
    torch.manual_seed(0)
    model = senet.create_model(name, num_classes=3).eval()
    blocks, expected = blocks_of(model), {}
    assert blocks
    network = plain_copy(model, rewritten=rewritten)
    module = WithGates(network, gate_layers(model, network, blocks))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), gate_hooks(model, blocks, lambda block, value: expected.setdefault(block.name, value)):
        logits = model(images)
        found = module(images)
    torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-4)
    for block, gates in zip(blocks, found[1:], strict=True):
        torch.testing.assert_close(gates, expected[block.name], rtol=1e-4, atol=1e-5)
    assert not any(layer._forward_hooks for layer, _ in module.layers)


def test_the_folder_is_opened_as_a_network(site, model):
    images = torch.randn(3, 3, 32, 32)
    prepared = normalized((images * 40 + 128).round().clamp(0, 255), model)  # of pixels, as a picture has them
    opened = senet.load_exported(site)
    with torch.no_grad():
        torch.testing.assert_close(opened(prepared), model(prepared), rtol=1e-4, atol=1e-4)


def test_the_folder_is_named_to_the_commands_as_any_network(site, tmp_path, capsys):
    Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "photo.png")
    said = []
    for network in ([str(site)], [str(site / "model.onnx")], ["--model", str(site)]):
        assert main(["predict", *network, str(tmp_path / "photo.png"), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preprocess": True}, "preprocess=True has no effect on web"),
        ({"batch_size": 2, "dynamic": ()}, "batch_size=2 has no effect on web"),
        ({"dynamic": ("height",)}, "dynamic=height has no effect on web"),
        ({"image_size": (32, 64)}, "a page cuts squares"),
        ({"to": "onnx", "onnxruntime_web": "folder"}, "onnxruntime_web='folder' has no effect on onnx"),
    ],
)
def test_options_without_effect(options, message):
    with pytest.raises(SenetError, match=message):
        ExportConfig(**{"to": "web", **options})


def test_an_export_that_fails_leaves_nothing(model, runtime, tmp_path):
    with pytest.raises(SenetError, match="there is no folder"):
        senet.export(model, tmp_path / "site", to="web", onnxruntime_web=tmp_path / "absent")
    four = senet.create_model("cifar_se_resnet20", in_channels=4)
    with pytest.raises(SenetError, match="a page takes RGB and gray pictures, but the network takes 4 channels"):
        senet.export(four, tmp_path / "site", to="web", onnxruntime_web=runtime)
    (tmp_path / "site").mkdir()
    with pytest.raises(SenetError, match="site exists already"):
        senet.export(model, tmp_path / "site", to="web")
    assert list(tmp_path.iterdir()) == [tmp_path / "site"]


def test_the_command(runtime, tmp_path, capsys):
    folder = tmp_path / "site"
    main(["export", "cifar_se_resnet20", str(folder), "--to", "web", "--onnxruntime-web", str(runtime)])
    assert f"{folder}: cifar_se_resnet20, 1." in capsys.readouterr().out
    assert (folder / "index.html").is_file()
