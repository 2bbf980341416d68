"""Every residual unit with SE at every place, against its formula written out with plain functions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.residual import (
    BasicUnit,
    BottleneckUnit,
    PadShortcut,
    PreActivationBasicUnit,
    PreActivationBottleneckUnit,
    Wiring,
    bare_projection,
    projection,
)
from senet.nn.block import SEOptions

PLACEMENTS = ("standard", "pre", "post", "identity", "3x3")
UNITS = {
    "basic": (BasicUnit, PadShortcut),
    "basic with projection": (BasicUnit, projection),
    "bottleneck": (BottleneckUnit, projection),
    "grouped bottleneck": (
        partial(BottleneckUnit, groups=4, width_per_group=16, entry_divisor=2, stride_on="3x3"),
        partial(projection, kernel_size=3),
    ),
    "pre-activation basic": (PreActivationBasicUnit, PadShortcut),
    "pre-activation bottleneck": (PreActivationBottleneckUnit, bare_projection),
    "pre-activation bottleneck, stride on 3x3": (
        partial(PreActivationBottleneckUnit, stride_on="3x3"),
        bare_projection,
    ),
}
PLANES = 8


def build(name: str, in_channels: int, stride: int, placement: str | None) -> nn.Module:
    """A unit in float64 and evaluation mode whose every BatchNorm does something of its own."""
    torch.manual_seed(0)
    unit, shortcut = UNITS[name]
    build_se = None if placement is None else SEOptions(reduction=4, placement=placement).block
    wiring = Wiring(build_shortcut=shortcut, build_se=build_se, placement=placement or "standard")
    module = unit(in_channels, PLANES, stride, wiring).double().eval()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module


def conv(module: nn.Conv2d, x: Tensor, stride: int = 1) -> Tensor:
    groups = x.shape[1] // module.weight.shape[1]
    return F.conv2d(x, module.weight, stride=stride, padding=module.weight.shape[-1] // 2, groups=groups)


def norm(module: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var, weight, bias = (
        v.view(-1, 1, 1) for v in (module.running_mean, module.running_var, module.weight, module.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def se(block: nn.Module, x: Tensor) -> Tensor:
    z = x.mean((2, 3))
    hidden = F.relu(z @ block.fc1.weight[:, :, 0, 0].T + block.fc1.bias)
    return x * torch.sigmoid(hidden @ block.fc2.weight[:, :, 0, 0].T + block.fc2.bias)[:, :, None, None]


def expected_shortcut(unit: nn.Module, x: Tensor, out_channels: int, stride: int) -> Tensor:
    if isinstance(unit.downsample, PadShortcut):
        every = x[:, :, ::stride, ::stride]
        zeros = every.new_zeros(x.shape[0], out_channels - x.shape[1], *every.shape[2:])
        return torch.cat((every, zeros), 1)
    if isinstance(unit.downsample, nn.Conv2d):
        return conv(unit.downsample, x, stride)
    return norm(unit.downsample[1], conv(unit.downsample[0], x, stride))


def expected(name: str, unit: nn.Module, x: Tensor, placement: str | None, stride: int) -> Tensor:
    """The unit's formula, with F = `second(first(.))` and SE where `placement` says."""
    stride_1x1, stride_3x3 = (1, stride) if name.startswith("grouped") or name.endswith("3x3") else (stride, 1)
    block = partial(se, unit.se)

    if name.startswith("pre-activation"):

        def activate(x):
            return F.relu(norm(unit.bn1, x))

        if "basic" in name:

            def first(a):
                return conv(unit.conv1, a, stride)

            def second(a):
                return conv(unit.conv2, F.relu(norm(unit.bn2, a)))

            out_channels = PLANES
        else:

            def first(a):
                return conv(unit.conv2, F.relu(norm(unit.bn2, conv(unit.conv1, a, stride_1x1))), stride_3x3)

            def second(a):
                return conv(unit.conv3, F.relu(norm(unit.bn3, a)))

            out_channels = 4 * PLANES

        def identity(x, activated):
            return x if unit.downsample is None else expected_shortcut(unit, activated, out_channels, stride)

        formulas = {
            None: lambda: second(first(activate(x))) + identity(x, activate(x)),
            "standard": lambda: block(second(first(activate(x)))) + identity(x, activate(x)),
            "pre": lambda: second(first(activate(block(x)))) + identity(x, activate(block(x))),
            "post": lambda: block(second(first(activate(x))) + identity(x, activate(x))),
            "identity": lambda: second(first(activate(x))) + block(identity(x, activate(x))),
            "3x3": lambda: second(block(first(activate(x)))) + identity(x, activate(x)),
        }
        return formulas[placement]()

    if "basic" in name:

        def first(x):
            return norm(unit.bn1, conv(unit.conv1, x, stride))

        def second(x):
            return norm(unit.bn2, conv(unit.conv2, F.relu(x)))

        out_channels = PLANES
    else:

        def first(x):
            return norm(unit.bn2, conv(unit.conv2, F.relu(norm(unit.bn1, conv(unit.conv1, x, stride_1x1))), stride_3x3))

        def second(x):
            return norm(unit.bn3, conv(unit.conv3, F.relu(x)))

        out_channels = 4 * PLANES

    identity = x if unit.downsample is None else expected_shortcut(unit, x, out_channels, stride)
    formulas = {
        None: lambda: F.relu(second(first(x)) + identity),
        "standard": lambda: F.relu(block(second(first(x))) + identity),
        "pre": lambda: F.relu(second(first(block(x))) + identity),
        "post": lambda: block(F.relu(second(first(x)) + identity)),
        "identity": lambda: F.relu(second(first(x)) + block(identity)),
        "3x3": lambda: F.relu(second(block(first(x))) + identity),
    }
    return formulas[placement]()


