"""Detectors optimized for inference: the same boxes from a rewritten trunk and pyramid, and what is refused."""

import copy
import pickle

import pytest
import torch

import senet
from networks import randomize
from senet.optimization.rewriting import EarlyGate
from senet.optimization.runners import OpenVINORunner
from tiers import slow_except

CASES = (
    ("faster_rcnn", "cifar_se_resnet20", None),
    ("faster_rcnn", "cifar_resnet20", senet.SEOptions(reduction=4)),
    ("retinanet", "cifar_se_resnet20", None),
    ("faster_rcnn", "se_resnet50", None),
)


def detector(kind, trunk, se):
    torch.manual_seed(0)
    options = {"frozen_stages": 0, "norm": "train", "min_size": 96, "pyramid_channels": 32, "box_features": 32}
    if kind == "retinanet":
        del options["box_features"]
        options["score_thresh"] = 0.0
    model = getattr(senet, kind)(trunk, num_classes=3, se=se, **options)
    randomize(model)
    return model.eval()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 96, 128, generator=generator), torch.rand(3, 80, 64, generator=generator)]


@pytest.mark.parametrize(("kind", "trunk", "se"), CASES)
def test_it_computes_the_same_maps_from_fewer_layers(kind, trunk, se, images):
    model = detector(kind, trunk, se).double()
    fast = senet.optimize_for_inference(copy.deepcopy(model), backend="eager")
    x = torch.stack([image[:, :64, :64] for image in images]).double()
    with torch.no_grad():
        expected, maps = model.backbone(x), fast.backbone(x)
    assert list(maps) == list(expected)
    for name in expected:
        torch.testing.assert_close(maps[name].double(), expected[name], rtol=1e-5, atol=1e-5)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.backbone.modules())
    assert any(isinstance(module, EarlyGate) for module in fast.modules()) == (trunk == "se_resnet50")


@pytest.mark.parametrize("backend", slow_except(["eager"], ["eager", "auto", "openvino", "inductor"]))
def test_it_finds_the_same_boxes_also_as_a_copy(backend, images):
    model = detector(*CASES[0])
    fast = senet.optimize_for_inference(model, backend=backend)
    assert f"backend={backend}" in repr(fast)
    with torch.no_grad():
        expected = model(images)
        for each in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            for found, wanted in zip(each(images), expected, strict=True):
                torch.testing.assert_close(found["scores"], wanted["scores"], rtol=1e-3, atol=1e-4)
                # Scores that are equal but for rounding may change places, and the last be others.
                apart = torch.cdist(found["boxes"][:50], wanted["boxes"], p=torch.inf).amin(1)
                assert len(apart) == 50
                assert apart.max() < 0.01


@pytest.mark.slow
def test_openvino_compiles_once_for_all_sizes(images, monkeypatch):
    compiled = []
    usual = OpenVINORunner.compile
    monkeypatch.setattr(OpenVINORunner, "compile", lambda self, x: compiled.append(x.shape) or usual(self, x))
    model = detector(*CASES[1])
    fast = senet.optimize_for_inference(model, backend="openvino")
    with torch.no_grad():
        for n, height, width in ((1, 64, 96), (2, 96, 64), (5, 32, 32)):
            x = torch.rand(n, 3, height, width)
            found, expected = fast.backbone(x), model.backbone(x)
            for name, values in expected.items():
                torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)
    assert len(compiled) == 1


def test_it_detects_and_is_only_for_that(images, tmp_path):
    model = detector(*CASES[0])
    fast = senet.optimize_for_inference(model, backend="eager")
    picture = (images[0] * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    (found,), (expected,) = (senet.detect(each, picture, threshold=0.0) for each in (fast, model))
    assert len(found) == len(expected) > 0

    with pytest.raises(senet.SenetError, match="optimized for inference; train the detector"):
        fast.train()
    assert not any(module.training for module in fast.modules())
    with pytest.raises(senet.SenetError, match="optimized for inference; save the detector"):
        senet.save_pretrained(fast, tmp_path / "model")
    with pytest.raises(senet.SenetError, match="optimized for inference already"):
        senet.optimize_for_inference(fast, backend="eager")
    again = copy.deepcopy(fast)
    again.load_state_dict(fast.state_dict())
    assert model.train().training  # the detector itself is untouched
