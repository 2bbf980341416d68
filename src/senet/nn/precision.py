"""Number formats of the arithmetic, and which of them a device computes fast."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch

from senet.errors import SenetError, check_choice, warn

Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
"""How the arithmetic is done.

"auto" is bf16 where the hardware computes it, else fp32. "fp32" is float32 in convolutions too, where PyTorch by itself
takes TF32 on CUDA. "tf32" (NVIDIA's GPUs since Ampere) rounds what convolutions and matrix products multiply to 10 bits
of mantissa; tensors and sums stay float32. "bf16" and "fp16" are autocast; "fp16" needs a GPU.
"""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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


def has_tf32(device: torch.device) -> bool:
    """Return whether a device multiplies in TF32: NVIDIA's GPUs since Ampere."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def fast_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what "auto" means on a device: "bf16" where the hardware computes it, else "fp32".

    Never "fp16", not even where it is the only fast one (a V100 or T4): values above 65504 overflow, which ends a run.
    """
    return "bf16" if has_bf16(device) else "fp32"


def check_precision(argument: str, precision: Precision, device: torch.device) -> None:
    """Raise a SenetError unless a device can compute in a precision.

    Args:
        argument: the argument's name, for the message.
        precision: what the caller passed.
        device: of the model.
    """
    check_choice(argument, precision, PRECISIONS)
    if precision == "fp16" and device.type == "cpu":
        raise SenetError(f"{argument} is 'fp16', which needs a GPU; use bf16 or fp32 on the CPU")
    if precision == "tf32" and not has_tf32(device):
        what = "the CPU" if device.type == "cpu" else f"this device ({device.type})"
        raise SenetError(f"{argument} is 'tf32', which NVIDIA's GPUs have since Ampere; use auto or fp32 on {what}")


@contextmanager
def computing(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute in a precision meanwhile; the weights of models stay as they are.

    Args:
        device: of the model.
        precision: "auto", "fp32", "bf16", and on a GPU "tf32" or "fp16".

    Raises:
        SenetError: another precision, or one that the device does not have.
    """
    check_precision("precision", precision, device)
    if precision == "bf16" and (slow := slow_bf16("precision bf16", device, "auto chooses what is fast")):
        warn(slow)
    precision = fast_precision(device) if precision == "auto" else precision
    dtype = DTYPES[precision]
    with float32_products(device, precision), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield


@contextmanager
def float32_products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Compute products of float32 tensors on CUDA as "fp32" and "tf32" say; other precisions leave them as they are.

    The settings are the process's, and are restored afterwards.
    """
    if device.type != "cuda" or precision not in ("fp32", "tf32"):
        yield
        return
    backends: Any = torch.backends  # whose stubs lack the newer settings
    cudnn = backends.cudnn
    parts = (backends.cuda.matmul, cudnn.conv, cudnn.rnn, backends.mkldnn.matmul)
    newer, older = [(part, part.fp32_precision) for part in parts], older_settings()
    try:
        # Both generations of settings: torch.compile reads the older, an error where the newer contradict them.
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        cudnn.allow_tf32 = precision == "tf32"
        for part in parts[:3]:
            part.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        if older[0] is not None:
            torch.set_float32_matmul_precision(older[0])
        if older[1] is not None:
            cudnn.allow_tf32 = older[1]
        for part, setting in newer:
            part.fp32_precision = setting


def older_settings() -> tuple[str | None, bool | None]:
    """Return PyTorch's older settings of matrix products and convolutions; None for one that the newer contradict."""
    found: list[Any] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found[0], found[1]


def slow_bf16(chosen: str, device: torch.device, remedy: str) -> str:
    """Return a sentence about a choice of bf16 that makes things slower on a device; empty if it does not."""
    if has_bf16(device):
        return ""
    where = "this processor" if device.type == "cpu" else f"this device ({device.type})"
    return f"{chosen} is slow: {where} has no units for bf16 and emulates it, several times slower than fp32; {remedy}"
