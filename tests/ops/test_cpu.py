"""The C++ operators against plain PyTorch, and the compiler: none, a folder that cannot be written, two at once."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from drivers import ENVIRONMENT, command
from senet.ops import Excitation, Norm, cpu, plain, residual_tail
from senet.ops.cpu import CompilerError
from senet.ops.function import layout_of
from senet.ops.plain import Affine, Slope, accumulator
from stopping import wait_for

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
    return [in_double(part) for part in x] if isinstance(x, list | tuple) else x


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    if expected.numel():
        limit = tolerance * (expected.abs().max().item() or 1)
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=limit)


def assert_same(operator: str, dtype: torch.dtype, *arguments: object) -> None:
    """Compare one operator with what plain PyTorch computes in float64."""
    kept = [x.clone() for x in arguments if isinstance(x, Tensor)]
    expected = getattr(plain, operator)(*in_double(arguments))
    found = getattr(cpu, operator)(*arguments)
    if isinstance(expected, Tensor):
        expected, found = (expected,), (found,)
    for actual, exact in zip(found, expected, strict=True):
        if actual.dim() == 4:
            assert actual.dtype == dtype
            assert actual.is_contiguous(memory_format=layout_of(arguments[0]))
        assert_close(actual, exact, TOLERANCES[dtype])
    assert all(torch.equal(x, y) for x, y in zip(kept, (x for x in arguments if isinstance(x, Tensor)), strict=True))


@every_dtype
@every_layout
@every_map
def test_moments(dtype, shape, layout):
    u = random_map(shape, dtype, layout)
    assert_same("moments", dtype, u, True)
    assert_same("moments", dtype, u, False)


@pytest.mark.quick_every(4)
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
    slope, s_slope = (Slope(x.center_C, x.scale, x.center_C, x.shift) for x in (a, b))
    for other, other_affine in ((None, []), (shortcut, []), (shortcut, b)):
        assert_same("apply", dtype, u, a, other, other_affine, relu)
        y = cpu.apply(u, a, other, other_affine, relu) if relu and other is not None else None
        # A rounding may decide on which side of the ReLU's corner a value is; nothing may depend on that.
        before_relu = plain.apply(*in_double((u, a, other, other_affine)), False)
        dy = dy * (before_relu.abs() > 1e-3)
        mask = a if relu and other is None else []
        normed = (shortcut, b.center_C) if other_affine else (None, None)
        assert_same("sums", dtype, dy, u, a.center_C, y, mask, *normed)
        assert_same("gradients", dtype, dy, u, slope, mask, normed[0], s_slope if other_affine else [])


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
        command("compiled_kernels.py", str(dtype).removeprefix("torch.")),
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
        cpu.run_compiler("--version")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) > 10


def test_without_a_compiler_plain_pytorch_serves_and_one_warning_says_so(tmp_path: Path):
    fused, *told = said_by(start(torch.float32, CXX="/nonexistent", SENET_CACHE=tmp_path))
    assert fused == "False"
    assert len(told) == 1
    assert told[0].startswith("CXX is '/nonexistent', which is no program; SE trains slower on the CPU")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    process = start(torch.float64, SENET_CACHE=tmp_path / "file" / "cache", TMPDIR=tmp_path)
    assert said_by(process) == ["True"]


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which two processes have compiled at once."""
    folder = tmp_path_factory.mktemp("shared") / "cache"
    both = [start(torch.bfloat16, SENET_CACHE=folder) for _ in range(2)]
    for process in both:
        assert said_by(process) == ["True"]
    return folder


@pytest.mark.slow
def test_two_processes_compile_at_once(shared_cache: Path):
    (compiled,) = shared_cache.iterdir()
    assert compiled.name.startswith("kernels_bf16_")
    assert compiled.suffix == ".so"


@pytest.mark.slow
def test_a_damaged_file_in_the_cache(shared_cache: Path, tmp_path: Path):
    """What a loss of power may leave."""
    for compiled in shared_cache.iterdir():
        (tmp_path / compiled.name).touch()
    assert said_by(start(torch.bfloat16, SENET_CACHE=tmp_path)) == ["True"]


