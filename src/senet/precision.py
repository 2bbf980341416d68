"""The precisions of the library, and which one is fast on the hardware at hand."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""In which arithmetic is done: "auto" is bf16 where the hardware computes it, else fp32; "fp16" needs a GPU."""

DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
"""The type of each precision but "auto"."""

CPU_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Instructions of processors that multiply bfloat16, as `torch.cpu.get_capabilities` names them: x86's, then Arm's."""


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself, rather than emulate it."""
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(unit) for unit in CPU_UNITS)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported(including_emulation=False))
    return False


def choose_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision, with bf16 or fp32 in the place of "auto"."""
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def slow_bf16(option: str, device: torch.device, remedy: str) -> str:
    """Return a sentence about bf16 on a device that emulates it; empty if the device computes it.

    Args:
        option: how bf16 was asked for, such as "compute.precision bf16".
        device: where it is to be computed.
        remedy: what to do about it.
    """
    if has_bf16(device):
        return ""
    where = "this processor" if device.type == "cpu" else f"this device ({device.type})"
    return f"{option} is slow: {where} has no units for bf16 and emulates it, several times slower than fp32; {remedy}"
