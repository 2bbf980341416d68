"""The Triton kernels against plain PyTorch in float64: on a GPU, or on the CPU in Triton's interpreter."""

import subprocess
from collections import Counter
from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from drivers import ENVIRONMENT, command
from senet.ops import plain
from senet.ops.plain import accumulator
from tiers import slow

triton = pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = (torch.channels_last, torch.contiguous_format)
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-12}
KERNELS = ("moments", "apply", "sums", "gradients")
SHAPES = ((1, 1, 1, 1), (2, 37, 5, 7), (3, 130, 1, 1), (2, 3, 9, 60))
IN_SPANS = (1, 5, 140, 161)
"""One image of so few channels that several programs share its positions."""


@pytest.fixture(scope="module")
def cuda():
    """The module of the kernels, which Triton compiles or, if tests/conftest.py says so, interprets."""
    from senet.ops import cuda

    return cuda


def assert_near(actual, expected, dtype):
    """Assert equality relative to the largest expected value."""
    assert actual.shape == expected.shape
    assert actual.dtype == dtype
    if actual.numel():
        largest = expected.abs().max().clamp_min(1e-3)
        assert ((actual.double() - expected).abs().max() / largest).item() < TOLERANCES[dtype]


def drawn(shape, dtype, layout):
    return torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout)


def affine_of(n, c, dtype, per_image):
    shape = (n, c) if per_image else (c,)
    return [torch.randn(s, device=DEVICE, dtype=accumulator(dtype)) for s in ((c,), shape, shape)]


def slope_of(affine):
    """A slope whose vectors have the shapes of an affine function's."""
    center_C, scale, shift = affine
    return [center_C, scale, torch.randn_like(center_C), shift]


def wide(values):
    """Return the same in float64."""
    if isinstance(values, list):
        return [wide(value) for value in values]
    return None if values is None else values.double()


CASES = [
    (shape, dtype, layout, kind, relu)
    for shape, dtype, layout in (
        *product(SHAPES, (torch.float32,), LAYOUTS),
        (IN_SPANS, torch.float32, torch.channels_last),
        (IN_SPANS, torch.bfloat16, torch.contiguous_format),
        ((2, 37, 5, 7), torch.bfloat16, torch.channels_last),
        ((2, 37, 5, 7), torch.float16, torch.contiguous_format),
        ((2, 37, 5, 7), torch.float64, torch.channels_last),
    )
    for kind in ("none", "plain", "affine")
    for relu in (True, False)
]
CASES = [slow(case) if case[0] is IN_SPANS and case[-1] else case for case in CASES]


@pytest.mark.quick_every(5)
@pytest.mark.parametrize(("shape", "dtype", "layout", "kind", "relu"), CASES)
def test_apply_sums_and_gradients(cuda, shape, dtype, layout, kind, relu):
    torch.manual_seed(0)
    n, c, *_ = shape
    u, dy, shortcut = (drawn(shape, dtype, layout) for _ in range(3))
    affine = affine_of(n, c, dtype, kind != "affine")
    own = affine_of(n, c, dtype, False) if kind == "affine" else []
    shortcut = None if kind == "none" else shortcut
    mask = affine if relu and kind == "none" else []
    if mask:  # what rounds to zero may fall on either side of it: no gradient comes from there
        dy = torch.where(plain.transformed(wide(u), wide(affine)).abs() < 1e-4, 0, dy)

    inputs = (u, affine, shortcut, own)
    y = cuda.apply(*inputs, relu)
    assert y.stride() == u.stride()
    assert_near(y, plain.apply(*map(wide, inputs), relu), dtype)

    with_norm = (shortcut, own[0]) if own else (None, None)
    inputs = (dy, u, affine[0], y if relu and kind != "none" else None, mask, *with_norm)
    *sums, g = cuda.sums(*inputs)
    *exact, exact_g = plain.sums(*map(wide, inputs))
    for found, wanted in zip(sums, exact, strict=True):
        assert_near(found, wanted, accumulator(dtype))
    assert_near(g, exact_g, dtype)

    g = g if g.numel() else dy
    inputs = (g, u, slope_of(affine), mask, shortcut if own else None, slope_of(own) if own else [])
    for found, wanted in zip(cuda.gradients(*inputs), plain.gradients(*map(wide, inputs)), strict=True):
        assert_near(found, wanted, dtype)


@pytest.mark.quick_every(5)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [*SHAPES, IN_SPANS])
@pytest.mark.parametrize("second", [True, False])
def test_moments(cuda, shape, dtype, layout, second):
    torch.manual_seed(0)
    u = drawn(shape, dtype, layout)
    for found, wanted in zip(cuda.moments(u, second), plain.moments(wide(u), second), strict=True):
        assert_near(found, wanted, accumulator(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 40, 61), IN_SPANS])
