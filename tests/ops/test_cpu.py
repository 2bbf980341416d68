"""The compiled passes against plain PyTorch, and the compiler: none, a folder that cannot be written, two at once."""

import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from drivers import ENVIRONMENT, command
from senet.ops import Excitation, Norm, residual_tail
from senet.ops import cpu as cpu_passes
from senet.ops.cpu import CompiledPasses, CompilerError
from senet.ops.gates import GATES
from senet.ops.passes import Affine, Branches, PlainPasses, Slope

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SHAPES = ((3, 8, 5, 4), (1, 37, 3, 3), (5, 7, 1, 1), (4, 1, 6, 5), (2, 2050, 2, 3), (2, 64, 48, 48))

# Largest allowed difference: of a value, and in units of the largest value of its tensor.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}

every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
every_map = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)


def random_map(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return (torch.randn(shape) + torch.randn(shape[1], 1, 1)).to(dtype).to(memory_format=layout)


def random_affine(shape: tuple[int, ...], dtype: torch.dtype, of_images: bool) -> Affine:
    vectors = shape[:2] if of_images else shape[1:2]
    return Affine(*(torch.randn(size).to(dtype) for size in (shape[1:2], vectors, vectors)))


def in_double(x: object) -> object:
    """The same with every tensor in float64."""
    if isinstance(x, Tensor):
        return x.double()
    if isinstance(x, Branches):
        return Branches(*(in_double(part) for part in vars(x).values()))
    if isinstance(x, tuple):
        parts = [in_double(part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    largest = expected.abs().max().item() or 1
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * largest)


def assert_same_step(step: str, dtype: torch.dtype, *arguments: object) -> None:
    """Compare one step with what plain PyTorch computes in float64."""
    expected = getattr(PlainPasses(), step)(*in_double(arguments))
    found = getattr(CompiledPasses(dtype), step)(*arguments)
    assert isinstance(found, Tensor) == isinstance(expected, Tensor)
    for actual, exact in zip(flat(found), flat(expected), strict=True):
        assert (actual is None) == (exact is None)
        if actual is not None:
            if actual.dim() == 4:
                assert actual.dtype == dtype
                assert actual.is_contiguous() or actual.is_contiguous(memory_format=torch.channels_last)
            assert_close(actual, exact, TOLERANCES[dtype])


def flat(x: object) -> list[Tensor | None]:
    """The tensors of nested tuples."""
    return [part for parts in x for part in flat(parts)] if isinstance(x, tuple) else [x]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@every_dtype
@every_layout
@every_map
def test_moments_and_statistics(dtype, shape, layout):
    u = random_map(shape, dtype, layout)
    assert_same_step("moments", dtype, u, True)
    assert_same_step("moments", dtype, u, False)
    m_NC, q_NC = CompiledPasses(dtype).moments(u, True)
    assert_same_step("statistics", dtype, m_NC, q_NC, shape[2] * shape[3])


@every_dtype
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("of_images", [True, False])
@every_layout
@every_map
def test_passes_over_the_map(dtype, shape, layout, of_images, relu):
    torch.manual_seed(0)
    acc = accumulator(dtype)
    u, dy, shortcut = (random_map(shape, dtype, layout) for _ in range(3))
    a, b = random_affine(shape, acc, of_images), random_affine(shape, acc, False)
    slope, s_slope = (Slope(x.scale, x.center_C, x.shift) for x in (a, b))
    for other, other_affine in ((None, None), (shortcut, None), (shortcut, b)):
        branches = Branches(u, a, relu, other, other_affine)
        assert_same_step("apply", dtype, branches)
        y = CompiledPasses(dtype).apply(branches)
        assert y.stride() == u.stride()
        # A rounding may decide on which side of the ReLU's corner a value is; nothing may depend on that.
        before_relu = PlainPasses().apply(in_double(Branches(u, a, False, other, other_affine)))
        dy = dy * (before_relu.abs() > 1e-3)
        kept, g = dy.clone(), dy.clone()
        assert_same_step("sums", dtype, dy, y if relu and other is not None else None, branches)
        assert torch.equal(dy, kept)
        assert_same_step("gradients", dtype, g, branches, slope, None if other_affine is None else s_slope)


@every_dtype
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("images", "channels", "hidden"), [(1, 5, 1), (5, 37, 3), (8, 64, 4), (7, 1030, 65)])
def test_excitation(dtype, gate, biases, images, channels, hidden):
    torch.manual_seed(0)
    acc = accumulator(dtype)
    fc1, fc2 = (torch.randn(size, dtype=acc) / size[1] ** 0.5 for size in ((hidden, channels), (channels, hidden)))
    bias1, bias2 = (torch.randn(size, dtype=acc) if biases else None for size in (hidden, channels))
    A, B, m = (torch.randn(images, channels, dtype=acc) for _ in range(3))
    affine = random_affine((images, channels, 1, 1), acc, False)
    se = Excitation(fc1, fc2, bias1, bias2, gate)
    done = CompiledPasses(dtype).excite(m, affine, se)
    assert_same_step("excite", dtype, m, affine, se)
    assert_same_step("excite_gradients", dtype, A, B, m, affine, se, done)


@every_dtype
def test_special_values(dtype):
    u = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1.0], dtype=dtype).reshape(1, 5, 1, 1)
    y = residual_tail(u).y
    torch.testing.assert_close(y, u.relu(), equal_nan=True)
    torch.testing.assert_close(residual_tail(u, relu=False).y, u, equal_nan=True)


