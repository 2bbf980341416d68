"""The weights of whole detectors that torchvision publishes find the same boxes in detectors of this library."""

import re

import pytest
import torch
from torchvision.models import _api, resnet50
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

import senet
from senet.detection import torchvision_weights as published
from senet.errors import HubError, SenetError

SIZES = {"min_size": 96, "max_size": 128}
TRUNKS = ("resnet50", "torchvision/resnet50")


def torchvision_s(name):
    """A detector of torchvision as its published weights run in it, with every value at random."""
    torch.manual_seed(0)
    body = resnet50(norm_layer=FrozenBatchNorm2d)
    if name == "fasterrcnn_resnet50_fpn":
        model = FasterRCNN(_resnet_fpn_extractor(body, 3), num_classes=91, box_score_thresh=0.0, **SIZES)
    else:
        backbone = _resnet_fpn_extractor(body, 3, [2, 3, 4], LastLevelP6P7(2048, 256))
        model = RetinaNet(backbone, num_classes=91, score_thresh=0.0, **SIZES)
        model.head.classification_head.cls_logits.weight.mul_(50)  # or all scores are one hundredth
    overwrite_eps(model, 0.0)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(1e-5, 1e-4)  # so small that eps is seen
            module.weight.copy_(module.running_var.sqrt() * torch.empty_like(module.weight).uniform_(0.3, 0.8))
    return model.eval()


def with_names_of_the_files(state):
    """The tensors under the names that the published files have."""
    old = {}
    for key, tensor in state.items():
        name = re.sub(r"(_blocks\.\d)\.0\.(\w+)$", r"\1.\2", key).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        name = re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", name)
        old[name] = tensor
    assert old.keys() != state.keys()
    return old


@pytest.fixture
def served(monkeypatch):
    """What torchvision fetches from its server."""
    files = {}
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda url, **_: files["state"])
    return files


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("name", published.DETECTORS)
def test_published_weights_find_the_same_boxes(name, trunk, served):
    expected = torchvision_s(name)
    served["state"] = with_names_of_the_files(expected.state_dict())
    build = getattr(senet, published.DETECTORS[name])
    all_boxes = {"box_score_thresh": 0.0} if name == "fasterrcnn_resnet50_fpn" else {"score_thresh": 0.0}
    model = build(trunk, weights=f"torchvision/{name}.COCO_V1", **SIZES, **all_boxes).eval()
    assert (model.num_classes, model.class_names[0], model.class_names[89]) == (90, "person", "toothbrush")
    images = [torch.rand(3, 80, 120), torch.rand(3, 100, 100)]
    for found, other in zip(model(images), expected(images), strict=True):
        assert len(found["boxes"]) >= 100
        torch.testing.assert_close(found["scores"], other["scores"], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found["boxes"][:20], other["boxes"][:20], rtol=1e-3, atol=1e-2)
        assert torch.equal(found["labels"][:20], other["labels"][:20])


@pytest.mark.slow
def test_for_other_classes_the_last_layers_start_at_random(served):
    expected = torchvision_s("fasterrcnn_resnet50_fpn")
    served["state"] = expected.state_dict()
    blocks = senet.SEOptions()
    model = senet.faster_rcnn(weights="torchvision/fasterrcnn_resnet50_fpn", num_classes=3, se=blocks, **SIZES)
    assert (model.num_classes, model.class_names) == (3, None)
    state = model.state_dict()
    assert torch.equal(state["roi_heads.box_head.fc6.weight"], expected.state_dict()["roi_heads.box_head.fc6.weight"])
    assert state["roi_heads.box_predictor.cls_score.weight"].shape == (4, 1024)
    again = senet.build_detector(model.config)
    again.load_state_dict(state)
    assert again.config == model.config


def test_eps_is_multiplied_into_the_weight():
    torch.manual_seed(0)
    var, weight, x = torch.rand(64) * 1e-4 + 1e-9, torch.rand(64) + 0.5, torch.rand(64)
    new = published.without_eps(weight, var, 1e-5)
    torch.testing.assert_close(x * new / (var + 1e-5).sqrt(), x * weight / var.sqrt(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: senet.faster_rcnn("se_resnet50", weights="torchvision/fasterrcnn_resnet50_fpn"),
            "weights is torchvision/fasterrcnn_resnet50_fpn, but trunk is 'se_resnet50'; expected 'resnet50'",
        ),
        (
            lambda: senet.retinanet(weights="torchvision/fasterrcnn_resnet50_fpn"),
            "but name is 'retinanet'; expected 'faster_rcnn'",
        ),
        (
            lambda: senet.faster_rcnn(weights="torchvision/fasterrcnn_resnet50_fpn_v2"),
            "only fasterrcnn_resnet50_fpn and retinanet_resnet50_fpn are read",
        ),
        (
            lambda: senet.faster_rcnn(weights="torchvision/fasterrcnn_resnet50_fpn.COCO_V2"),
            "torchvision has no weights 'COCO_V2' of fasterrcnn_resnet50_fpn; the nearest are COCO_V1",
        ),
        (
            lambda: senet.faster_rcnn(
                weights="torchvision/fasterrcnn_resnet50_fpn", trunk_options={"stride_on": "1x1"}
            ),
            "has weights for stride_on='3x3'; leave stride_on out",
        ),
        (
            lambda: senet.faster_rcnn(weights="torchvision/fasterrcnn_resnet50_fpn", layout="senet"),
            "layout='senet' has no effect on torchvision/fasterrcnn_resnet50_fpn",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_fetched(call, said):
    with pytest.raises(SenetError, match=re.escape(said)):
        call()


def test_a_server_that_cannot_be_reached(monkeypatch):
    def fail(url, **_):
        raise OSError("no route")

    monkeypatch.setattr(_api, "load_state_dict_from_url", fail)
    config = published.with_published(senet.DetectorConfig(), "fasterrcnn_resnet50_fpn")
    with pytest.raises(HubError, match=r"torchvision/fasterrcnn_resnet50_fpn cannot be fetched \(no route\)"):
        published.load_published(torch.nn.Identity(), "fasterrcnn_resnet50_fpn")
    assert config.num_classes == 90
