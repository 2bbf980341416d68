"""Number formats of the arithmetic, and which of them a device computes fast."""

from typing import Literal

import torch

from senet.errors import check_choice, warn

Precision = Literal["fp32", "bf16", "auto"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "auto")
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
        precision: "fp32", "bf16", or "auto" for bf16 where the hardware computes it.

    Raises:
        SenetError: another precision.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "bf16" and (slow := slow_bf16("precision bf16", device, "auto chooses what is fast")):
        warn(slow)
    chosen = fast_precision(device) if precision == "auto" else precision
    return torch.autocast(device.type, torch.bfloat16, enabled=chosen == "bf16")


def slow_bf16(chosen: str, device: torch.device, remedy: str) -> str:
    """Return a sentence about a choice of bf16 that makes things slower on a device; empty if it does not."""
    if has_bf16(device):
        return ""
    where = "this processor" if device.type == "cpu" else f"this device ({device.type})"
    return f"{chosen} is slow: {where} has no units for bf16 and emulates it, several times slower than fp32; {remedy}"