@every_dtype
@every_layout
def test_threads_agree(dtype, layout):
    torch.manual_seed(0)
    u, shortcut, dy = (random_map((3, 64, 48, 48), dtype, layout) for _ in range(3))
    parameters = [torch.rand(64), torch.randn(64), torch.randn(4, 64), torch.randn(64, 4)]
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            leaves = [x.clone().requires_grad_() for x in (u, shortcut, *parameters)]
            y = residual_tail(leaves[0], Norm(*leaves[2:4]), Excitation(*leaves[4:]), leaves[1]).y
            found.append((y.detach(), *torch.autograd.grad(y, leaves, dy)))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert_close(two, one.double(), TOLERANCES[dtype])


# ---- the compiler, each time in a process of its own -----------------------------------------------------------------


def start(dtype: torch.dtype, **environment: object) -> subprocess.Popen:
    told = {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        command("compiled_passes.py", str(dtype).removeprefix("torch.")),
        env={**ENVIRONMENT, **told, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_by(process: subprocess.Popen) -> list[str]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return out.strip().split("|")


@pytest.mark.parametrize("compiler", ["/nonexistent", "false", "/dev/null", "'"])
def test_no_compiler(compiler, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(CompilerError) as raised:
        cpu_passes.run_compiler("--version")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) > 10


def test_without_a_compiler_plain_pytorch_serves_and_one_warning_says_so(tmp_path: Path):
    name, fused, *told = said_by(start(torch.float32, CXX="/nonexistent", SENET_CACHE=tmp_path))
    assert (name, fused) == ("PlainPasses", "False")
    assert len(told) == 1
    assert told[0].startswith("CXX is '/nonexistent', which is no program; SE runs unfused on the CPU")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    process = start(torch.float64, SENET_CACHE=tmp_path / "file" / "cache", TMPDIR=tmp_path)
    assert said_by(process) == ["CompiledPasses", "True"]


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which two processes have compiled at once."""
    folder = tmp_path_factory.mktemp("shared") / "cache"
    both = [start(torch.bfloat16, SENET_CACHE=folder) for _ in range(2)]
    for process in both:
        assert said_by(process) == ["CompiledPasses", "True"]
    return folder


@pytest.mark.slow
def test_two_processes_compile_at_once(shared_cache: Path):
    (compiled,) = shared_cache.iterdir()
    assert compiled.name.startswith("passes_bf16_")
    assert compiled.suffix == ".so"


@pytest.mark.slow
def test_a_damaged_file_in_the_cache(shared_cache: Path, tmp_path: Path):
    """What a loss of power may leave."""
    for compiled in shared_cache.iterdir():
        (tmp_path / compiled.name).touch()
    assert said_by(start(torch.bfloat16, SENET_CACHE=tmp_path)) == ["CompiledPasses", "True"]


@every_layout
def test_moments_where_the_first_position_is_far_away(layout: torch.memory_format) -> None:
    """Values are taken relative to it, so that its distance from the others could cancel their digits."""
    torch.manual_seed(0)
    u = torch.randn(2, 64, 48, 48).to(memory_format=layout)
    u[:, :, 0, 0] = 1e4
    mean_NC, q_NC = CompiledPasses(u.dtype).moments(u, True)
    exact_mean_NC, exact_q_NC = PlainPasses().moments(u.double(), True)
    assert ((mean_NC - exact_mean_NC).abs() / exact_q_NC.sqrt()).max() < 1e-4
    assert ((q_NC - exact_q_NC).abs() / exact_q_NC).max() < 1e-4
