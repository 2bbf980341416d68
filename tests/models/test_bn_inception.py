"""BN-Inception: the widths, pooling and SE of the authors' prototxt."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import fresh_on_meta, num_parameters, on_meta, randomize
from senet.errors import SenetError
from senet.factory import create_model
from senet.models.bn_inception import CeilMaxPool, InceptionModule
from senet.nn.block import SEBlock, SEOptions

# Channels and hidden units of SE, arXiv:1709.01507's release, models/SE-BN-Inception.prototxt.
SE_WIDTHS = {
    "3a": (256, 16),
    "3b": (320, 20),
    "3c": (576, 36),
    "4a": (576, 36),
    "4b": (576, 36),
    "4c": (608, 38),
    "4d": (608, 38),
    "4e": (1056, 66),
    "5a": (1024, 64),
    "5b": (1024, 64),
}


def test_se_of_every_module():
    model = on_meta("se_bn_inception")
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, SEBlock)}
    assert {name: (m.channels, m.hidden_channels) for name, m in blocks.items()} == {
        f"inception_{name}.se": widths for name, widths in SE_WIDTHS.items()
    }


@pytest.mark.slow
def test_strides_and_pooling():
    model = on_meta("bn_inception")
    strided = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.stride[0] == 2}
    reductions = {f"inception_{n}.{unit}.conv" for n in ("3c", "4e") for unit in ("conv3x3", "double3x3_2")}
    assert strided == {"conv1.conv"} | reductions
    pools = {name.removesuffix(".pool"): m for name, m in model.named_modules() if name.endswith(".pool")}
    assert {name[-2:] for name, m in pools.items() if isinstance(m, CeilMaxPool)} == {"3c", "4e"}
    assert [name for name, m in pools.items() if type(m) is nn.MaxPool2d] == ["inception_5b"]
    average = [m for m in pools.values() if isinstance(m, nn.AvgPool2d)]
    assert len(average) == 7
    assert all(m.count_include_pad and (m.kernel_size, m.stride, m.padding) == (3, 1, 1) for m in average)
    assert all(pool.ceil_mode and not pool.padding for pool in (model.pool1, model.pool2))
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))
    assert all(m.eps == 1e-5 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_parameters_of_a_peer():
    """Cadene's bninception has 11,295,240 (osmr/imgclsmob), the biases of its convolutions among them."""
    model = on_meta("bn_inception")
    biases = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert biases == 10_016  # 320 in the stem, 1568, 4896 and 3232 in the stages
    assert num_parameters(model) == 11_295_240 - biases
    se = sum(2 * channels * hidden + hidden + channels for channels, hidden in SE_WIDTHS.values())
    assert num_parameters(on_meta("se_bn_inception")) == 11_285_224 + se


def test_parameters_of_the_release():
    """46 MB of float32 are 11.9 million numbers (README of hujie-frank/SENet)."""
    model = on_meta("se_bn_inception")
    numbers = num_parameters(model) + sum(b.numel() for b in model.buffers())
    assert numbers * 4 / 2**20 == pytest.approx(46, abs=0.5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["average", "maximum", "reduction"])
def test_the_module_by_its_formula(kind):
    torch.manual_seed(0)
    widths = (0, 6, 8, 4, 5, 0) if kind == "reduction" else (3, 6, 8, 4, 5, 7)
    pool = {"average": nn.AvgPool2d(3, 1, 1), "maximum": nn.MaxPool2d(3, 1, 1), "reduction": CeilMaxPool()}[kind]
    module = InceptionModule(10, *widths, pool=pool, build_se=lambda channels: SEBlock(channels, 2)).double().eval()
    randomize(module)
    x = torch.randn(2, 10, 8, 6, dtype=torch.float64)
    stride = 2 if kind == "reduction" else 1

    def unit(name, x, stride=1):
        layer = getattr(module, name)
        y = F.conv2d(x, layer.conv.weight, stride=stride, padding=layer.conv.weight.shape[-1] // 2)
        y = (y - layer.bn.running_mean[:, None, None]) / (layer.bn.running_var + 1e-5).sqrt()[:, None, None]
        return (y * layer.bn.weight[:, None, None] + layer.bn.bias[:, None, None]).clamp(min=0)

    if kind == "average":
        pooled = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((-2, -1))
    else:
        padding = (0, 1, 0, 1) if kind == "reduction" else (1, 1, 1, 1)
        pooled = F.pad(x, padding, value=-9e9).unfold(2, 3, stride).unfold(3, 3, stride).amax((-2, -1))
    branches = [
        unit("conv3x3", unit("conv3x3_reduce", x), stride),
        unit("double3x3_2", unit("double3x3_1", unit("double3x3_reduce", x)), stride),
    ]
    branches = (
        [*branches, pooled] if kind == "reduction" else [unit("conv1x1", x), *branches, unit("pool_proj", pooled)]
    )
    u = torch.cat(branches, 1)
    torch.testing.assert_close(module(x), u * module.se.compute_gate(u))
    assert (module.se.compute_gate(u) - 0.5).abs().max() > 0.01
    assert len(module.affine_before_se()) == (0 if kind == "reduction" else 4)


@pytest.mark.parametrize("side", [4, 5, 14, 15, 28, 29])
def test_ceil_pooling_has_the_size_of_the_convolution_beside_it(side):
    x = torch.randn(1, 2, side, side + 1)
    pooled = CeilMaxPool()(x)
    assert pooled.shape == F.conv2d(x, torch.zeros(2, 2, 3, 3), stride=2, padding=1).shape
    if side % 2 == 0:
        even = x[..., :side]
        assert torch.equal(CeilMaxPool()(even), F.max_pool2d(even, 3, 2, ceil_mode=True))


@pytest.mark.parametrize("stage", [3, 4, 5])
def test_stages(stage):
    model = on_meta("se_bn_inception", se=SEOptions(stages=(stage,)))
    with_se = {name for name, m in model.named_children() if isinstance(m, InceptionModule) and m.se is not None}
    assert with_se == {f"inception_{name}" for name in SE_WIDTHS if name.startswith(str(stage))}


@torch.no_grad()
def test_only_the_recalibrated_output_feeds_onward():
    torch.manual_seed(0)
    model = create_model("se_bn_inception", num_classes=5).eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    model.inception_3a.se.fc2.bias.fill_(-100.0)  # a gate of zero
    seen = []
    model.inception_3b.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    assert not torch.allclose(model(x), before)
    assert seen[0].abs().max() < 1e-20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"se": SEOptions(stages=(2,))}, r"stages is \(2,\); expected a choice of \(3, 4, 5\)"),
        ({"se": SEOptions(placement="post")}, "placement is 'post'"),
        ({"dropout": -1.0}, "dropout is -1.0"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(SenetError, match=message):
        fresh_on_meta("se_bn_inception", **arguments)
