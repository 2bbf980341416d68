"""Number formats of the arithmetic, and which of them a device computes fast."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import torch

from senet.errors import SenetError, check_choice, warn

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""How the arithmetic is done: "auto" is bf16 where the hardware computes it, else fp32; "fp16" needs a GPU."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
"""The type of each precision but "auto"."""
CPU_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Instructions of processors that multiply bfloat16, as `torch.cpu.get_capabilities` names them: x86's, then Arm's."""


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has bfloat16 arithmetic in hardware, rather than emulating it."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(unit) for unit in CPU_UNITS)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported(including_emulation=False))
    return False


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what "auto" means on a device: "bf16" where the hardware computes it, else "fp32"."""
    return "bf16" if has_bf16(device) else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a model computes in a precision; its weights stay as they are.

    Args:
        device: of the model.
        precision: "auto", "fp32", "bf16", or on a GPU "fp16".

    Raises:
        SenetError: another precision, or "fp16" on the CPU.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "fp16" and device.type == "cpu":
        raise SenetError("precision is 'fp16', which needs a GPU; use bf16 or fp32 on the CPU")
    if precision == "bf16" and (slow := slow_bf16("precision bf16", device, "auto chooses what is fast")):
        warn(slow)
    dtype = DTYPES[fast_precision(device) if precision == "auto" else precision]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def slow_bf16(chosen: str, device: torch.device, remedy: str) -> str:
    """Return a sentence about a choice of bf16 that makes things slower on a device; empty if it does not."""
    if has_bf16(device):
        return ""
    where = "this processor" if device.type == "cpu" else f"this device ({device.type})"
    return f"{chosen} is slow: {where} has no units for bf16 and emulates it, several times slower than fp32; {remedy}"
