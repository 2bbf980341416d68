"""Which precision is fast on the hardware at hand."""

from dataclasses import replace

import torch

from senet.training.config import Precision, TrainConfig

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


def choose_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the configuration with bf16 or fp32 in the place of "auto"."""
    if config.compute.precision != "auto":
        return config
    precision: Precision = "bf16" if has_bf16(device) else "fp32"
    return replace(config, compute=replace(config.compute, precision=precision))


def slow_bf16(chosen: str, device: torch.device, remedy: str) -> str:
    """Return a sentence about a choice of bf16 that makes things slower on a device; empty if it does not."""
    if has_bf16(device):
        return ""
    where = "this processor" if device.type == "cpu" else f"this device ({device.type})"
    return f"{chosen} is slow: {where} has no units for bf16 and emulates it, several times slower than fp32; {remedy}"
