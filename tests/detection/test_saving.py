"""Detectors come back from their folders as they were; torchvision's weights give torchvision's boxes."""

import json
import re

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import senet
from senet.errors import SenetError
from senet.factory import unnamed
from senet.nn.attached import attached_blocks
from senet.weights.reading import read

TINY = {"num_classes": 3, "frozen_stages": 0, "norm": "train", "min_size": 64, "max_size": 96, "pyramid_channels": 16}


def tiny(trunk="cifar_se_resnet20", **settings):
    torch.manual_seed(0)
    model = senet.faster_rcnn(trunk, **{**TINY, "box_features": 32, **settings})
    model.class_names = ("disk", "square", "star")
    return model.eval()


@pytest.fixture
def images():
    torch.manual_seed(1)
    return [torch.rand(3, 64, 90), torch.rand(3, 80, 60)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@torch.no_grad()
def test_a_detector_comes_back_as_it_was(tmp_path, images):
    model = tiny()
    senet.save_pretrained(model, tmp_path / "one", {"ap": 12.5})
    again = senet.from_pretrained(tmp_path / "one")
    assert type(again) is type(model)
    assert (again.config, again.class_names, again.preprocessing) == (
        model.config,
        model.class_names,
        model.preprocessing,
    )
    assert not again.training
    assert_same(again(images), model(images))
    described = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (described["task"], described["metrics"]) == ("detection", {"ap": 12.5})
    card = (tmp_path / "one" / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card
    assert "3 kinds of objects" in card
    senet.save_pretrained(again, tmp_path / "two", {"ap": 12.5})
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert type(model).from_pretrained(tmp_path / "one").config == model.config


@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"trunk": "resnet18", "se": senet.SEOptions(reduction=8)},
        {"trunk": "timm/test_resnet"},
        {"trunk": "torchvision/resnet18", "se": senet.SEOptions()},
    ],
    ids=["inserted", "timm", "torchvision"],
)
def test_trunks_of_all_libraries_come_back(settings, tmp_path, images):
    model = tiny(**settings)
    senet.save_pretrained(model, tmp_path)
    again = senet.from_pretrained(tmp_path)
    assert again.config == model.config
    assert_same(again(images), model(images))


def test_what_does_not_fit_is_said(tmp_path):
    model = tiny()
    senet.save_pretrained(model, tmp_path)
    with pytest.raises(SenetError, match="holds a model for detection, not cifar_se_resnet20"):
        senet.create_model("cifar_se_resnet20", weights=tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text())
    described["detector"]["num_classes"] = 4
    path.write_text(json.dumps(described))
    with pytest.raises(SenetError, match=r"config.json and weights do not fit each other"):
        senet.from_pretrained(tmp_path)
    path.write_text(json.dumps({**described, "task": "segmentation"}))
    with pytest.raises(SenetError, match="its task is 'segmentation', which this version does not know; update senet"):
        senet.from_pretrained(tmp_path)
    model.roi_heads.box_predictor.cls_score = torch.nn.Linear(32, 9)
    with pytest.raises(SenetError, match=r"cannot be saved: roi_heads.box_predictor.cls_score.weight is not what"):
        senet.save_pretrained(model, tmp_path / "other")


@pytest.mark.slow
@torch.no_grad()
def test_torchvision_s_weights_give_torchvision_s_boxes():
    torch.manual_seed(0)
    sizes = {"min_size": 128, "max_size": 192}
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=6, **sizes).eval()
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    config = senet.DetectorConfig(
        trunk="resnet50",
        trunk_options={"stride_on": "3x3", "stem_pool": "pad"},
        num_classes=5,
        min_size=(128,),
        max_size=192,
    )
    ours = senet.build_detector(config).eval()
    ours.load_state_dict(theirs.state_dict())
    ours.transform.image_mean, ours.transform.image_std = theirs.transform.image_mean, theirs.transform.image_std
    images = [torch.rand(3, 100, 150), torch.rand(3, 128, 128)]
    for one, other in zip(ours(images), theirs(images), strict=True):
        assert len(one["boxes"]) > 10
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-4, atol=1e-5)


def test_what_classifies_says_that_a_detector_does_not(tmp_path, images):
    senet.save_pretrained(tiny(), tmp_path)
    for call in (
        lambda: senet.evaluate(tmp_path, "digits"),
        lambda: senet.compare([tmp_path], "digits"),
        lambda: senet.record_excitations(tmp_path, "digits"),
    ):
        with pytest.raises(SenetError, match="is a model for detection and classifies no images; `senet evaluate` and"):
            call()
    assert "holds a model for detection, which classifies no images; name a network" in unnamed(read(tmp_path))


@torch.no_grad()
@pytest.mark.parametrize("trunk", ["cifar_resnet20", "torchvision/resnet18"])
def test_blocks_inserted_into_a_detector_are_saved_with_it(trunk, tmp_path, images):
    model = tiny(trunk)
    before = model(images)
    senet.insert_se(model, senet.SEOptions(reduction=8))
    assert_same(model(images), before)
    for block in attached_blocks(model).values():
        torch.nn.init.normal_(block.fc2.bias)
    senet.save_pretrained(model, tmp_path / "with")
    again = senet.from_pretrained(tmp_path / "with")
    assert_same(again(images), model(images))
    assert again.config.surgery.inserted_se.reduction == 8
    assert f"{len(again.config.surgery.inserted)} SE blocks were inserted" in (tmp_path / "with/README.md").read_text()
    senet.remove_se(again)
    senet.save_pretrained(again, tmp_path / "without")
    assert_same(senet.from_pretrained(tmp_path / "without")(images), before)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_torchscript_is_refused_and_changes_nothing(images):
    model = tiny()
    before = model(images)
    with pytest.raises(SenetError, match=r"FasterRCNN cannot become TorchScript"):
        torch.jit.script(model)
    assert_same(model(images), before)


@pytest.mark.parametrize(
    ("option", "here"),
    [
        ({"pretrained": True}, "pretrained is unknown; here that is weights"),
        ({"trainable_backbone_layers": 3}, "here that is frozen_stages (3 trainable layers are 2 frozen stages)"),
        ({"backbone": "resnet50"}, "backbone is unknown; here that is trunk"),
        ({"imgsz": 640}, "imgsz is unknown; here that is min_size"),
    ],
)
def test_names_of_torchvision_are_answered(option, here):
    with pytest.raises(SenetError, match=re.escape(here)):
        tiny(**option)
