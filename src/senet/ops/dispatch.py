"""Which implementation of the passes serves a device."""

import warnings
from functools import cache
from importlib.util import find_spec

import torch

from senet.ops.cpu import CompiledPasses, CompilerError
from senet.ops.passes import Passes, PlainPasses


@cache
def passes_for(device_type: str, dtype: torch.dtype) -> Passes:
    """Return the passes for feature maps of `dtype` on a device; the first call on the CPU compiles them.

    Where nothing can be compiled, plain PyTorch serves, and a warning says so once.
    """
    if device_type == "cpu":
        try:
            return CompiledPasses(dtype)
        except CompilerError as error:
            warnings.warn(
                f"{error}; SE runs unfused on the CPU (install g++ or clang++, or name a compiler in CXX)", stacklevel=2
            )
    if device_type == "cuda" and find_spec("triton"):
        from senet.ops.cuda import TritonPasses

        return TritonPasses()
    return PlainPasses()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_fused_passes(device_type: str, dtype: torch.dtype) -> bool:
    """Whether the passes for feature maps of `dtype` on a device are more than plain PyTorch."""
    return type(passes_for(device_type, dtype)) is not PlainPasses
