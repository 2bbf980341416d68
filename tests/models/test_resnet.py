"""The residual networks: the authors' details, initialization, and what PyTorch does with them."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from networks import fresh_on_meta, num_parameters, on_meta
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.catalog import list_models, model_card
from senet.models.residual import (
    PadShortcut,
    ResidualUnit,
)
from senet.models.resnet import cifar_resnet, imagenet_resnet, wide_resnet
from senet.nn.block import SEBlock, SEOptions
from tiers import slow_except

NO_BIAS = SEOptions(bias=False)
BUILDERS = (imagenet_resnet, cifar_resnet, wide_resnet)
RESNETS = [name for name in list_models() if getattr(model_card(name).build, "func", None) in BUILDERS]

# For each kind of unit with a last norm a network of one unit a stage, the ImageNet ones cut after two stages.
SMALL = {
    "basic": partial(cifar_resnet, 8),
    "bottleneck": partial(imagenet_resnet, (1, 1)),
    "senet": partial(
        imagenet_resnet,
        (1, 1),
        groups=64,
        width_per_group=4,
        entry_divisor=2,
        projection_kernel=3,
        deep=True,
        stride_on="3x3",
    ),
}


# ---- structure -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [(2,), (5,), (3, 4), (2, 3, 4, 5)])
def test_se_sits_in_the_chosen_stages_only(stages):
    model = on_meta("se_resnet50", se=SEOptions(stages=stages))
    with_se = {name.split(".")[0] for name, m in model.named_modules() if isinstance(m, SEBlock)}
    assert with_se == {f"layer{stage - 1}" for stage in stages}
    for stage in stages:
        assert all(isinstance(unit.se, SEBlock) for unit in model.get_submodule(f"layer{stage - 1}"))


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("name", RESNETS)
def test_number_of_se_blocks(name):
    model = on_meta(name)
    units = [m for m in model.modules() if isinstance(m, ResidualUnit)]
    blocks = [m for m in model.modules() if isinstance(m, SEBlock)]
    assert len(blocks) == (len(units) if "se_" in name or name == "senet154" else 0)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("placement", ["pre", "post", "identity", "3x3"])
@pytest.mark.parametrize("name", ["se_resnet50", "cifar_se_resnet20", "cifar_se_preact_resnet164"])
def test_placement_reaches_every_unit(name, placement):
    model = on_meta(name, se=SEOptions(placement=placement))
    assert {m.placement for m in model.modules() if isinstance(m, ResidualUnit)} == {placement}


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("se_resnet50", {}, (2, 1)),
        ("resnet101", {}, (2, 1)),
        ("se_resnet50", {"stride_on": "3x3"}, (1, 2)),
        ("se_resnext50_32x4d", {}, (1, 2)),
        ("se_resnext50_32x4d", {"stride_on": "1x1"}, (2, 1)),
        ("senet154", {}, (1, 2)),
    ],
)
def test_stride_on(name, options, strides):
    model = on_meta(name, **options)
    for i in (1, 2, 3, 4):
        for j, unit in enumerate(model.get_submodule(f"layer{i}")):
            strided = i > 1 and j == 0
            assert (unit.conv1.stride[0], unit.conv2.stride[0]) == (strides if strided else (1, 1))
            assert unit.conv3.stride[0] == 1
            assert (unit.downsample is None) == (j > 0)
            if j == 0:
                assert unit.downsample[0].stride[0] == (2 if strided else 1)


def test_stem_pool():
    x = torch.arange(36.0).view(1, 1, 6, 6)

    def rows_and_columns(stem_pool: str) -> list[float]:
        return on_meta("resnet18", stem_pool=stem_pool).maxpool(x)

    # windows 0-2, 2-4, 4-5 without padding; 0-1, 1-3, 3-5 with
    for stem_pool, last in (("ceil", (2, 4, 5)), ("pad", (1, 3, 5))):
        expected = torch.tensor([[[[6.0 * row + column for column in last] for row in last]]])
        assert torch.equal(rows_and_columns(stem_pool), expected)
    assert torch.equal(on_meta("resnet18").maxpool(x), rows_and_columns("ceil"))


@pytest.mark.parametrize(
    ("stem_pool", "size", "features"),
    [
        ("ceil", (224, 224), (7, 7)),
        ("pad", (224, 224), (7, 7)),
        # 65 -> 33, then 16 without padding and 17 with
        ("ceil", (65, 97), (2, 3)),
        ("pad", (65, 97), (3, 4)),
    ],
)
def test_feature_map_of_an_imagenet_network(stem_pool, size, features):
    model = fresh_on_meta("resnet18", stem_pool=stem_pool).eval()
    shape = model.forward_features(torch.empty(1, 3, *size, device="meta")).shape
    assert shape == (1, 512, *features)


def test_senet154():
    model = on_meta("senet154")
    stem = [m for m in model.conv1 if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in stem] == [
        (3, 64, 3, 2),
        (64, 64, 3, 1),
        (64, 128, 3, 1),
    ]
    for i, (units, entry, width) in enumerate(
        zip((3, 8, 36, 3), (128, 256, 512, 1024), (256, 512, 1024, 2048), strict=True)
    ):
        stage = model.get_submodule(f"layer{i + 1}")
        assert len(stage) == units
        for unit in stage:
            assert unit.conv1.out_channels == entry
            assert (unit.conv2.in_channels, unit.conv2.out_channels, unit.conv2.groups) == (entry, width, 64)
            assert unit.conv3.out_channels == 256 * 2**i
            assert unit.se.fc1.bias is not None
        kernel = 1 if i == 0 else 3
        assert stage[0].downsample[0].kernel_size == (kernel, kernel)
        assert stage[0].downsample[0].padding == (kernel // 2, kernel // 2)
    assert model.dropout.p == 0.2


def test_wide_resnet():
    """WRN-16-8 by the tables of its paper: widths, projections wherever the shape changes, 11.0 M parameters."""
    model = on_meta("cifar_wrn16_8")
    count, channels = 27 * 16, 16
    for stage, width in ((model.layer1, 128), (model.layer2, 256), (model.layer3, 512)):
        stride = 1 if width == 128 else 2
        first, second = stage
        shapes = [tuple(m.weight.shape) for m in (first.downsample, first.conv1, first.conv2, second.conv1)]
        assert shapes == [(width, channels, 1, 1), (width, channels, 3, 3), *[(width, width, 3, 3)] * 2]
        assert first.downsample.stride == first.conv1.stride == (stride, stride)
        assert first.bn1.num_features == channels
        assert second.downsample is None
        count += channels * width + 9 * channels * width + 3 * 9 * width**2 + 2 * channels + 3 * 2 * width
        channels = width
    count += 2 * 512 + 512 * 10 + 10
    assert num_parameters(model) == count
    assert round(count / 1e6, 1) == 11.0
    added = num_parameters(on_meta("cifar_se_wrn16_8")) - count
    assert added == sum(2 * (2 * c * c // 16 + c + c // 16) for c in (128, 256, 512))
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 16


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_se_resnet56"])
def test_shortcut(name):
    """Option B: 1x1 convolution and BatchNorm where the width doubles, under the keys of senet.pytorch."""
    padded = on_meta(name)
    projected = on_meta(name, shortcut="projection")
    new = set(projected.state_dict()) - set(padded.state_dict())
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert new == {
        f"layer{stage}.0.downsample.{key}"
        for stage in (2, 3)
        for key in ("0.weight", *(f"1.{leaf}" for leaf in leaves))
    }
    assert num_parameters(projected) - num_parameters(padded) == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    for stage in (2, 3):
        assert isinstance(padded.get_submodule(f"layer{stage}")[0].downsample, PadShortcut)
        assert projected.get_submodule(f"layer{stage}")[0].downsample[0].stride == (2, 2)
    assert set(on_meta(name, shortcut="pad").state_dict()) == set(padded.state_dict())


def test_dropout_is_senet154s_alone():
    for name in ("resnet18", "se_resnet50", "se_resnext101_32x4d", "cifar_se_resnet20", "cifar_preact_resnet164"):
        assert on_meta(name).dropout.p == 0
    assert on_meta("resnet18", dropout=0.3).dropout.p == 0.3
    assert on_meta("cifar_resnet20", dropout=0.3).dropout.p == 0.3
    assert on_meta("senet154", dropout=0.0).dropout.p == 0


def test_dropout_acts_on_the_classifiers_input():
    torch.manual_seed(0)
    model = cifar_resnet(8, dropout=0.5)
    features = torch.ones(64, 64, 2, 2)
    nn.init.constant_(model.fc.weight, 1.0)
    assert torch.equal(model.eval().forward_head(features), torch.full((64, 10), 64.0))
    logits = model.train().forward_head(features)
    assert torch.equal(logits % 2, torch.zeros_like(logits))  # each kept feature counts twice
    assert torch.equal(logits, logits[:, :1].expand_as(logits))  # every class sees the same features
    assert ((logits > 32) & (logits < 96)).all()


def test_only_se_and_the_classifier_have_biases():
    for name in ("se_resnet50", "senet154", "cifar_se_resnet20", "cifar_se_preact_resnet164"):
        for key, module in on_meta(name).named_modules():
            if isinstance(module, nn.Conv2d):
                assert (module.bias is not None) == (".se." in key), key
            if isinstance(module, nn.BatchNorm2d):
                assert module.eps == 1e-5


# ---- initialization --------------------------------------------------------------------------------------------------


def branch_of(unit, x):
    """Return what a unit adds to its shortcut, without SE."""
    u, norm = unit.branch(x)
    return u if norm is None else norm(u)


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("placement", ["standard", "pre", "3x3"])
def test_zero_init_last(kind, placement):
    torch.manual_seed(0)
    model = SMALL[kind](num_classes=10, se=SEOptions(placement=placement), zero_init_last=True)
    plain = SMALL[kind](num_classes=10, se=SEOptions(placement=placement))
    units = [m for m in model.modules() if isinstance(m, ResidualUnit)]
    assert len(units) == sum(name.startswith("layer") for name in model.trunk)
    for unit, other in zip(units, (m for m in plain.modules() if isinstance(m, ResidualUnit)), strict=True):
        x = torch.rand(2, unit.conv1.in_channels, 8, 8)
        assert torch.count_nonzero(branch_of(unit, x)) == 0
        assert torch.count_nonzero(branch_of(other, x)) > 0
        shortcut = x if unit.downsample is None else unit.downsample(x)
        torch.testing.assert_close(unit(x), shortcut.relu())


def test_zero_init_last_touches_one_norm_a_unit():
    model = create_model("cifar_se_resnet20", zero_init_last=True)
    zero = {key for key, p in model.named_parameters() if ".bn" in key and key.endswith("weight") and (p == 0).all()}
    assert zero == {f"layer{i}.{j}.bn2.weight" for i in (1, 2, 3) for j in range(3)}


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_last_is_refused_without_a_last_norm(bottleneck):
    with pytest.raises(SenetError, match="zero_init_last"):
        cifar_resnet(20, pre_activation=True, bottleneck=bottleneck, zero_init_last=True)
    with pytest.raises(SenetError, match="zero_init_last"):
        create_model("cifar_preact_resnet110", zero_init_last=True)


def test_he_initialization():
    torch.manual_seed(0)
    model = imagenet_resnet((1, 1, 1, 1), se=SEOptions())
    checked = 0
    for key, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= 8192:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            std = math.sqrt(2 / fan_out)
            if key.endswith("se.fc1"):
                std = math.sqrt(2 / module.in_channels)
            elif key.endswith("se.fc2"):
                std = math.sqrt(1 / module.in_channels)
            assert module.weight.std().item() == pytest.approx(std, rel=0.04), key
            assert abs(module.weight.mean().item()) < 5 * std / math.sqrt(module.weight.numel()), key
            checked += 1
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert checked >= 20
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert (model.fc.bias == 0).all()


# ---- behavior -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_except(("resnet18", "se_resnet50", "cifar_se_resnet20"), RESNETS))
def test_forward(name):
    torch.manual_seed(0)
    model = create_model(name, num_classes=7)
    y = model(torch.randn(2, 3, 32, 32))
    assert y.shape == (2, 7)
    assert y.isfinite().all()
    assert (y[0] - y[1]).abs().max() > 0


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet50", {"stride_on": "5x5"}, "stride_on is '5x5'; expected one of 1x1, 3x3"),
        ("resnet50", {"stem_pool": "floor"}, "stem_pool is 'floor'; expected one of ceil, pad"),
        ("cifar_preact_resnet164", {"stride_on": "2x2"}, "stride_on is '2x2'"),
        ("se_resnet50", {"se": SEOptions(stages=(1,))}, r"stages is \(1,\); expected a choice of \(2, 3, 4, 5\)"),
        ("se_resnet50", {"se": SEOptions(stages=(5, 6))}, r"stages is \(5, 6\)"),
        ("se_resnet50", {"se": SEOptions(stages=())}, r"stages is \(\)"),
        ("cifar_se_resnet20", {"se": SEOptions(stages=(5,))}, r"expected a choice of \(2, 3, 4\)"),
        ("cifar_resnet20", {"shortcut": "crop"}, "shortcut is 'crop'; expected one of pad, projection"),
        ("cifar_preact_resnet110", {"shortcut": "pad"}, "has no option 'shortcut'"),
        ("cifar_wrn16_8", {"shortcut": "projection"}, "has no option 'shortcut'"),
        ("cifar_se_wrn16_8", {"se": SEOptions(stages=(5,))}, r"expected a choice of \(2, 3, 4\)"),
        ("resnet50", {"dropout": 1.5}, "dropout is 1.5"),
        ("resnet50", {"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(SenetError, match=message):
        on_meta(name, **arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: cifar_resnet(8, pre_activation=True, shortcut="projection"),
            "shortcut is 'projection'; expected 'pad'",
        ),
        (
            lambda: cifar_resnet(11, pre_activation=True, bottleneck=True, shortcut="projection"),
            "shortcut is 'projection'; expected 'pad'",
        ),
        (lambda: cifar_resnet(16), r"depth is 16; expected 6n \+ 2"),
        (lambda: cifar_resnet(2), r"depth is 2; expected 6n \+ 2"),
        (lambda: wide_resnet(20, 8), r"depth is 20; expected 6n \+ 4"),
        (lambda: wide_resnet(4, 8), r"depth is 4; expected 6n \+ 4"),
        (lambda: wide_resnet(16, 0), "widen is 0; expected at least 1"),
    ],
)
def test_bad_arguments_of_the_builders(build, message):
    with pytest.raises(SenetError, match=message):
        build()
