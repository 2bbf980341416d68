"""VGG-16: torchvision's network key for key, with SE after every non-linearity."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from networks import fresh_on_meta, num_parameters, on_meta, randomize
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.vgg import RecalibratedReLU
from senet.nn.block import SEBlock, SEOptions

WIDTHS = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


def test_the_keys_and_shapes_are_torchvisions():
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn().state_dict()
    ours = on_meta("vgg16_bn").state_dict()
    assert {key: tensor.shape for key, tensor in ours.items()} == {key: t.shape for key, t in theirs.items()}
    with_se = on_meta("se_vgg16_bn").state_dict()
    assert {key for key in with_se if ".se." not in key} == set(theirs)


def test_the_levels_of_the_pyramid_are_timms():
    with torch.device("meta"):
        theirs = timm.create_model("vgg16_bn", pretrained=False).feature_info
    keys = ("num_chs", "reduction", "module")
    assert on_meta("vgg16_bn").feature_info == [{key: level[key] for key in keys} for level in theirs]


def test_parameters_by_hand():
    convolutions = sum(9 * c_in * c_out + c_out + 2 * c_out for c_in, c_out in zip([3, *WIDTHS], WIDTHS, strict=False))
    linear = 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert num_parameters(on_meta("vgg16_bn")) == convolutions + linear == 138_365_992
    se = sum(2 * c * (c // 16) + c // 16 + c for c in WIDTHS)
    assert num_parameters(on_meta("se_vgg16_bn")) == convolutions + linear + se


def test_se_follows_every_relu_on_all_its_channels():
    model = on_meta("se_vgg16_bn")
    units = [(i, m) for i, m in enumerate(model.features) if isinstance(m, RecalibratedReLU)]
    assert [unit.se.channels for _, unit in units] == WIDTHS
    for i, unit in units:
        assert isinstance(model.features[i - 2], nn.Conv2d)
        assert unit.affine_before_se() == (model.features[i - 1],)
    assert not any(isinstance(m, nn.ReLU) for m in model.features)


@pytest.mark.parametrize(("stage", "indices"), [(1, (2, 5)), (3, (16, 19, 22)), (5, (36, 39, 42))])
def test_stages(stage, indices):
    model = on_meta("se_vgg16_bn", se=SEOptions(stages=(stage,)))
    assert tuple(i for i, m in enumerate(model.features) if isinstance(m, RecalibratedReLU)) == indices


@torch.no_grad()
def test_the_unit_by_its_formula():
    torch.manual_seed(0)
    norm, se = nn.BatchNorm2d(8).double(), SEBlock(8, 4).double()
    unit = RecalibratedReLU(nn.Sequential(norm), 0, se)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    z = x.clamp(min=0)
    hidden = (z.mean((2, 3)) @ se.fc1.weight.flatten(1).T + se.fc1.bias).clamp(min=0)
    gate = 1 / (1 + torch.exp(-(hidden @ se.fc2.weight.flatten(1).T + se.fc2.bias)))
    torch.testing.assert_close(unit(x), z * gate[:, :, None, None])
    assert [name for name, _ in unit.named_children()] == ["se"]
    assert unit.affine_before_se() == (norm,)


def test_the_norm_before_se_is_the_networks_own_after_copies_and_conversions():
    original = fresh_on_meta("se_vgg16_bn")
    for model in (copy.deepcopy(original), nn.SyncBatchNorm.convert_sync_batchnorm(original)):
        for i, unit in enumerate(model.features):
            if isinstance(unit, RecalibratedReLU):
                (norm,) = unit.affine_before_se()
                assert norm is model.features[i - 1]
    assert isinstance(norm, nn.SyncBatchNorm)


@torch.no_grad()
def test_the_head():
    torch.manual_seed(0)
    model = create_model("vgg16_bn", num_classes=3).eval()
    features = torch.randn(2, 512, 7, 7)
    first, second, last = (model.classifier[i] for i in (0, 3, 6))
    hidden = F.relu(second(F.relu(first(features.flatten(1)))))
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), hidden)
    torch.testing.assert_close(model.forward_head(features), last(hidden))
    assert model.forward_head(torch.randn(2, 512, 2, 3)).shape == (2, 3)  # other sizes are pooled to 7x7
    assert (model.num_features, model.head_hidden_size) == (512, 4096)
    model.reset_classifier(5)
    assert model.classifier[6].weight.shape == (5, 4096)


def test_dropout_is_after_both_hidden_layers():
    model = fresh_on_meta("vgg16_bn", dropout=0.3)
    assert [m.p for m in model.classifier if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    assert on_meta("vgg16_bn").dropout.p == 0.5
    torch.manual_seed(0)
    small = create_model("vgg16_bn", num_classes=0, dropout=0.5).train()
    randomize(small)
    zeros = (small.forward_head(torch.rand(4, 512, 7, 7)) == 0).float().mean()
    assert zeros > 0.6  # half by the last dropout, and half of the rest by the ReLU


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("se_vgg16_bn", {"se": SEOptions(stages=(0,))}, r"stages is \(0,\); expected a choice of \(1, 2, 3, 4, 5\)$"),
        ("se_vgg16_bn", {"se": SEOptions(placement="pre")}, "placement is 'pre'.* 'standard' only"),
        ("vgg16_bn", {"dropout": 2.0}, "dropout is 2.0"),
        ("vgg16_bn", {"stem_pool": "pad"}, "has no option 'stem_pool'"),
    ],
)
def test_bad_options(name, arguments, message):
    with pytest.raises(SenetError, match=message):
        fresh_on_meta(name, **arguments)
