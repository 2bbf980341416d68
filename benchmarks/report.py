"""What every benchmark needs: contestants timed in turn, and results beside the machine that they were measured on."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


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


def time_in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time every contestant once a round, so that a change of the machine's speed meets all of them.

    Args:
        contestants: by name; each is called once beforehand, untimed.
        rounds: at least 1. Every other round goes backwards.

    Returns:
        Seconds of each round, by name.
    """
    for run in contestants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    for number in range(rounds):
        for name in order if number % 2 == 0 else reversed(order):
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def write_results(path: Path, results: Mapping[str, Any], packages: Sequence[str] = ("torch",)) -> None:
    """Write results with the date, the machine and the versions of these packages as JSON."""
    about = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, **results}, indent=2) + "\n")
