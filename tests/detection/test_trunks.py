"""Trunks of detectors: what is frozen stays so, and the fused operators serve it."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import senet
from senet.errors import SenetError
from senet.nn.fused import set_fused

SMALL = {"min_size": (64,), "max_size": 96, "pyramid_channels": 16, "box_features": 32, "num_classes": 2}
TARGET = {"boxes": torch.tensor([[4.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([2])}


class Calls(TorchDispatchMode):
    """Counts the operators of this library."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace.startswith("senet"):
            self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


def detector(trunk, **settings):
    torch.manual_seed(0)
    model = senet.build_detector(senet.DetectorConfig(trunk=trunk, **{**SMALL, **settings}))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model


def step(model, dtype=torch.float32):
    torch.manual_seed(1)
    image = torch.rand(3, 64, 80, dtype=dtype)
    target = {name: x.to(dtype) if x.is_floating_point() else x for name, x in TARGET.items()}
    torch.manual_seed(2)
    losses = model([image], [target])
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("norm", ["frozen", "train"])
def test_a_training_step_calls_the_fused_operators(norm):
    """In the two stages whose maps are large enough; on small ones few operations of PyTorch are faster."""
    model = detector("se_resnet18", norm=norm, min_size=(320,), max_size=400)
    with Calls() as calls:
        step(model)
    assert calls.names.count("apply") >= 4


@pytest.mark.parametrize("trunk", ["resnet18", "se_resnet18"])
def test_the_gradients_of_frozen_batchnorm_are_those_of_the_layers(trunk):
    found = []
    for fused in (True, False):
        model = detector(trunk).double()
        set_fused(model.backbone.body, fused)
        losses = step(model, torch.float64)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append(({name: loss.detach() for name, loss in losses.items()}, gradients))
    (losses, gradients), (other_losses, other_gradients) = found
    torch.testing.assert_close(losses, other_losses, rtol=1e-9, atol=1e-12)
    assert gradients.keys() == other_gradients.keys()
    torch.testing.assert_close(gradients, other_gradients, rtol=1e-7, atol=1e-10)