def test_large_means_with_small_variances(cuda, shape, layout):
    torch.manual_seed(0)
    u = (1e4 + drawn(shape, torch.float32, layout)).contiguous(memory_format=layout)
    mean, q = cuda.moments(u, True)
    exact_mean, exact = plain.moments(wide(u), True)
    assert ((mean - exact_mean).abs() / exact_mean).max() < 2e-7
    assert ((q - exact).abs() / exact).max() < 5e-5
    naive = u.square().mean((2, 3)) - u.mean((2, 3)).square()
    assert ((naive - exact).abs() / exact).max() > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", [0, 700, 2439])
def test_an_outlier_does_not_spoil_the_variance(cuda, layout, place):
    """Far from all others, it would cost half of the digits as the one value that is subtracted from all."""
    torch.manual_seed(0)
    u = drawn((2, 5, 40, 61), torch.float32, layout)
    u.view(2, 5, -1)[..., place] = 1e4 if layout == torch.contiguous_format else 0
    u[:, :, place // 61, place % 61] = 1e4
    mean, q = cuda.moments(u, True)
    exact_mean, exact = plain.moments(wide(u), True)
    assert ((q - exact).abs() / exact).max() < 1e-6
    assert ((mean - exact_mean).abs() / exact_mean).max() < 1e-6


def test_nan_passes_the_relu_forward_and_backward(cuda):
    """As in PyTorch's ReLU."""
    u = torch.full((1, 2, 1, 1), torch.nan, device=DEVICE)
    zero = torch.zeros(2, device=DEVICE)
    y = cuda.apply(u, [zero] * 3, None, [], True)
    assert y.isnan().all()
    A_NC, _, _, g = cuda.sums(torch.ones_like(u), torch.ones_like(u), zero, y, [], None, None)
    assert (A_NC == 1).all()
    assert (g == 1).all()


def test_a_span_is_merged_in_the_same_order_every_time(cuda):
    torch.manual_seed(0)
    u, dy = (drawn(IN_SPANS, torch.float32, torch.channels_last) for _ in range(2))
    center_C = u.new_zeros(5)
    first, second = ((*cuda.moments(u, True), *cuda.sums(dy, u, center_C, dy, [], u, center_C)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("shape", "spans"), [((2, 37, 5, 7), 1), (IN_SPANS, 2)])
def test_an_operator_is_one_launch_or_two_where_positions_are_split(cuda, monkeypatch, shape, spans):
    launches = Counter()

    class Counting:
        def __init__(self, name):
            self.name, self.kernel = name, getattr(cuda, name)

        def __getitem__(self, grid):
            launches[self.name] += 1
            return self.kernel[grid]

    for name in [name for name in vars(cuda) if name.endswith("_kernel")]:
        monkeypatch.setattr(cuda, name, Counting(name))
    u, (n, c, *_) = drawn(shape, torch.float32, torch.channels_last), shape
    affine = affine_of(n, c, torch.float32, True)
    cuda.moments(u, True)
    cuda.apply(u, affine, u, [], True)
    cuda.sums(u, u, affine[0], u, [], None, None)
    cuda.gradients(u, u, slope_of(affine), [], None, [])
    merged = {f"merge_{name}_kernel": 1 for name in ("moments", "sums") if spans > 1}
    assert launches == {f"{name}_kernel": 1 for name in KERNELS} | merged


@pytest.mark.parametrize("stage", [(256, 56), (512, 28), (1024, 14), (2048, 7)])
def test_a_large_batch_of_each_stage_of_resnet50_fills_a_gpu_once(cuda, stage):
    channels, side = stage
    for maps in (1, 2, 3, 4):
        walk = cuda.walk_of(256, channels, side * side, 2, True, maps)
        assert walk.grid == (512, 1)  # four programs of four warps each of 128 multiprocessors
        assert walk.num_warps == 4
        _, bm, bc = walk.tile
        assert bm * bc * 2 == 16 * 32 * 4  # every thread loads 16 bytes at once
        assert bm <= 8  # few rows, whose sums are exchanged at the end


@pytest.mark.parametrize("last", [True, False])
def test_every_walk_covers_all_positions_once(cuda, last):
    for images, channels, positions, size in product((1, 8, 100), (1, 37, 256), (1, 49, 3136, 10**6), (2, 4, 8)):
        (blocks, spans), span, (unrolled, bm, bc), num_warps = cuda.walk_of(images, channels, positions, size, last, 1)
        assert blocks == images * -(-channels // bc)
        assert (spans - 1) * span < positions <= spans * span
        assert span % (unrolled * bm) == 0
        assert unrolled * bm * bc <= 8 * 32 * num_warps * 16 // size
        assert all(value & (value - 1) == 0 for value in (unrolled, bm, bc, num_warps))


@pytest.mark.parametrize("name", KERNELS)
def test_operators_are_registered_as_pytorch_expects(cuda, name):
    torch.manual_seed(0)
    u = drawn((2, 8, 3, 3), torch.float32, torch.channels_last)
    affine = affine_of(2, 8, torch.float32, True)
    inputs = {
        "moments": (u, True),
        "apply": (u, affine, u, [], True),
        "sums": (u, u, affine[0], u, [], u, affine[0]),
        "gradients": (u, u, slope_of(affine), affine, u, slope_of(affine)),
    }[name]
    found = getattr(torch.ops.senet_triton, name)(*inputs)
    torch.testing.assert_close(found, getattr(cuda, name)(*inputs))
    # what compiles the operators cannot look into interpreted ones
    checks = (
        ("test_schema", "test_faketensor")
        if DEVICE == "cpu"
        else ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    )
    torch.library.opcheck(getattr(torch.ops.senet_triton, name).default, inputs, test_utils=checks)


@pytest.mark.skipif(DEVICE == "cpu", reason="takes 13 GB and a GPU")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_maps_of_more_than_two_billion_values(cuda, layout):
    u = torch.ones((1, 8, 16400, 16400), dtype=torch.bfloat16, device=DEVICE).contiguous(memory_format=layout)
    assert u.numel() > 2**31
    u[0, 7, -1, -1] = 2
    center_C, one_C = u.new_zeros(8, dtype=torch.float32), u.new_ones(8, dtype=torch.float32)
    y = cuda.apply(u, [center_C, one_C, one_C], None, [], True)
    assert y[0, 7, -1, -1] == 3
    assert y[0, 7, -2:, -2:].sum() == 9
    del y
    mean_NC, q_NC = cuda.moments(u, True)
    exact = 1 / 16400**2
    torch.testing.assert_close(mean_NC[0], one_C)
    torch.testing.assert_close(q_NC[0], torch.tensor([0.0] * 7 + [exact], device=DEVICE), rtol=1e-2, atol=1e-12)


@pytest.mark.parametrize("current", [0, 1])
def test_kernels_are_launched_on_the_device_of_their_maps(cuda, monkeypatch, current):
    entered = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    u = SimpleNamespace(get_device=lambda: 1, device="cuda:1")
    assert cuda.on_its_device(lambda *inputs: inputs)(u, True) == (u, True)
    assert entered == ([] if current == 1 else ["cuda:1"])


def driven(name, *arguments):
    """Run a driver in a process in which Triton does not interpret, and return the lines that it prints."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "TRITON_INTERPRET"}
    words = command(name, *arguments)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [
        ((256, 256, 56), "bfloat16", "channels_last"),
        ((256, 2048, 7), "bfloat16", "channels_last"),
        ((32, 64, 112), "float16", "channels_last"),
        ((256, 1024, 14), "float32", "channels_last"),
        ((64, 24, 14), "bfloat16", "channels_last"),
        ((256, 256, 56), "bfloat16", "contiguous_format"),
        ((8, 256, 56), "float64", "channels_last"),
    ],
)
def test_kernels_compile_for_a_gpu(shape, dtype, layout):
    """Compilation needs no GPU. They move 16 bytes at a time, and threads exchange values after their loops only."""
    lines = driven("compile_kernels.py", *shape, dtype, layout)
    found = Counter(name for name, *_ in lines)
    assert [found[f"{name}_kernel"] for name in KERNELS] == [1, 3, 3, 3]
    for name, _, moves, exchanges, registers, spilled in lines:
        if name.startswith("merge"):
            continue
        assert any(f"ld.global.{kind}" in moves for kind in ("v4.b32", "v2.b64"))
        assert name not in ("apply_kernel", "gradients_kernel") or "st.global.v" in moves
        assert exchanges == "0"
        if layout == "channels_last" and dtype != "float64":
            assert int(registers) <= 128  # four programs of four warps, or one of 16, fill a multiprocessor
            assert int(spilled) <= 64  # bytes of a thread: a few that the assembler trades for another program


@pytest.mark.slow
@pytest.mark.parametrize(("images", "kind"), [(256, "static"), (8, "static"), (8, "dynamic")])
def test_compiled_graphs_hold_the_kernels_and_no_other_pass(images, kind):
    lines = driven("trace_operators.py", images, kind)
    written = {name: outputs for what, name, _, outputs in (x for x in lines if x[0] == "kernel")}
    merged = {"merge_moments_kernel": "mean,q", "merge_sums_kernel": "A,B"} if images == 8 else {}
    kernels = {"moments_kernel": "mean,q", "apply_kernel": "y", "sums_kernel": "A,B,g", "gradients_kernel": "du"}
    assert written == kernels | merged
    others = {name for what, name, *_ in lines if what == "operator"}
    # empty_like would be filled by a kernel of its own, and PyTorch 2.11 would take equal calls of new_empty_strided,
    # as of a tail's forward and backward passes, for one tensor and copy it
    assert others <= {"aten.new_empty.default", "aten.permute.default", "<built-in"}
