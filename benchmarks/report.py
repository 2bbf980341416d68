"""What every benchmark needs: contestants timed in turn, bounds, and results beside the machine they were made on."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

RESULTS = Path(__file__).parent / "results"
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


KEPT = "MALLOC_TRIM_THRESHOLD_"
"""With this variable set, and MALLOC_MMAP_THRESHOLD_, glibc keeps what is freed, as allocators of GPU memory do. Else
feature maps of 32 MB and more are mapped again at every step, and page faults are a part of every time: 2 us for 4 kB,
but up to 2 ms for 2 MB where a virtual machine's host has taken the memory back."""
KEEPING = {KEPT: str(64 << 30), "MALLOC_MMAP_THRESHOLD_": str(4 << 30)}
"""The environment of a process that keeps it, as the Makefile has it; glibc reads it when the process starts."""


def machine() -> dict[str, Any]:
    """Describe the processor and, if there is one, the accelerator."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def processor_name() -> str:
    """Return the processor's model name, from Linux's list or else from Python's platform module."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def time_in_turn(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    calls: int = 1,
    device: Device = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    settle: int = 0,
) -> dict[str, list[float]]:
    """Time every contestant once a round, so that a change of the machine's speed meets all of them.

    Args:
        contestants: by name; each is called once beforehand, untimed.
        rounds: at least 1. Every other round goes backwards.
        calls: of a contestant in a round.
        device: whose work is waited for.
        clock: in seconds; time.process_time leaves out what other processes take.
        settle: untimed calls before the others in every round: the threads of another runtime spin on for a while, and
            its weights are in the caches.

    Returns:
        Seconds of a call in each round, by name.
    """

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for number in range(rounds):
        for name in order if number % 2 == 0 else reversed(order):
            for _ in range(settle):
                contestants[name]()
            wait()
            start = clock()
            for _ in range(calls):
                contestants[name]()
            wait()
            seconds[name].append((clock() - start) / calls)
    return seconds


def milliseconds(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return what `time_in_turn` returned in milliseconds, to five significant digits."""
    return {name: [float(f"{s * 1e3:.5g}") for s in times] for name, times in seconds.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def bounds(device: Device) -> dict[str, float]:
    """Measure what the machine can do at best: copying memory (GB/s, read and written) and multiplying (GFLOP/s)."""
    source, target = torch.ones(2, 64 << 20, device=device)
    seconds = {"copy": lambda: target.copy_(source)}
    side = 8192 if device == "cuda" else 2048
    matrices = {name: torch.ones(side, side, device=device, dtype=dtype) for name, dtype in DTYPES.items()}
    seconds |= {name: lambda a=a: a @ a for name, a in matrices.items()}  # type: ignore[misc]
    least = {name: min(times) for name, times in time_in_turn(seconds, 15, device=device).items()}
    found = {"copy_gb_per_s": 2 * source.nbytes / least["copy"] / 1e9}
    return found | {f"{name}_gflops": 2 * side**3 / least[name] / 1e9 for name in matrices}


def peak_memory(run: Callable[[], object], device: Device) -> float:
    """Return by how many MB the memory in use rose at most while `run` ran, in a process that has done little else."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 1e6
        run()
        return torch.cuda.max_memory_allocated() / 1e6 - before
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def status(field: str) -> float:
    """Return a field of Linux's /proc/self/status in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def in_own_process(script: str, *arguments: str) -> float:
    """Run a script that prints a number last and return that."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def results_file(name: str, device: Device) -> Path:
    """Return where results go: those on a GPU, and those with memory kept, have files of their own."""
    suffix = "_cuda" if device == "cuda" else "_kept" if KEPT in os.environ else ""
    return RESULTS / f"{name}{suffix}.json"


def write_results(path: Path, results: Mapping[str, Any], packages: Sequence[str] = ("torch",)) -> None:
    """Write results with the date, the machine and the versions of these packages as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about(packages), **results}, indent=1) + "\n")
    print(f"Wrote {path}")


def about(packages: Sequence[str]) -> dict[str, Any]:
    """Return the date, the machine and the versions of these packages."""
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in packages}},
    }


def installed(package: str) -> str | None:
    """Return the version of a package, None where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