def test_what_is_frozen_stays_as_it_is_through_modes_and_steps():
    model = detector("se_resnet18", frozen_stages=2)
    frozen = {name: x.clone() for name, x in model.backbone.body.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for mode in (False, True):
        model.train(mode)
    step(model)
    optimizer.step()
    changed = {name for name, x in model.backbone.body.state_dict().items() if not torch.equal(x, frozen[name])}
    norms = {name for name, m in model.backbone.body.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert changed
    assert not {name for name in changed if name.startswith(("conv1", "bn1", "layer1"))}
    assert not {name for name in changed if name.rpartition(".")[0] in norms}
    assert any(name.startswith("layer2") for name in changed)
    assert any(".se." in name for name in changed)


def test_all_is_trained_where_nothing_is_frozen():
    model = detector("se_resnet18", frozen_stages=0, norm="train")
    step(model)
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    "trunk",
    [
        *("cifar_preact_resnet110", "mobilenet_v1", "se_bn_inception"),
        *("timm/test_resnet", "timm/test_efficientnet", "timm/test_convnext"),
        *("torchvision/regnet_y_400mf", "torchvision/mobilenet_v3_small", "torchvision/densenet121"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg16_bn", "timm/resnetv2_50", "senet154")),
    ],
)
def test_every_parameter_of_a_trunk_gets_a_gradient(trunk):
    """DistributedDataParallel waits for those that get none."""
    model = detector(trunk, frozen_stages=0, norm="train")
    model.backbone.body.eval()  # a batch of one small image has no statistics in the last stage
    maps = model.backbone(torch.rand(1, 3, 64, 96)).values()
    sum(x.square().sum() for x in maps).backward()
    assert [name for name, p in model.backbone.named_parameters() if p.grad is None] == []
    sides = [tuple(x.shape[2:]) for x in maps]
    assert all(2 * h in (a, a + 1) and 2 * w in (b, b + 1) for (a, b), (h, w) in pairwise(sides))
    assert senet.build_detector(model.config).state_dict().keys() == model.state_dict().keys()


def test_inserted_blocks_keep_the_outputs():
    plain, se = detector("resnet18"), detector("resnet18", se=senet.SEOptions(reduction=8))
    se.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(3, 64, 80)
    for model in (plain, se):
        model.eval()
    with torch.no_grad():
        for name, x in plain.backbone(image[None]).items():
            torch.testing.assert_close(se.backbone(image[None])[name], x, rtol=0, atol=0)
    inserted = [m for m in se.modules() if isinstance(m, senet.ExcitationBlock)]
    assert len(inserted) == 6  # none in the frozen first stage


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trunk": "resnet51"}, "resnet51"),
        ({"trunk": "timm/vit_tiny_patch16_224"}, "makes no pyramid of feature maps .*; take a convolutional network"),
        (
            {"trunk": "timm/hrnet_w18_small"},
            "frozen_stages is 2, but the stages of timm/hrnet_w18_small cannot be told",
        ),
        ({"trunk": "torchvision/swin_t"}, r"features.1 returns \(1, 32, 48, 96\) .*; take a convolutional network"),
        ({"trunk": "resnet18", "frozen_stages": 9}, "frozen_stages is 9; resnet18 has 5 stages"),
        ({"trunk": "resnet18", "options": {"box_nms_tresh": 0.5}}, "'box_nms_tresh', which .* box_nms_thresh"),
        ({"trunk": "resnet18", "anchor_sizes": (8, 16)}, "anchor_sizes is .*; expected 5 lengths"),
        ({"trunk": "resnet18", "num_classes": None}, "num_classes is missing"),
        ({"trunk": "resnet18", "min_size": (900,)}, r"min_size is \(900,\) and max_size 96"),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(SenetError, match=said):
        senet.build_detector(senet.DetectorConfig(**{**SMALL, **settings}))


def test_a_trunk_at_random_is_not_kept_at_random():
    with pytest.raises(SenetError, match="resnet18 has no weights and would be kept at random; pass weights="):
        senet.faster_rcnn("resnet18", num_classes=2)
    senet.faster_rcnn("resnet18", num_classes=2, frozen_stages=0, norm="train")


@pytest.mark.parametrize(("beta", "errors"), [(1 / 9, (0.05, 0.5)), (1.0, (0.5, 3.0))])
def test_smooth_l1_by_hand(beta, errors):
    from senet.detection.heads import box_loss

    small, large = errors
    expected = small**2 / (2 * beta) + large - beta / 2
    found = box_loss(torch.tensor([small, large]), torch.zeros(2), beta)
    assert found.item() == pytest.approx(expected)


def test_the_betas_are_detectron_s_and_can_be_changed():
    model = detector("resnet18")
    assert (model.rpn.beta, model.roi_heads.beta) == (1 / 9, 1.0)
    other = detector("resnet18", box_beta=1 / 9)
    assert other.roi_heads.beta == 1 / 9
    one, two = (step(m)["loss_box_reg"] for m in (model, other))
    assert two >= one


def test_retinanet_trains_and_finds():
    sizes = {name: value for name, value in SMALL.items() if name != "box_features"}
    model = senet.retinanet("cifar_se_resnet20", frozen_stages=0, norm="train", **sizes)
    losses = step(model)
    assert set(losses) == {"classification", "bbox_regression"}
    assert sorted(model.eval()([torch.rand(3, 64, 64)])[0]) == ["boxes", "labels", "scores"]


def test_a_step_in_bfloat16():
    model = detector("se_resnet18")
    with torch.autocast("cpu", torch.bfloat16):
        losses = step(model)
    exact = step(detector("se_resnet18"))
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact[name], rtol=0.1, atol=0.05)


def test_a_detector_in_bfloat16_finds_what_it_finds_in_single_precision():
    """Its boxes stay float32, and its regions are pooled from maps of fewer bits."""
    model = detector("cifar_se_resnet20", frozen_stages=0, options={"box_score_thresh": 0.0}).eval()
    image = torch.rand(3, 64, 80)
    with torch.no_grad():
        expected = model([image])[0]
        found = model.to(torch.bfloat16)([image.to(torch.bfloat16)])[0]
    assert found["boxes"].dtype == torch.float32
    assert len(found["boxes"])
    assert abs(found["scores"].max() - expected["scores"].max()) < 0.02


def test_images_without_boxes_and_proposals_have_a_loss():
    model = detector("cifar_se_resnet20", frozen_stages=0, options={"rpn_score_thresh": 1.0})
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model([torch.rand(3, 64, 80)], [nothing])
    assert losses["loss_classifier"] == losses["loss_box_reg"] == 0
    sum(losses.values()).backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in model.parameters() if x.requires_grad)


@pytest.mark.parametrize("trunk", ["se_resnet18", "timm/resnet18"])
def test_weights_without_a_classifier_are_enough_for_a_trunk(trunk, tmp_path):
    body = senet.create_model(trunk)
    state = {key: x for key, x in body.state_dict().items() if not key.startswith(("fc.", "classifier."))}
    torch.save({f"backbone.{key}": x for key, x in state.items()}, tmp_path / "body.pth")
    model = senet.faster_rcnn(trunk, weights=tmp_path / "body.pth", **SMALL)
    own = model.backbone.body.state_dict()
    assert all(torch.equal(own[key], x) for key, x in state.items() if key in own)
    state.popitem()
    state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(SenetError, match=r"less.pth"):
        senet.faster_rcnn(trunk, weights=tmp_path / "less.pth", **SMALL)
