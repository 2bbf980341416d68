"""The operators on the CPU: `kernels.cpp`, built by the machine's C++ compiler when it is first needed."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.files import make_folder, put
from senet.ops.plain import accumulator

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
UNFINISHED, ABANDONED = ".part", 3600
"""How files end that are being written, and seconds after which a killed process must have left one."""
TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "half"}


class Shape(ctypes.Structure):
    """`Shape` in kernels.cpp."""

    _fields_ = (
        ("n", ctypes.c_int64),
        ("c", ctypes.c_int64),
        ("m", ctypes.c_int64),
        ("channels_last", ctypes.c_bool),
        ("threads", ctypes.c_int),
    )


class Affine(ctypes.Structure):
    """`Affine` in kernels.cpp."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("center", "scale", "shift")), ("stride", ctypes.c_int64))


class Slope(ctypes.Structure):
    """`Slope` in kernels.cpp."""

    _fields_ = (*((name, ctypes.c_void_p) for name in ("center", "P", "Q", "R")), ("stride", ctypes.c_int64))


DATA, SHAPE, AFFINE, SLOPE = ctypes.c_void_p, *map(ctypes.POINTER, (Shape, Affine, Slope))
SIGNATURES = {  # of the functions in kernels.cpp
    "senet_moments": (SHAPE, DATA, DATA, DATA),
    "senet_apply": (SHAPE, ctypes.c_bool, DATA, AFFINE, DATA, AFFINE, DATA),
    "senet_sums": (SHAPE, *(DATA,) * 4, AFFINE, *(DATA,) * 6),
    "senet_gradients": (SHAPE, DATA, DATA, SLOPE, AFFINE, DATA, SLOPE, DATA, DATA),
}


class CompilerError(Exception):
    """There is no working C++ compiler."""


def cache_folder() -> Path:
    """Return where compiled files are kept: SENET_CACHE, or the user's cache folder."""
    own, users = os.environ.get("SENET_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(users or "~/.cache").expanduser() / "senet"


def run_compiler(*arguments: str) -> str:
    """Run the compiler, CXX or the first of g++, clang++ and c++ that works; return what it prints."""
    chosen = os.environ.get("CXX")
    complaint = f"CXX is {chosen!r}, which is no program" if chosen else "no C++ compiler was found"
    try:
        commands = [shlex.split(chosen)] if chosen else [["g++"], ["clang++"], ["c++"]]
    except ValueError:  # a quotation without an end
        commands = []
    for command in commands:
        try:
            return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True).stdout
        except OSError:
            continue
        except subprocess.CalledProcessError as error:
            complaint = f"{command[0]} failed: {(error.stderr.strip() or 'no message').splitlines()[0]}"
    raise CompilerError(complaint)


