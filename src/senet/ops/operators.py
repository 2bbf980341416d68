"""The four operators as PyTorch's dispatcher knows them, `torch.ops.senet.moments` and so on, and which serve a device.

On any device they run in plain PyTorch, on the CPU in C++ if there is a compiler. torch.compile and torch.export keep
each as one node. On CUDA `torch.ops.senet_triton` has the same operators as Triton kernels that torch.compile sees.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NoReturn

import torch
from torch import Tensor

import senet.ops.cpu as cpu
import senet.ops.plain as plain
from senet.errors import SenetError

NAMES = ("moments", "apply", "sums", "gradients")


def shapes_of_moments(u: Tensor, second: bool) -> tuple[Tensor, Tensor]:
    """Return tensors like those of `moments`."""
    mean_NC = u.new_empty(u.shape[:2], dtype=plain.accumulator(u.dtype))
    return mean_NC, torch.empty_like(mean_NC) if second else mean_NC.new_empty(0)


def shapes_of_apply(u: Tensor, *_: Any) -> Tensor:
    """Return a tensor like that of `apply`."""
    return torch.empty_like(u)


def shapes_of_sums(
    dy: Tensor, u: Tensor, center_C: Tensor, y: Tensor | None, mask: Any, shortcut: Tensor | None, _: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tensors like those of `sums`."""
    A_NC, B_NC = (u.new_empty(u.shape[:2], dtype=center_C.dtype) for _ in range(2))
    W_NC = A_NC.new_empty(0) if shortcut is None else torch.empty_like(A_NC)
    return A_NC, B_NC, W_NC, u.new_empty(0) if y is None else torch.empty_like(u)


def shapes_of_gradients(
    g: Tensor, u: Tensor, slope: Any, mask: Any, shortcut: Tensor | None, _: Any
) -> tuple[Tensor, Tensor]:
    """Return tensors like those of `gradients`."""
    return torch.empty_like(u), u.new_empty(0) if shortcut is None else torch.empty_like(u)


@cache
def is_compiled(dtype: torch.dtype) -> bool:
    """Return whether there are C++ kernels for feature maps of `dtype`; the first call compiles them.

    Where nothing can be compiled, a warning says so once.
    """
    try:
        cpu.library(dtype)
    except cpu.CompilerError as error:
        warnings.warn(
            f"{error}; SE trains slower on the CPU (install g++ or clang++, or name a compiler in CXX)", stacklevel=2
        )
        return False
    return True


def on_cpu(name: str) -> Callable[..., Any]:
    """Return an operator's implementation for the CPU: in C++, or in plain PyTorch where there is no compiler."""
    in_cpp, in_pytorch = getattr(cpu, name), getattr(plain, name)

    def run(first: Tensor, *rest: Any) -> Any:
        return (in_cpp if is_compiled(first.dtype) else in_pytorch)(first, *rest)

    return run


def refuse_gradient(ctx: Any, *_: Any) -> NoReturn:
    """Raise an error for a call outside of the residual tail."""
    raise SenetError("the operators in torch.ops.senet have no gradients of their own; call senet.ops.residual_tail")


# Registered one by one: `torch.library.custom_op` adds 4 microseconds to each call of 3.
LIBRARY = torch.library.Library("senet", "FRAGMENT")
for name in NAMES:
    LIBRARY.define(name + torch.library.infer_schema(getattr(plain, name), mutates_args=()))
    LIBRARY.impl(name, getattr(plain, name), "CompositeExplicitAutograd")
    LIBRARY.impl(name, on_cpu(name), "CPU")
    torch.library.register_fake(f"senet::{name}", globals()[f"shapes_of_{name}"], lib=LIBRARY)
    torch.library.register_autograd(f"senet::{name}", refuse_gradient, lib=LIBRARY)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def namespace_for(device_type: str) -> str:
    """Return the name in `torch.ops` of the operators for feature maps on a device."""
    if device_type == "cuda" and find_spec("triton"):
        import_module("senet.ops.cuda")  # not before it is used: Triton takes long to import
        return "senet_triton"
    return "senet"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_kernels(device_type: str, dtype: torch.dtype) -> bool:
    """Return whether the operators for feature maps of `dtype` on a device are more than plain PyTorch."""
    if device_type == "cpu":
        return dtype in cpu.TYPES and is_compiled(dtype)
    return bool(namespace_for(device_type) != "senet")
