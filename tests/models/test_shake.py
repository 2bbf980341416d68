"""Shake-Shake: the mixture's two passes against autograd, the papers' sizes, and one unit against its formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import fresh_on_meta, num_parameters, on_meta, randomize
from senet.costs import cost
from senet.errors import SenetError
from senet.models.catalog import model_card
from senet.models.shake import MixFunction, Shake, ShakeUnit, ShiftedShortcut, shake_resnet, shake_resnext
from senet.nn.block import SEBlock, SEOptions

NAMES = ("cifar_shake_shake26_2x96d", "cifar_shake_even29_2x4x64d")
SMALL = {
    "resnet": lambda **options: shake_resnet(8, 8, **options),
    "resnext": lambda **options: shake_resnext(11, 2, 16, **options),
}


def units_of(model: nn.Module) -> list[ShakeUnit]:
    return [m for m in model.modules() if isinstance(m, ShakeUnit)]


def small(kind: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = SMALL[kind](**{"num_classes": 10, "se": SEOptions(), **options})
    randomize(model)
    return model


# ---- the mixture -----------------------------------------------------------------------------------------------------


def branches(images: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    a, b = torch.randn(2, images, 4, 5, 6, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_forward_by_alpha_and_backward_by_beta(alpha):
    a, b = branches(3)
    alphas = torch.tensor([alpha, 0.5, 0.75], dtype=torch.float64).view(3, 1, 1, 1)
    betas = torch.tensor([0.125, 1.0, 0.625], dtype=torch.float64).view(3, 1, 1, 1)
    y = MixFunction.apply(a, b, alphas, betas)
    torch.testing.assert_close(y, alphas * a + (1 - alphas) * b, rtol=1e-14, atol=1e-14)
    grad = torch.randn_like(y)
    y.backward(grad)
    for i, beta in enumerate((0.125, 1.0, 0.625)):
        assert torch.equal(a.grad[i], beta * grad[i])
        assert torch.equal(b.grad[i], (1 - beta) * grad[i])


def coefficients(shake: Shake, images: int = 3) -> tuple[Tensor, Tensor]:
    """Each image's alpha and beta, read off the mixture of ones and zeros and its gradient."""
    a = torch.ones(images, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    b = torch.zeros_like(a, requires_grad=True)
    y = shake(a, b)
    y.backward(torch.ones_like(y))
    assert torch.equal(a.grad + b.grad, torch.ones_like(y))
    for maps in (y, a.grad):  # one coefficient for all the channels and positions of an image
        assert torch.equal(maps, maps[:, :1, :1, :1].expand_as(maps))
    return y[:, 0, 0, 0].detach(), a.grad[:, 0, 0, 0]


def assert_uncorrelated(first: Tensor, second: Tensor) -> None:
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 4 / len(first) ** 0.5


def assert_uniform(values: Tensor) -> None:
    """Mean 1/2 and variance 1/12 within four standard errors, inside of [0, 1], all of them different."""
    n = len(values)
    assert ((values >= 0) & (values < 1)).all()
    assert abs(values.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(values.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    assert len(values.unique()) > 0.99 * n


@pytest.mark.parametrize("forward", ["shake", "even"])
@pytest.mark.parametrize("backward", ["shake", "even", "keep"])
def test_modes_in_training(forward, backward):
    torch.manual_seed(0)
    n = 4000
    alpha, beta = coefficients(Shake(forward, backward), n)
    half = torch.full_like(alpha, 0.5)
    if forward == "shake":
        assert_uniform(alpha)
    else:
        assert torch.equal(alpha, half)
    if backward == "shake":
        assert_uniform(beta)
        if forward == "shake":
            assert_uncorrelated(alpha, beta)
    else:
        assert torch.equal(beta, alpha if backward == "keep" else half)


def test_compiled_coefficients():
    """The compiler is free to draw beta in the backward graph: other numbers than without it, but as independent."""
    compiled = torch.compile(Shake("shake", "shake"), fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    alpha, beta = coefficients(compiled, 4000)
    assert_uniform(alpha)
    assert_uniform(beta)
    assert_uncorrelated(alpha, beta)
    torch.manual_seed(0)
    for values, expected in zip(coefficients(compiled, 4000), (alpha, beta), strict=True):
        assert torch.equal(values, expected)


@pytest.mark.parametrize("forward", ["shake", "even"])
@pytest.mark.parametrize("backward", ["shake", "even", "keep"])
def test_evaluation_is_the_mean(forward, backward):
    alpha, beta = coefficients(Shake(forward, backward).eval())
    assert torch.equal(alpha, torch.full_like(alpha, 0.5))
    assert torch.equal(beta, alpha)


def test_coefficients_are_drawn_every_time_and_reproducible():
    shake = Shake("shake", "shake")
    torch.manual_seed(7)
    first, second = coefficients(shake), coefficients(shake)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    torch.manual_seed(7)
    for values, expected in zip((*coefficients(shake), *coefficients(shake)), (*first, *second), strict=True):
        assert torch.equal(values, expected)


def test_keep_is_plain_autograd():
    a, b = branches()
    torch.manual_seed(3)
    y = Shake("shake", "keep")(a, b)
    weights = torch.randn_like(y)
    (y.square() * weights).sum().backward()
    torch.manual_seed(3)
    alpha = torch.rand(3, 1, 1, 1).double()
    ours = (a.grad, b.grad)
    a, b = branches()
    ((alpha * a + (1 - alpha) * b).square() * weights).sum().backward()
    for grad, expected in zip(ours, (a.grad, b.grad), strict=True):
        torch.testing.assert_close(grad, expected, rtol=1e-13, atol=1e-13)


def test_bfloat16_keeps_its_dtype():
    a, b = (x.detach().bfloat16().requires_grad_() for x in branches())
    y = Shake("shake", "shake")(a, b)
    y.float().sum().backward()
    assert y.dtype == a.grad.dtype == b.grad.dtype == torch.bfloat16
    torch.testing.assert_close(a.grad + b.grad, torch.ones_like(a), rtol=0.01, atol=0)


# ---- structure -------------------------------------------------------------------------------------------------------


def resnet_parameters() -> int:
    """26 2x96d: stem of 16; three stages of four units with two branches of two 3x3; two-path shortcuts."""
    count, channels = 27 * 16 + 2 * 16, 16
    for width in (96, 192, 384):
        count += channels * width + 2 * width  # the two paths make half of the channels each
        for _ in range(4):
            count += 2 * (9 * channels * width + 9 * width**2 + 2 * 2 * width)
            channels = width
    return count + 384 * 10 + 10


def resnext_parameters(num_classes: int) -> int:
    """29 2x4x64d: ResNeXt-29 8x64d, its four-group halves as branches that end in a BatchNorm of their own."""
    count, channels = 27 * 64 + 2 * 64, 64
    for planes in (64, 128, 256):
        width = 8 * planes
        count += channels * 4 * planes + 2 * 4 * planes  # projection
        for _ in range(3):
            count += channels * width + 9 * width**2 // 8 + width * 4 * planes + 2 * (2 * width + 4 * planes)
            count += 2 * 4 * planes  # the second branch's
            channels = 4 * planes
    return count + 1024 * num_classes + num_classes


def test_parameters_of_the_paper():
    count = num_parameters(on_meta("cifar_shake_shake26_2x96d"))
    assert count == resnet_parameters()
    assert round(count / 1e6, 1) == 26.2
    assert num_parameters(on_meta("cifar_shake_even29_2x4x64d")) == resnext_parameters(100)
    # Xie et al. and Gastaldi both print 34.4 M, which is the number for ten classes
    count = num_parameters(on_meta("cifar_shake_even29_2x4x64d", num_classes=10))
    assert count == resnext_parameters(10)
    assert round(count / 1e6, 1) == 34.4


@pytest.mark.parametrize(
    ("name", "widths", "number"),
    [
        ("cifar_shake_shake26_2x96d", (96, 192, 384), 4),
        ("cifar_shake_even29_2x4x64d", (256, 512, 1024), 3),
    ],
)
def test_units_and_their_se(name, widths, number):
    model = on_meta(model_card(name).twin)
    units = units_of(model)
    assert [u.se.channels for u in units] == [width for width in widths for _ in range(number)]
    added = num_parameters(model) - num_parameters(on_meta(name))
    assert added == sum(number * (2 * c * (c // 16) + c + c // 16) for c in widths)
    assert all(u.se is None for u in units_of(on_meta(name)))
    assert [u.downsample is not None for u in units] == 3 * [True, *[False] * (number - 1)]


@pytest.mark.parametrize(
    ("name", "modes"), [(NAMES[0], ("shake", "shake")), (NAMES[1], ("shake", "even"))], ids=["S-S-I", "S-E-I"]
)
def test_modes_of_the_networks(name, modes):
    def modes_of(model: nn.Module) -> set[tuple[str, str]]:
        return {(m.forward_mode, m.backward_mode) for m in model.modules() if isinstance(m, Shake)}

    assert modes_of(on_meta(name)) == {modes}
    assert modes_of(on_meta(name, shake_forward="even", shake_backward="keep")) == {("even", "keep")}


def test_resnext_branches():
    model = on_meta("cifar_shake_even29_2x4x64d")
    for stage, width in ((model.layer1, 256), (model.layer2, 512), (model.layer3, 1024)):
        for i, unit in enumerate(stage):
            stride = 2 if i == 0 and width > 256 else 1
            for branch in (unit.branch1, unit.branch2):
                shapes = [(m.out_channels, m.groups, m.stride[0]) for m in branch if isinstance(m, nn.Conv2d)]
                assert shapes == [(width, 1, 1), (width, 4, stride), (width, 1, 1)]


def test_multiply_adds_by_hand():
    expected = 27 * 16 * 32**2 + 384 * 10
    channels = 16
    for width, side in ((96, 32), (192, 16), (384, 8)):
        expected += channels * width * side**2
        for _ in range(4):
            expected += 2 * 9 * (channels + width) * width * side**2
            channels = width
    assert cost(on_meta("cifar_shake_shake26_2x96d")).multiply_adds == expected


@pytest.mark.parametrize("name", NAMES)
def test_stages(name):
    model = fresh_on_meta(model_card(name).twin, se=SEOptions(stages=(3,)))
    assert {key.split(".")[0] for key, m in model.named_modules() if isinstance(m, SEBlock)} == {"layer2"}
    maps = model.forward_intermediates(torch.empty(2, 3, 32, 32, device="meta"), intermediates_only=True)
    assert [m.shape[1:] for m in maps] == [(i["num_chs"], *2 * (32 // i["reduction"],)) for i in model.feature_info]
    assert [i["reduction"] for i in model.feature_info] == [1, 2, 4]


# ---- computation -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_shifted_shortcut_by_hand():
    shortcut = ShiftedShortcut(1, 2, 2).eval()
    nn.init.ones_(shortcut.conv1.weight)
    nn.init.ones_(shortcut.conv2.weight)
    x = torch.arange(1.0, 26.0).view(1, 1, 5, 5)
    first = [[1.0, 3.0, 5.0], [11.0, 13.0, 15.0], [21.0, 23.0, 25.0]]
    up_and_left = [[0.0, 0.0, 0.0], [0.0, 7.0, 9.0], [0.0, 17.0, 19.0]]
    expected = torch.tensor([[first, up_and_left]])
    torch.testing.assert_close(shortcut(x), expected, rtol=1e-5, atol=0)
    shortcut = ShiftedShortcut(1, 2, 1).eval()
    nn.init.ones_(shortcut.conv2.weight)
    shifted = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [0.0, 4.0, 5.0]])
    x = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    torch.testing.assert_close(shortcut(x)[0, 1], shifted, rtol=1e-5, atol=0)


def normalized(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var, weight, bias = (v[:, None, None] for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def recalibrated(se: SEBlock, x: Tensor) -> Tensor:
    hidden = (x.mean((2, 3)) @ se.fc1.weight[:, :, 0, 0].T + se.fc1.bias).clamp(min=0)
    return x * torch.sigmoid(hidden @ se.fc2.weight[:, :, 0, 0].T + se.fc2.bias)[:, :, None, None]


def conv(module: nn.Conv2d, x: Tensor, stride: int = 1) -> Tensor:
    size = module.weight.shape
    return F.conv2d(x, module.weight, stride=stride, padding=size[-1] // 2, groups=x.shape[1] // size[1])


def expected_resnet_unit(unit: ShakeUnit, x: Tensor, stride: int, alpha: Tensor | float) -> Tensor:
    def branch(b: nn.Module) -> Tensor:
        u = normalized(b.bn1, conv(b.conv1, x.clamp(min=0), stride))
        return normalized(b.bn2, conv(b.conv2, u.clamp(min=0)))

    mixture = alpha * branch(unit.branch1) + (1 - alpha) * branch(unit.branch2)
    if unit.downsample is None:
        return x + recalibrated(unit.se, mixture)
    activated = x.clamp(min=0)
    shifted = torch.zeros_like(x)
    shifted[:, :, 1:, 1:] = activated[:, :, :-1, :-1]
    first, second = (m[:, :, ::stride, ::stride] for m in (activated, shifted))
    paths = torch.cat((conv(unit.downsample.conv1, first), conv(unit.downsample.conv2, second)), 1)
    return normalized(unit.downsample.bn, paths) + recalibrated(unit.se, mixture)


def expected_resnext_unit(unit: ShakeUnit, x: Tensor, stride: int, alpha: Tensor | float) -> Tensor:
    def branch(b: nn.Module) -> Tensor:
        u = normalized(b.bn1, conv(b.conv1, x))
        u = normalized(b.bn2, conv(b.conv2, u.clamp(min=0), stride))
        return normalized(b.bn3, conv(b.conv3, u.clamp(min=0)))

    mixture = alpha * branch(unit.branch1) + (1 - alpha) * branch(unit.branch2)
    shortcut = x if unit.downsample is None else normalized(unit.downsample[1], conv(unit.downsample[0], x, stride))
    return (shortcut + recalibrated(unit.se, mixture)).clamp(min=0)


EXPECTED = {"resnet": expected_resnet_unit, "resnext": expected_resnext_unit}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("stage", "index", "stride"), [(1, 0, 1), (2, 0, 2), (2, 1, 1)])
def test_unit_against_its_formula(kind, stage, index, stride):
    model = (
        shake_resnet(14, 8, se=SEOptions()) if kind == "resnet" else shake_resnext(20, 2, 16, se=SEOptions())
    ).double()
    randomize(model)
    model.eval()
    unit = model.get_submodule(f"layer{stage}")[index]
    x = torch.randn(3, next(iter(unit.branch1)).in_channels, 7, 6, dtype=torch.float64)
    expected = EXPECTED[kind](unit, x, stride, 0.5)
    assert expected.shape[2:] == (-(-7 // stride), -(-6 // stride))
    torch.testing.assert_close(unit(x), expected, rtol=1e-11, atol=1e-11)
    unit.shake.train()
    torch.manual_seed(5)
    shaken = unit(x)
    torch.manual_seed(5)
    alpha = torch.rand(3, 1, 1, 1).double()
    torch.testing.assert_close(shaken, EXPECTED[kind](unit, x, stride, alpha), rtol=1e-11, atol=1e-11)
    assert (shaken - expected).abs().max() > 1e-2


def test_only_the_pre_activated_network_ends_in_a_relu_of_its_own():
    assert on_meta(NAMES[0]).trunk == ("conv1", "bn1", "layer1", "layer2", "layer3", "act1")
    assert on_meta(NAMES[1]).trunk == ("conv1", "bn1", "act1", "layer1", "layer2", "layer3")


@pytest.mark.parametrize(("kind", "backward"), [("resnet", "keep"), ("resnext", "even"), ("resnet", "shake")])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_under_checkpointing_compile_and_autocast(kind, backward, compiled):
    """The same seed gives the same gradients, but where the compiler may choose when beta is drawn."""
    model = small(kind, shake_backward=backward).train()
    x = torch.randn(4, 3, 16, 16)

    def gradients(forward: nn.Module) -> Tensor:
        model.zero_grad()
        torch.manual_seed(11)
        forward(x).float().square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = gradients(model)
    assert expected.isfinite().all()
    assert not torch.equal(model(x), model(x))
    model.set_grad_checkpointing()
    torch.testing.assert_close(gradients(model), expected)
    model.set_grad_checkpointing(False)
    if compiled:
        actual = gradients(torch.compile(model, fullgraph=True, backend="aot_eager"))
        if backward == "shake":
            assert actual.isfinite().all()
        else:
            torch.testing.assert_close(actual, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gradients(model).isfinite().all()


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (NAMES[0], {"shake_forward": "keep"}, "shake_forward is 'keep'; expected one of shake, even"),
        (NAMES[1], {"shake_backward": "odd"}, "shake_backward is 'odd'; expected one of shake, even, keep"),
        (NAMES[1], {"dropout": 1.5}, "dropout is 1.5"),
        (
            "cifar_se_shake_shake26_2x96d",
            {"se": SEOptions(stages=(5,))},
            r"stages is \(5,\); expected a choice of \(2, 3",
        ),
        ("cifar_se_shake_even29_2x4x64d", {"se": SEOptions(placement="post")}, "placement is 'post'.* 'standard' only"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(SenetError, match=message):
        on_meta(name, **arguments)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: shake_resnet(27, 8), r"depth is 27; expected 6n \+ 2"),
        (lambda: shake_resnet(2, 8), r"depth is 2; expected 6n \+ 2"),
        (lambda: shake_resnext(26, 2, 16), r"depth is 26; expected 9n \+ 2"),
    ],
)
def test_bad_depths(build, message):
    with pytest.raises(SenetError, match=message):
        build()