def target() -> str:
    """Return what compiled files depend on: the compiler, the processor's instructions, and the C library.

    The first two are the compiler's predefined macros, asked for in every process: a cache may be shared by machines of
    different processors, and a home be moved to another one. PyTorch's version does not matter, for nothing of it is
    linked.

    Raises:
        CompilerError: there is no working C++ compiler.
    """
    macros = run_compiler("-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    return "\n".join((macros, *platform.libc_ver()))


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """Return the functions for feature maps of `dtype`, compiled for this processor by this compiler.

    Compiling takes about four seconds for each type; the result is kept in `cache_folder`.

    Raises:
        CompilerError: there is no working C++ compiler.
    """
    name = TYPES[dtype]
    key = hashlib.sha256("\n".join((SOURCE.read_text(), *FLAGS, target())).encode()).hexdigest()[:16]
    try:
        path = cache_folder() / f"kernels_{name}_{key}.so"
        make_folder(path.parent)
        functions = load(path) if path.exists() else None
        if functions is None:
            compile_to(path, name)
            functions = load(path)
    except (OSError, RuntimeError, CompilerError):  # no home, or one that is full or cannot be written to
        functions = None
    if functions is None:
        path = Path(tempfile.mkdtemp(prefix="senet_")) / f"kernels_{name}.so"
        compile_to(path, name)
        functions = ctypes.CDLL(str(path))
        shutil.rmtree(path.parent, ignore_errors=True)  # what is loaded stays so
    for function, types in SIGNATURES.items():
        getattr(functions, function).argtypes = types
        getattr(functions, function).restype = None
    return functions


def load(path: Path) -> ctypes.CDLL | None:
    """Load a compiled file; None if it is damaged."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def compile_to(path: Path, name: str) -> None:
    """Compile the kernels for the C++ type `name`; the file appears whole or not at all."""
    for old in path.parent.glob(f"*{UNFINISHED}"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                old.unlink()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".kernels_", suffix=UNFINISHED, delete=False) as file:
        unfinished = Path(file.name)  # two processes that compile at once do not wait for each other
    arguments = (*FLAGS, f"-DSENET_TYPE={name}", str(SOURCE), "-o", str(unfinished))
    try:
        try:
            run_compiler("-fopenmp", *arguments)
        except CompilerError:  # Apple's compiler has no OpenMP
            run_compiler("-Wno-unknown-pragmas", *arguments)
        unfinished.chmod(0o755)  # a cache may be shared
        put(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


# ---- the operators ---------------------------------------------------------------------------------------------------
# Feature maps must be dense and of one memory format, vectors and matrices contiguous.


def moments(u: Tensor, second: bool) -> tuple[Tensor, Tensor]:
    """See `plain.moments`."""
    mean_NC = u.new_empty(u.shape[:2], dtype=accumulator(u.dtype))
    q_NC = torch.empty_like(mean_NC) if second else mean_NC.new_empty(0)
    library(u.dtype).senet_moments(shape_of(u), u.data_ptr(), mean_NC.data_ptr(), address(q_NC))
    return mean_NC, q_NC


def apply(
    u: Tensor, affine: Sequence[Tensor], shortcut: Tensor | None, shortcut_affine: Sequence[Tensor], relu: bool
) -> Tensor:
    """See `plain.apply`."""
    y = torch.empty_like(u)
    functions = (affine_of(affine), address(shortcut), affine_of(shortcut_affine))
    library(u.dtype).senet_apply(shape_of(u), relu, u.data_ptr(), *functions, y.data_ptr())
    return y


def sums(
    dy: Tensor,
    u: Tensor,
    center_C: Tensor,
    y: Tensor | None,
    mask: Sequence[Tensor],
    shortcut: Tensor | None,
    shortcut_center_C: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `plain.sums`."""
    A_NC = u.new_empty(u.shape[:2], dtype=center_C.dtype)
    B_NC = torch.empty_like(A_NC)
    W_NC = A_NC.new_empty(0) if shortcut is None else torch.empty_like(A_NC)
    g = u.new_empty(0) if y is None else torch.empty_like(u)
    inputs = (dy.data_ptr(), u.data_ptr(), center_C.data_ptr(), address(y), affine_of(mask), address(shortcut))
    results = (A_NC.data_ptr(), B_NC.data_ptr(), address(W_NC), address(g))
    library(u.dtype).senet_sums(shape_of(u), *inputs, address(shortcut_center_C), *results)
    return A_NC, B_NC, W_NC, g


def gradients(
    g: Tensor,
    u: Tensor,
    slope: Sequence[Tensor],
    mask: Sequence[Tensor],
    shortcut: Tensor | None,
    shortcut_slope: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """See `plain.gradients`."""
    du = torch.empty_like(u)
    dshortcut = u.new_empty(0) if shortcut is None else torch.empty_like(u)
    of_u = (g.data_ptr(), u.data_ptr(), slope_of(slope), affine_of(mask))
    of_shortcut = (address(shortcut), slope_of(shortcut_slope))
    library(u.dtype).senet_gradients(shape_of(u), *of_u, *of_shortcut, du.data_ptr(), address(dshortcut))
    return du, dshortcut


# ---- their arguments -------------------------------------------------------------------------------------------------


@cache
def shape(n: int, c: int, m: int, channels_last: bool, threads: int) -> Shape:
    """Return the argument that describes a feature map."""
    return Shape(n, c, m, channels_last, threads)


def shape_of(u: Tensor) -> Shape:
    """Return the argument that describes a dense feature map."""
    n, c, h, w = u.shape
    last = u.is_contiguous(memory_format=torch.channels_last)
    return shape(n, c, h * w, last, torch.get_num_threads())


def address(x: Tensor | None) -> int | None:
    """Return where a tensor's data is; None if it is absent or empty."""
    return None if x is None else x.data_ptr() or None


def affine_of(vectors: Sequence[Tensor]) -> Affine | None:
    """Return the argument for an affine function; None for none."""
    return Affine(*(x.data_ptr() for x in vectors), stride(vectors[2])) if vectors else None


def slope_of(vectors: Sequence[Tensor]) -> Slope | None:
    """Return the argument for the slope of an affine function; None for none."""
    return Slope(*(x.data_ptr() for x in vectors), stride(vectors[3])) if vectors else None


def stride(vector: Tensor) -> int:
    """Return how far the values of one image are from those of the next."""
    return vector.shape[1] if vector.dim() == 2 else 0
