"""ShuffleNet v1: the papers' tables, the shuffle by hand, and one unit against its formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import fresh_on_meta, num_parameters, on_meta, randomize
from senet.costs import cost
from senet.errors import SenetError
from senet.models.shufflenet import ShuffleUnit
from senet.nn.block import SEBlock, SEOptions

# arXiv:1707.01083, Table 1, g = 3: for each unit its input and output channels and the side of its output.
UNITS = [
    (24, 240, 28),
    *[(240, 240, 28)] * 3,
    (240, 480, 14),
    *[(480, 480, 14)] * 7,
    (480, 960, 7),
    *[(960, 960, 7)] * 3,
]
BRANCHES = [(c_out if c_in == c_out else c_out - c_in, side) for c_in, c_out, side in UNITS]


def units_of(model: nn.Module) -> list[ShuffleUnit]:
    return [m for m in model.modules() if isinstance(m, ShuffleUnit)]


def unit_in_float64(stride: int, entry_groups: int = 3, se: bool = True) -> ShuffleUnit:
    torch.manual_seed(0)
    channels = 24 if stride == 1 else 12
    unit = ShuffleUnit(channels, 24, stride, entry_groups, SEOptions(reduction=3).block if se else None)
    randomize(unit)
    return unit.double().eval()


# ---- structure -------------------------------------------------------------------------------------------------------


def test_units_of_the_papers_table():
    units = units_of(on_meta("shufflenet_v1_g3"))
    assert len(units) == len(UNITS)
    for i, (unit, (c_in, c_out, _)) in enumerate(zip(units, UNITS, strict=True)):
        stride = 1 if c_in == c_out else 2
        width, branch = c_out // 4, c_out if stride == 1 else c_out - c_in
        convolutions = [
            (m.in_channels, m.out_channels, m.groups, m.kernel_size[0], m.stride[0])
            for m in (unit.conv1, unit.conv2, unit.conv3)
        ]
        assert convolutions == [
            (c_in, width, 1 if i == 0 else 3, 1, 1),
            (width, width, width, 3, stride),
            (width, branch, 3, 1, 1),
        ]


def parameters_by_hand() -> int:
    count = 27 * 24 + 2 * 24 + 960 * 1000 + 1000
    for i, ((c_in, c_out, _), (branch, _)) in enumerate(zip(UNITS, BRANCHES, strict=True)):
        width = c_out // 4
        count += c_in * width // (1 if i == 0 else 3) + 9 * width + width * branch // 3
        count += 2 * (2 * width + branch)
    return count


def test_parameters_are_table_3s_cut_off():
    plain = parameters_by_hand()
    assert num_parameters(on_meta("shufflenet_v1_g3")) == plain
    with_se = plain + sum(2 * c * (c // 16) + c + c // 16 for c, _ in BRANCHES)
    assert num_parameters(on_meta("se_shufflenet_v1_g3")) == with_se
    # 1.866 M and 2.485 M: the paper's 1.8 and 2.4 are not rounded
    assert (math.floor(plain / 1e5), math.floor(with_se / 1e5)) == (18, 24)
    # SE after the concatenation would have too many
    assert math.floor((plain + sum(2 * c * c // 16 for _, c, _ in UNITS)) / 1e5) == 25


def test_multiply_adds_of_the_tables():
    plain, with_se = (cost(on_meta(name)).multiply_adds / 1e6 for name in ("shufflenet_v1_g3", "se_shufflenet_v1_g3"))
    assert round(plain) == 137  # ShuffleNet's Table 1; the SE paper's 140 is the budget of the width "1x"
    # The SE paper's + 2 counts pooling or scale too, one operation for every value of the maps; `cost` counts neither.
    once = sum(channels * side**2 for channels, side in BRANCHES) / 1e6
    assert round(with_se - plain + once) == 142 - 140
    assert with_se == pytest.approx(142, rel=0.03)


def test_se_on_every_branch():
    units = units_of(on_meta("se_shufflenet_v1_g3"))
    assert [u.se.channels for u in units] == [c for c, _ in BRANCHES]
    assert all(u.se is None for u in units_of(on_meta("shufflenet_v1_g3")))


@pytest.mark.parametrize("stages", [(2,), (4,), (2, 3)])
def test_se_in_the_chosen_stages(stages):
    model = on_meta("se_shufflenet_v1_g3", se=SEOptions(stages=stages))
    with_se = {name.split(".")[0] for name, m in model.named_modules() if isinstance(m, SEBlock)}
    assert with_se == {f"stage{stage}" for stage in stages}


def test_maps_of_the_papers_table():
    model = fresh_on_meta("shufflenet_v1_g3")
    maps = model.forward_intermediates(torch.empty(1, 3, 224, 224, device="meta"), intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 112, 112), (240, 28, 28), (480, 14, 14), (960, 7, 7)]
    assert [info["reduction"] for info in model.feature_info] == [2, 8, 16, 32]


# ---- computation -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_shuffle_by_hand():
    """With the convolutions before the last one transparent, its groups see every third channel."""
    unit = ShuffleUnit(36, 36, 1, 3, None).eval()
    assert unit.conv1.out_channels == 9
    nn.init.zeros_(unit.conv1.weight)
    for i in range(9):
        unit.conv1.weight[i, i % 3] = 1  # group g of three channels: channel 3 g + j passes on input 12 g + j
    nn.init.zeros_(unit.conv2.weight)
    unit.conv2.weight[:, 0, 1, 1] = 1
    seen = []
    unit.conv3.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.arange(36.0).view(1, 36, 1, 1)
    unit(x)
    shuffled = [0, 12, 24, 1, 13, 25, 2, 14, 26]
    torch.testing.assert_close(seen[0].flatten(), torch.tensor(shuffled).float(), rtol=1e-4, atol=0)


def normalized(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var, weight, bias = (v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def pointwise(conv: nn.Conv2d, x: Tensor, groups: int) -> Tensor:
    weights = conv.weight[:, :, 0, 0].chunk(groups)
    parts = zip(x.chunk(groups, 1), weights, strict=True)
    return torch.cat([torch.einsum("nchw,oc->nohw", part, weight) for part, weight in parts], 1)


def depthwise(conv: nn.Conv2d, x: Tensor, stride: int) -> Tensor:
    windows = F.unfold(x.flatten(0, 1)[:, None], 3, padding=1, stride=stride)
    windows = windows.view(*x.shape[:2], 9, -(-x.shape[2] // stride), -(-x.shape[3] // stride))
    return torch.einsum("nckhw,ck->nchw", windows, conv.weight.flatten(1))


@pytest.mark.parametrize("entry_groups", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("se", [False, True])
def test_unit_against_its_formula(stride, entry_groups, se):
    unit = unit_in_float64(stride, entry_groups, se)
    x = torch.randn(2, unit.conv1.in_channels, 7, 6, dtype=torch.float64)
    u = normalized(unit.bn1, pointwise(unit.conv1, x, entry_groups)).clamp(min=0)
    u = u[:, [0, 2, 4, 1, 3, 5]]  # three groups of two channels: the first of each, then the second
    u = normalized(unit.bn2, depthwise(unit.conv2, u, stride))
    u = normalized(unit.bn3, pointwise(unit.conv3, u, 3))
    if se:
        hidden = (u.mean((2, 3)) @ unit.se.fc1.weight[:, :, 0, 0].T + unit.se.fc1.bias).clamp(min=0)
        u = u * torch.sigmoid(hidden @ unit.se.fc2.weight[:, :, 0, 0].T + unit.se.fc2.bias)[:, :, None, None]
    if stride == 1:
        expected = x + u
    else:
        ninths = torch.full((x.shape[1], 1, 3, 3), 1 / 9, dtype=torch.float64)  # the padding counts
        expected = torch.cat((F.conv2d(x, ninths, stride=2, padding=1, groups=x.shape[1]), u), 1)
    assert expected.shape == (2, 24, -(-7 // stride), -(-6 // stride))
    torch.testing.assert_close(unit(x), expected.clamp(min=0), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("se_shufflenet_v1_g3", {"se": SEOptions(stages=(1,))}, r"stages is \(1,\); expected a choice of \(2, 3, 4\)"),
        ("se_shufflenet_v1_g3", {"se": SEOptions(stages=(5,))}, r"stages is \(5,\)"),
        ("se_shufflenet_v1_g3", {"se": SEOptions(placement="3x3")}, "placement is '3x3'.* 'standard' only"),
        ("shufflenet_v1_g3", {"dropout": -1.0}, "dropout is -1.0"),
        ("shufflenet_v1_g3", {"activation": "relu6"}, "has no option 'activation'"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(SenetError, match=message):
        on_meta(name, **arguments)
