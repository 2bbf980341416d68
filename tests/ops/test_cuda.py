"""The Triton passes against plain PyTorch in float64: on a GPU, or on the CPU in Triton's interpreter."""

import copy
from collections import Counter
from itertools import product

import pytest
import torch

from senet.models.resnet import cifar_resnet
from senet.nn.block import SEOptions
from senet.nn.fused import set_fused
from senet.ops import Excitation, Norm, dispatch, operator, residual_tail
from senet.ops.passes import Affine, Branches, PlainPasses, Slope

triton = pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-12}
KERNELS = ("moments", "apply", "sums", "gradients")
SHAPES = ((1, 1, 1, 1), (2, 37, 5, 7), (3, 130, 1, 1), (2, 3, 9, 60))


@pytest.fixture(scope="module")
def passes():
    """The passes, whose kernels Triton compiles or, if tests/conftest.py says so, interprets."""
    from senet.ops.cuda import TritonPasses

    return TritonPasses()


def assert_near(actual, expected, dtype):
    """Assert equality relative to the largest expected value."""
    assert (actual is None) == (expected is None)
    if actual is None:
        return
    assert actual.shape == expected.shape
    largest = expected.abs().max().clamp_min(1e-3)
    assert ((actual.double() - expected).abs().max() / largest).item() < TOLERANCES[dtype]


def drawn(shape, dtype, layout):
    return torch.randn(shape, device=DEVICE).to(dtype).to(memory_format=layout)


def affine(n, c, dtype, per_image):
    shape = (n, c) if per_image else (c,)
    return Affine(*(torch.randn(s, device=DEVICE, dtype=dtype) for s in ((c,), shape, shape)))


def slope_of(center_C, scale, shift):
    """A slope of the same shapes."""
    return Slope(scale, center_C, shift)


def in_float64(branches):
    def wide(x):
        return type(x)(*(v.double() for v in x)) if isinstance(x, tuple) else None if x is None else x.double()

    return Branches(
        wide(branches.u), wide(branches.affine), branches.relu, wide(branches.shortcut), wide(branches.shortcut_affine)
    )


CASES = [
    (shape, dtype, layout, kind, relu)
    for shape, dtype, layout in (
        *product(SHAPES, (torch.float32,), (torch.channels_last, torch.contiguous_format)),
        ((2, 37, 5, 7), torch.bfloat16, torch.channels_last),
        ((2, 37, 5, 7), torch.float16, torch.contiguous_format),
        ((2, 37, 5, 7), torch.float64, torch.channels_last),
    )
    for kind in ("none", "plain", "affine")
    for relu in (True, False)
]


@pytest.mark.parametrize(("shape", "dtype", "layout", "kind", "relu"), CASES)
def test_apply_sums_and_gradients(passes, shape, dtype, layout, kind, relu):
    torch.manual_seed(0)
    n, c, *_ = shape
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    per_image = kind != "affine"
    shortcut = None if kind == "none" else drawn(shape, dtype, layout)
    branches = Branches(
        drawn(shape, dtype, layout),
        affine(n, c, acc, per_image),
        relu,
        shortcut,
        affine(n, c, acc, False) if kind == "affine" else None,
    )
    exact = in_float64(branches)
    y = passes.apply(branches)
    assert y.stride() == branches.u.stride()
    assert_near(y, PlainPasses().apply(exact), dtype)

    dy = drawn(shape, dtype, layout)
    sign = y if relu and shortcut is not None else None
    *sums, g = passes.sums(dy, sign, branches)
    *expected, exact_g = PlainPasses().sums(dy.double(), None if sign is None else sign.double(), exact)
    for found, wanted in zip(sums, expected, strict=True):
        assert_near(found, wanted, acc)
    assert_near(g, exact_g, dtype)

    slope, other = (slope_of(*affine(n, c, acc, image)) for image in (per_image, False))
    g, exact_g = (dy, dy.double()) if g is None else (g, exact_g)
    found = passes.gradients(g.clone(memory_format=torch.preserve_format), branches, slope, other)
    wide = [Slope(*(v.double() for v in s)) for s in (slope, other)]
    for value, wanted in zip(found, PlainPasses().gradients(exact_g, exact, *wide), strict=True):
        assert_near(value, wanted, dtype)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 5, 40, 61)])
