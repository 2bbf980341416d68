"""The machine that a time was measured on: its processor, the instructions that int8 and bf16 need, and versions."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from senet.errors import counted

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "int8 matrix product",
    "bf16": "bf16",
    "sve": "SVE",
}
"""What a report names: the flag in Linux's /proc/cpuinfo, x86 and ARM, and the name that the vendors give it."""
FOR_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that multiply and add 8-bit integers at once; without one int8 is hardly faster than float."""
PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "executorch", "coremltools")
"""Whose versions decide what an exported network computes, and how fast."""

NO_INT8 = "int8 is fast only with VNNI, AMX or ARM's dot product: these times say nothing of processors that have them"


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The processor.

    Args:
        name: its model.
        cores: that the process may use.
        threads: that PyTorch and the runtime compute with.
        instructions: that matter for inference, in the vendors' words; empty if they are not known.
        has_int8: whether it multiplies and adds 8-bit integers at once (VNNI, AMX, ARM's dot product); None if unknown.
    """

    name: str
    cores: int
    threads: int
    instructions: tuple[str, ...]
    has_int8: bool | None

    def described(self, precision: str) -> str:
        """Return it in a sentence, with a warning where its times of int8 say nothing of others."""
        known = ", ".join(self.instructions) or "its instructions are not known"
        text = f"{self.name}, {counted(self.threads, 'thread')} on {counted(self.cores, 'core')} ({known})"
        return text if precision != "int8" or self.has_int8 else f"{text}; {NO_INT8}"


def processor() -> Processor:
    """Return what is known of the processor: from Linux's list, elsewhere from PyTorch."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    flags = flags_in(lines)
    return Processor(
        name=next((text for key, text in map(fields, lines) if key == "model name"), platform.processor() or "unknown"),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        instructions=tuple(name for flag, name in INSTRUCTIONS.items() if flag in flags),
        has_int8=any(flag in flags for flag in FOR_INT8) if flags else None,
    )


def flags_in(lines: Sequence[str]) -> frozenset[str]:
    """Return the flags of the first processor in the lines of /proc/cpuinfo, as x86 and ARM write them."""
    texts = (text for key, text in map(fields, lines) if key in ("flags", "Features"))
    return frozenset(next(texts, "").split())


def fields(line: str) -> tuple[str, str]:
    """Return key and value of a line of /proc/cpuinfo."""
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed, of `PACKAGES` and this one."""
    found = {"python": platform.python_version()}
    for package in ("senet", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def size_of(path: Path) -> int:
    """Return the bytes of an exported network: a folder whole, a file with those beside it that hold its weights."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    beside = {path.with_suffix(".bin")} if path.suffix == ".xml" else {path.with_name(f"{path.name}.data")}
    return sum(file.stat().st_size for file in (path, *beside) if file.is_file())
