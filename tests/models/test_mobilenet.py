"""MobileNet v1: timm's network, the paper's costs, and one unit against its formula."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from networks import assert_relatively_close, fresh_on_meta, num_parameters, on_meta, randomize, relative_difference
from senet.costs import cost
from senet.errors import SenetError
from senet.models.mobilenet import SeparableUnit
from senet.nn.block import SEBlock, SEOptions

# arXiv:1704.04861, Table 1: output channels and stride of the thirteen units.
UNITS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def units_of(model: nn.Module) -> list[SeparableUnit]:
    return [m for m in model.modules() if isinstance(m, SeparableUnit)]


def unit_in_float64(activation: str, stride: int = 1, se: bool = True) -> SeparableUnit:
    torch.manual_seed(0)
    unit = SeparableUnit(8, 12, stride, activation, SEOptions(reduction=4).block if se else None)
    randomize(unit)
    for norm in (unit.bn1, unit.bn2):
        norm.weight.data.mul_(20)  # so that ReLU6 clips
    return unit.double().eval()


# ---- structure -------------------------------------------------------------------------------------------------------


def test_units_of_the_papers_table():
    units = units_of(on_meta("mobilenet_v1"))
    assert [(u.conv_pw.out_channels, u.conv_dw.stride[0]) for u in units] == UNITS
    channels = 32
    for unit in units:
        dw, pw = unit.conv_dw, unit.conv_pw
        assert (dw.in_channels, dw.out_channels, dw.groups, dw.kernel_size, dw.padding) == (
            (channels, channels, channels, (3, 3), (1, 1))
        )
        assert (pw.in_channels, pw.groups, pw.kernel_size, pw.stride) == (channels, 1, (1, 1), (1, 1))
        channels = pw.out_channels


def test_parameters_by_hand():
    count = 27 * 32 + 2 * 32 + 1024 * 1000 + 1000
    channels = 32
    for width, _ in UNITS:
        count += 9 * channels + 2 * channels + channels * width + 2 * width
        channels = width
    assert num_parameters(on_meta("mobilenet_v1")) == count
    added = sum(2 * c * (c // 16) + c + c // 16 for c, _ in UNITS)
    assert num_parameters(on_meta("se_mobilenet_v1")) == count + added
    assert (round(count / 1e6, 1), round((count + added) / 1e6, 1)) == (4.2, 4.7)  # Table 3 of the SE paper


def test_multiply_adds_of_table_3():
    plain, with_se = cost(on_meta("mobilenet_v1")), cost(on_meta("se_mobilenet_v1"))
    assert round(plain.multiply_adds / 1e6) == 569
    # The paper counts pooling or scale too, one operation for every value of the maps; `cost` counts neither.
    once, side = 0, 112
    for width, stride in UNITS:
        side //= stride
        once += width * side**2
    assert round((with_se.multiply_adds + once) / 1e6) == 572


def test_se_in_every_unit():
    model = on_meta("se_mobilenet_v1")
    assert [u.se.channels for u in units_of(model)] == [width for width, _ in UNITS]
    new = set(model.state_dict()) - set(on_meta("mobilenet_v1").state_dict())
    expected = {
        f"blocks.{s}.{b}.se.{fc}.{leaf}"
        for s, number in enumerate((1, 2, 2, 6, 2))
        for b in range(number)
        for fc in ("fc1", "fc2")
        for leaf in ("weight", "bias")
    }
    assert new == expected


@pytest.mark.parametrize("stages", [(1,), (5,), (2, 4)])
def test_se_in_the_chosen_stages(stages):
    model = on_meta("se_mobilenet_v1", se=SEOptions(stages=stages))
    with_se = {int(name.split(".")[1]) + 1 for name, m in model.named_modules() if isinstance(m, SEBlock)}
    assert with_se == set(stages)


def test_stages_are_numbered_by_their_stride():
    model = on_meta("mobilenet_v1")
    assert model.feature_info == [
        {"num_chs": c, "reduction": 2**s, "module": f"blocks.{s - 1}"}
        for s, c in ((1, 64), (2, 128), (3, 256), (4, 512), (5, 1024))
    ]
    maps = fresh_on_meta("mobilenet_v1").forward_intermediates(
        torch.empty(1, 3, 64, 96, device="meta"), intermediates_only=True
    )
    assert [m.shape[1:] for m in maps] == [
        (i["num_chs"], 64 // i["reduction"], 96 // i["reduction"]) for i in model.feature_info
    ]


# ---- computation -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_equals_timm():
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv1_100", pretrained=False)
    randomize(theirs)
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight.mul_(4)  # so that ReLU6 clips
            norm.momentum = 1.0
    theirs(torch.randn(4, 3, 64, 64))  # sets the statistics
    theirs.eval()
    ours = fresh_on_meta("mobilenet_v1", activation="relu6")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), assign=True)
    ours.eval()
    with_relu = fresh_on_meta("mobilenet_v1")
    with_relu.load_state_dict(theirs.state_dict(), assign=True)
    with_relu.eval()
    for side in (64, 75):
        x = torch.randn(2, 3, side, side)
        assert_relatively_close(ours(x), theirs(x), 1e-5)
        assert relative_difference(with_relu(x), theirs(x)) > 1e-2  # ReLU6 clips: the test can fail


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("se", [False, True])
def test_unit_against_its_formula(activation, stride, se):
    unit = unit_in_float64(activation, stride, se)
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)

    def normalized(norm, x):
        mean, var, weight, bias = (
            v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def activate(x):
        return x.clamp(min=0) if activation == "relu" else x.clamp(0, 6)

    padded = F.pad(x, (1, 1, 1, 1))
    height, width = -(-7 // stride), -(-6 // stride)
    u = torch.zeros(2, 8, height, width, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i::stride, j::stride][:, :, :height, :width]
            u += unit.conv_dw.weight[:, 0, i, j, None, None] * window
    u = activate(normalized(unit.bn1, u))
    u = activate(normalized(unit.bn2, torch.einsum("nchw,oc->nohw", u, unit.conv_pw.weight[:, :, 0, 0])))
    if se:
        hidden = (u.mean((2, 3)) @ unit.se.fc1.weight[:, :, 0, 0].T + unit.se.fc1.bias).clamp(min=0)
        gate = 1 / (1 + (-(hidden @ unit.se.fc2.weight[:, :, 0, 0].T + unit.se.fc2.bias)).exp())
        u = u * gate[:, :, None, None]
    assert (u.max() > 6) == (activation == "relu")
    torch.testing.assert_close(unit(x), u, rtol=1e-11, atol=1e-11)


def test_nothing_can_be_doubled_before_relu6():
    assert all(u.affine_before_se() == () for u in units_of(on_meta("se_mobilenet_v1", activation="relu6")))
    assert all(u.affine_before_se() == (u.bn2,) for u in units_of(on_meta("se_mobilenet_v1")))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mobilenet_v1", {"activation": "gelu"}, "activation is 'gelu'; expected one of relu, relu6"),
        ("mobilenet_v1", {"dropout": 2.0}, "dropout is 2.0"),
        (
            "se_mobilenet_v1",
            {"se": SEOptions(stages=(6,))},
            r"stages is \(6,\); expected a choice of \(1, 2, 3, 4, 5\)$",
        ),
        ("se_mobilenet_v1", {"se": SEOptions(stages=(0, 1))}, r"stages is \(0, 1\)"),
        ("se_mobilenet_v1", {"se": SEOptions(placement="pre")}, "placement is 'pre'.* 'standard' only"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(SenetError, match=message):
        on_meta(name, **arguments)