@pytest.mark.parametrize("second", [True, False])
def test_moments(passes, shape, layout, second):
    torch.manual_seed(0)
    u = drawn(shape, torch.float32, layout)
    for found, wanted in zip(passes.moments(u, second), PlainPasses().moments(u.double(), second), strict=True):
        assert_near(found, wanted, torch.float32)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_large_means_with_small_variances(passes, layout):
    torch.manual_seed(0)
    u = (1000 + 0.1 * drawn((2, 5, 40, 61), torch.float32, layout)).contiguous(memory_format=layout)
    _, q = passes.moments(u, True)
    _, exact = PlainPasses().moments(u.double(), True)
    assert ((q - exact).abs() / exact).max() < 1e-3
    naive = u.square().mean((2, 3)) - u.mean((2, 3)).square()
    assert ((naive - exact).abs() / exact).max() > 1e-2


def test_a_nan_passes_the_relu(passes):
    u = torch.full((1, 2, 1, 1), torch.nan, device=DEVICE)
    vectors = Affine(*(torch.zeros(2, device=DEVICE) for _ in range(3)))
    assert passes.apply(Branches(u, vectors, relu=True)).isnan().all()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_norm", [True, False])
def test_the_whole_operator(passes, monkeypatch, layout, dtype, with_norm):
    """Forward and backward with the Triton passes between the steps of the operator."""
    torch.manual_seed(0)
    n, c, k, side = 3, 20, 5, 6
    acc = {"device": DEVICE, "dtype": torch.float32}
    u, shortcut, dy = (drawn((n, c, side, side), dtype, layout) for _ in range(3))
    values = [torch.randn(shape, **acc) for shape in ((c,), (c,), (k, c), (c, k), (k,), (c,), (c,), (c,))]
    fitted = []
    for used, wide in ((passes, torch.float32), (PlainPasses(), torch.float64)):
        monkeypatch.setattr(operator, "passes_for", lambda *_, used=used: used)
        maps = [x.to(wide if wide == torch.float64 else dtype).requires_grad_() for x in (u, shortcut)]
        weight, bias, fc1, fc2, bias1, bias2, *of_shortcut = (x.to(wide).requires_grad_() for x in values)
        tail = residual_tail(
            maps[0],
            Norm(weight, bias) if with_norm else None,
            Excitation(fc1, fc2, bias1, bias2),
            maps[1],
            Norm(*of_shortcut) if with_norm else None,
        )
        norms = (weight, bias, *of_shortcut) if with_norm else ()
        leaves = (*maps, fc1, fc2, bias1, bias2, *norms)
        # dy from other layers may come in any memory format
        gradients = torch.autograd.grad(tail.y, leaves, dy.to(tail.y.dtype).contiguous())
        fitted.append([tail.y.detach(), *gradients])
    for found, wanted in zip(*fitted, strict=True):
        largest = wanted.abs().max().item()
        tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-5  # a bfloat16 y near 0 may lose its sign
        assert (found.double() - wanted).abs().max().item() < tolerance * max(largest, 1)


def test_a_whole_network_runs_on_the_kernels(passes, fuse_small_maps, monkeypatch):
    """Chosen by the dispatcher for every BatchNorm of a training step: the stem, and two of each of the three units."""
    calls = Counter()

    class Counting(type(passes)):
        def __getattribute__(self, name):
            if name in KERNELS:
                calls[name] += 1
            return super().__getattribute__(name)

    for module in (dispatch, operator):
        monkeypatch.setattr(module, "passes_for", lambda *_: Counting())
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(reduction=4)).to(DEVICE)
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8, device=DEVICE)
    set_fused(model, True)
    set_fused(twin, False)
    outputs = []
    for each in (model, twin):
        y = each(x)
        y.square().sum().backward()
        outputs.append([y.detach(), *(p.grad for p in each.parameters()), *each.buffers()])
    assert calls == dict.fromkeys(KERNELS, 1 + 2 * 3)
    for found, wanted in zip(*outputs, strict=True):
        assert (found - wanted).abs().max().item() <= 1e-4 * max(wanted.abs().max().item(), 1e-2)
