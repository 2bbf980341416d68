"""The passes compiled for the CPU: `passes.cpp`, built by the machine's C++ compiler when it is first needed."""

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from senet.ops.gates import GATES
from senet.ops.passes import (
    Affine,
    BatchStatistics,
    Branches,
    Excitation,
    ExcitationGradients,
    ExcitationOutput,
    PlainPasses,
    Slope,
    accumulator,
)

SOURCE = Path(__file__).with_name("passes.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "half"}


class Shape(ctypes.Structure):
    """`Shape` in passes.cpp."""

    _fields_ = (
        ("n", ctypes.c_int64),
        ("c", ctypes.c_int64),
        ("m", ctypes.c_int64),
        ("channels_last", ctypes.c_bool),
        ("threads", ctypes.c_int),
    )


class Vectors(ctypes.Structure):
    """`Affine` and `Slope` in passes.cpp."""

    _fields_ = (
        ("first", ctypes.c_void_p),
        ("second", ctypes.c_void_p),
        ("third", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
    )


DATA, INT, SHAPE, VECTORS = ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Shape), ctypes.POINTER(Vectors)
SIGNATURES = {  # of the functions in passes.cpp
    "senet_moments": (SHAPE, *(DATA,) * 3),
    "senet_statistics": (SHAPE, *(DATA,) * 5),
    "senet_apply": (SHAPE, INT, INT, DATA, VECTORS, DATA, VECTORS, DATA),
    "senet_sums": (SHAPE, INT, INT, *(DATA,) * 3, VECTORS, DATA, VECTORS, *(DATA,) * 4),
    "senet_excite": (SHAPE, INT, INT, DATA, VECTORS, *(DATA,) * 8),
    "senet_excite_gradients": (SHAPE, INT, INT, *(DATA,) * 3, VECTORS, *(DATA,) * 11),
    "senet_gradients": (SHAPE, INT, INT, DATA, DATA, VECTORS, VECTORS, DATA, VECTORS, VECTORS, DATA),
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


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """Return the functions for feature maps of `dtype`, compiled for this processor by this compiler.

    Compiling takes about four seconds for each type; the result is kept in `cache_folder`.

    Raises:
        CompilerError: there is no working C++ compiler.
    """
    # The predefined macros: the compiler's version and the processor's instructions.
    target = run_compiler("-march=native", "-dM", "-E", "-x", "c++", os.devnull)
    name = TYPES[dtype]
    key = hashlib.sha256("\n".join((SOURCE.read_text(), *FLAGS, target)).encode()).hexdigest()[:16]
    try:
        path = cache_folder() / f"passes_{name}_{key}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        functions = load(path) if path.exists() else None
        if functions is None:
            compile_to(path, name)
            functions = load(path)
    except (OSError, RuntimeError):  # no home, or one that cannot be written to
        functions = None
    if functions is None:
        path = Path(tempfile.mkdtemp(prefix="senet_")) / f"passes_{name}.so"
        compile_to(path, name)
        functions = ctypes.CDLL(str(path))
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
    """Compile the passes for the C++ type `name`; the file appears whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".so", delete=False) as file:
        unfinished = Path(file.name)
    arguments = (*FLAGS, f"-DSENET_TYPE={name}", str(SOURCE), "-o", str(unfinished))
    try:
        try:
            run_compiler("-fopenmp", *arguments)
        except CompilerError:  # Apple's compiler has no OpenMP
            run_compiler("-Wno-unknown-pragmas", *arguments)
        unfinished.chmod(0o755)  # a cache may be shared
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class CompiledPasses:
    """The steps in C++; feature maps must be dense and of one memory format, vectors and matrices contiguous.

    An excitation whose gate is not in passes.cpp is computed in PyTorch; it is small, and the passes stay compiled.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.library = library(dtype)

    def moments(self, u: Tensor, second: bool) -> tuple[Tensor, Tensor | None]:
        """See `Passes`."""
        m_NC = u.new_empty(u.shape[:2], dtype=accumulator(u.dtype))
        q_NC = torch.empty_like(m_NC) if second else None
        self.library.senet_moments(shape_of(u), address(u), address(m_NC), address(q_NC))
        return m_NC, q_NC

    def statistics(self, m_NC: Tensor, q_NC: Tensor, positions: int) -> BatchStatistics:
        """See `Passes`."""
        result = BatchStatistics(*(m_NC.new_empty(m_NC.shape[1]) for _ in range(3)))
        self.library.senet_statistics(matrix(m_NC, positions), address(m_NC), address(q_NC), *map(address, result))
        return result

    def apply(self, branches: Branches) -> Tensor:
        """See `Passes`."""
        u, (a, b) = branches.u, affines(branches)
        y = torch.empty_like(u)
        maps = (address(u), a, address(branches.shortcut), b, address(y))
        self.library.senet_apply(shape_of(u), kind_of(branches), branches.relu, *maps)
        return y

    def sums(
        self, dy: Tensor, y: Tensor | None, branches: Branches
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """See `Passes`."""
        u, (a, b), kind = branches.u, affines(branches), kind_of(branches)
        A_NC, B_NC = (u.new_empty(u.shape[:2], dtype=accumulator(u.dtype)) for _ in range(2))
        W_NC = torch.empty_like(A_NC) if kind == AFFINE else None
        g = None if kind == NONE else torch.empty_like(u)
        maps = (address(dy), address(y), address(u), a, address(branches.shortcut), b)
        outputs = (address(A_NC), address(B_NC), address(W_NC), address(g))
        self.library.senet_sums(shape_of(u), kind, branches.relu, *maps, *outputs)
        return A_NC, B_NC, W_NC, g

    def excite(self, m_NC: Tensor, affine: Affine, se: Excitation) -> ExcitationOutput:
        """See `Passes`."""
        number = GATES[se.gate].number
        if number is None:
            return PlainPasses().excite(m_NC, affine, se)
        hidden_NK = m_NC.new_empty(len(m_NC), len(se.fc1))
        gate_NC, scale_NC, shift_NC = (torch.empty_like(m_NC) for _ in range(3))
        inputs = map(address, (se.fc1, se.bias1, se.fc2, se.bias2))
        outputs = map(address, (hidden_NK, gate_NC, scale_NC, shift_NC))
        kind = (hidden_NK.shape[1], number)
        self.library.senet_excite(matrix(m_NC), *kind, address(m_NC), vectors(affine), *inputs, *outputs)
        return ExcitationOutput(hidden_NK, gate_NC, Affine(affine.center_C, scale_NC, shift_NC))

    def excite_gradients(
        self, A_NC: Tensor, B_NC: Tensor, m_NC: Tensor, affine: Affine, se: Excitation, output: ExcitationOutput
    ) -> ExcitationGradients:
        """See `Passes`."""
        number = GATES[se.gate].number
        if number is None:
            return PlainPasses().excite_gradients(A_NC, B_NC, m_NC, affine, se, output)
        hidden, channels = se.fc1.shape
        dbias1, *of_channels = (m_NC.new_empty(size) for size in (hidden, channels, channels, channels))
        dfc1, dfc2, dz_NC = (torch.empty_like(x) for x in (se.fc1, se.fc2, m_NC))
        result = ExcitationGradients(dfc1, dfc2, dbias1, of_channels[0], dz_NC, *of_channels[1:])
        inputs = map(address, (se.fc1, se.fc2, output.hidden_NK, output.gate_NC))
        kind = (hidden, number)
        sums = map(address, (A_NC, B_NC, m_NC))
        self.library.senet_excite_gradients(matrix(m_NC), *kind, *sums, vectors(affine), *inputs, *map(address, result))
        return result

    def gradients(
        self, g: Tensor, branches: Branches, slope: Slope, shortcut_slope: Slope | None
    ) -> tuple[Tensor, Tensor | None]:
        """See `Passes`."""
        u, (a, b), kind = branches.u, affines(branches), kind_of(branches)
        du = torch.empty_like(u)
        maps = (address(g), address(u), a, vectors(slope))
        of_shortcut = (address(branches.shortcut), b, vectors(shortcut_slope or slope))
        self.library.senet_gradients(shape_of(u), kind, branches.relu, *maps, *of_shortcut, address(du))
        return du, None if kind == NONE else g


# ---- arguments -------------------------------------------------------------------------------------------------------

NONE, PLAIN, AFFINE = range(3)


def kind_of(branches: Branches) -> int:
    """Return the number in passes.cpp of what is added to the branch."""
    if branches.shortcut is None:
        return NONE
    return PLAIN if branches.shortcut_affine is None else AFFINE


def affines(branches: Branches) -> tuple[Vectors, Vectors]:
    """Return the arguments for the affine functions of both branches."""
    own = vectors(branches.affine)
    return own, own if branches.shortcut_affine is None else vectors(branches.shortcut_affine)


@cache
def shape(n: int, c: int, m: int, channels_last: bool, threads: int) -> Shape:
    """Return the argument that describes a feature map."""
    return Shape(n, c, m, channels_last, threads)


def matrix(x: Tensor, positions: int = 1) -> Shape:
    """Return the argument that describes images of `positions` positions by an (N, C) matrix."""
    return shape(*x.shape, positions, True, torch.get_num_threads())


def shape_of(u: Tensor) -> Shape:
    """Return the argument that describes a dense feature map."""
    n, c, h, w = u.shape
    last = u.is_contiguous(memory_format=torch.channels_last)
    return shape(n, c, h * w, last, torch.get_num_threads())


def address(x: Tensor | None) -> int | None:
    """Return where a tensor's data is."""
    return None if x is None else x.data_ptr()


def vectors(of: Affine | Slope) -> Vectors:
    """Return the argument for an affine function or its slope."""
    last = of[2]
    return Vectors(*(x.data_ptr() for x in of), last.shape[1] if last.dim() == 2 else 0)