def compiled_file(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Return the file in a cache that would be compiled now."""
    asked: list[Path] = []
    functions = SimpleNamespace(**{name: SimpleNamespace() for name in cpu.SIGNATURES})
    with monkeypatch.context() as patch:
        patch.setenv("SENET_CACHE", str(folder))
        patch.setattr(cpu, "compile_to", lambda path, name: asked.append(path))
        patch.setattr(cpu, "load", lambda path: functions)
        cpu.library.__wrapped__(torch.float32)
    return asked[0]


def test_each_processor_compiler_and_c_library_has_a_file_of_its_own(tmp_path, monkeypatch):
    found = {compiled_file(monkeypatch, tmp_path)}
    for macros in ("#define __AVX2__ 1", "#define __AVX512F__ 1", '#define __VERSION__ "99"'):
        monkeypatch.setattr(cpu, "run_compiler", lambda *words, macros=macros: macros)
        found.add(compiled_file(monkeypatch, tmp_path))
    monkeypatch.setattr(cpu.platform, "libc_ver", lambda: ("glibc", "2.0"))
    found.add(compiled_file(monkeypatch, tmp_path))
    assert len(found) == 5


def test_what_a_killed_compiler_has_left_is_removed_when_it_is_old(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "run_compiler", lambda *words: Path(words[-1]).write_text("compiled"))
    new, old = tmp_path / ".kernels_a.part", tmp_path / ".kernels_b.part"
    for path in (new, old):
        path.touch()
    os.utime(old, (0, 0))
    cpu.compile_to(tmp_path / "kernels_float_0.so", "float")
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "kernels_float_0.so"}


COMPILER = """#!/bin/sh
case "$*" in *-dM*) echo "$PROCESSOR" ;; *) echo started > "$STARTED"; sleep "${SECONDS_MORE:-0}"; exec g++ "$@" ;; esac
"""
"""Stands for the compiler of a machine with another processor, or for one that takes long."""


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    path = tmp_path / "compiler"
    path.write_text(COMPILER)
    path.chmod(0o755)
    return path


@pytest.mark.slow
def test_a_kill_while_compiling_does_not_keep_the_next_process_waiting(tmp_path: Path, compiler: Path):
    told = {"CXX": compiler, "SENET_CACHE": tmp_path / "cache", "STARTED": tmp_path / "started", "PROCESSOR": "a"}
    first = start(torch.float64, **told, SECONDS_MORE=1000)
    wait_for((tmp_path / "started").exists, 60)
    first.kill()
    first.communicate()
    assert said_by(start(torch.float64, **told)) == ["True"]
    assert len(list((tmp_path / "cache").glob("*.so"))) == 1


@pytest.mark.slow
def test_what_another_processor_has_compiled_is_not_run(tmp_path: Path, compiler: Path):
    """A file with an instruction that this processor lacks ends the process when it is loaded."""
    told = {"CXX": compiler, "SENET_CACHE": tmp_path / "cache", "STARTED": tmp_path / "started"}
    assert said_by(start(torch.float64, **told, PROCESSOR="AVX-1024")) == ["True"]
    (compiled,) = (tmp_path / "cache").glob("*.so")
    trap = "__attribute__((constructor)) void start() { __builtin_trap(); }"
    build = ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", compiled]
    subprocess.run(build, input=trap, text=True, check=True)
    process = start(torch.float64, **told, PROCESSOR="AVX-1024")
    process.communicate()
    assert process.returncode < 0
    assert said_by(start(torch.float64, **told, PROCESSOR="AVX2")) == ["True"]


@every_layout
def test_moments_where_the_first_position_is_far_away(layout: torch.memory_format) -> None:
    """Values are taken relative to it, so that its distance from the others could cancel their digits."""
    torch.manual_seed(0)
    u = torch.randn(2, 64, 48, 48).to(memory_format=layout)
    u[:, :, 0, 0] = 1e4
    mean_NC, q_NC = cpu.moments(u, True)
    exact_mean_NC, exact_q_NC = plain.moments(u.double(), True)
    assert ((mean_NC - exact_mean_NC).abs() / exact_q_NC.sqrt()).max() < 1e-4
    assert ((q_NC - exact_q_NC).abs() / exact_q_NC).max() < 1e-4