def assert_matches_formula(name: str, in_channels: int, stride: int, placement: str | None) -> None:
    unit = build(name, in_channels, stride, placement)
    x = torch.randn(2, in_channels, 7, 6, dtype=torch.float64)
    y = unit(x)
    assert y.shape == (2, unit.out_channels, -(-7 // stride), -(-6 // stride))
    torch.testing.assert_close(y, expected(name, unit, x, placement, stride), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("placement", [None, *PLACEMENTS])
@pytest.mark.parametrize("name", UNITS)
def test_unit_that_keeps_the_shape(name, placement):
    channels = PLANES if "basic" in name else 4 * PLANES
    assert build(name, channels, 1, placement).downsample is None
    assert_matches_formula(name, channels, 1, placement)


@pytest.mark.parametrize("placement", [None, *PLACEMENTS])
@pytest.mark.parametrize("name", UNITS)
def test_unit_with_stride(name, placement):
    assert_matches_formula(name, 4, 2, placement)


@pytest.mark.parametrize("placement", [None, *PLACEMENTS])
@pytest.mark.parametrize("name", UNITS)
def test_unit_that_widens(name, placement):
    assert_matches_formula(name, 4, 1, placement)


@pytest.mark.parametrize("name", UNITS)
def test_placements_differ(name):
    """The units share every weight but those of SE, so equal outputs would mean a placement without effect."""
    channels = PLANES if "basic" in name else 4 * PLANES  # SE has the same shape at all places but 3x3
    x = torch.randn(2, channels, 7, 6, dtype=torch.float64)
    plain = build(name, channels, 1, None)
    outputs = [plain(x)]
    for placement in ("standard", "pre", "post", "identity"):
        unit = build(name, channels, 1, placement)
        missing, unexpected = unit.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected
        assert all(key.startswith("se.") for key in missing)
        outputs.append(unit(x))
    for i, first in enumerate(outputs):
        for second in outputs[:i]:
            assert (first - second).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "placement", "channels"),
    [
        ("basic", "standard", 8),
        ("basic", "pre", 4),
        ("basic", "post", 8),
        ("basic", "identity", 8),
        ("basic", "3x3", 8),
        ("bottleneck", "standard", 32),
        ("bottleneck", "pre", 4),
        ("bottleneck", "3x3", 8),
        ("grouped bottleneck", "3x3", 8),
        ("pre-activation basic", "pre", 4),
        ("pre-activation bottleneck", "pre", 4),
        ("pre-activation bottleneck", "post", 32),
        ("pre-activation bottleneck", "3x3", 8),
    ],
)
def test_channels_of_se(name, placement, channels):
    assert build(name, 4, 2, placement).se.channels == channels


@pytest.mark.parametrize("unit", [BottleneckUnit, PreActivationBottleneckUnit])
@pytest.mark.parametrize(("stride_on", "strides"), [("1x1", (2, 1, 1)), ("3x3", (1, 2, 1))])
def test_stride_on(unit, stride_on, strides):
    module = unit(8, 8, 2, Wiring(build_shortcut=bare_projection), stride_on=stride_on)
    assert tuple(conv.stride[0] for conv in (module.conv1, module.conv2, module.conv3)) == strides
    assert module.downsample.stride == (2, 2)


def test_bottleneck_widths():
    unit = BottleneckUnit(64, 64, 1, Wiring(build_shortcut=projection), groups=32, width_per_group=4, entry_divisor=2)
    shapes = [tuple(conv.weight.shape) for conv in (unit.conv1, unit.conv2, unit.conv3)]
    assert shapes == [(64, 64, 1, 1), (128, 2, 3, 3), (256, 128, 1, 1)]
    assert unit.conv2.groups == 32


def test_pad_shortcut_by_hand():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    expected = torch.tensor([[[[0.0, 2.0], [6.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(PadShortcut(1, 2, 2)(x), expected)


def test_projections():
    conv, bn = projection(4, 8, 2, kernel_size=3)
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (2, 2), (1, 1), None)
    assert bn.num_features == 8
    assert projection(4, 8, 2)[0].kernel_size == (1, 1)
    bare = bare_projection(4, 8, 2)
    assert (bare.kernel_size, bare.stride, bare.bias) == ((1, 1), (2, 2), None)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_parameter_gets_a_gradient(name, placement):
    unit = build(name, 4, 2, placement).train()
    unit(torch.randn(2, 4, 7, 6, dtype=torch.float64)).square().sum().backward()
    for key, parameter in unit.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
