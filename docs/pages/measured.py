"""Read results of benchmarks, and format numbers, spreads and tables of them."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results"
Result = Mapping[str, Any]
COMMANDS = {
    "residual_tail": "python benchmarks/residual_tail.py",
    "training_step": "python benchmarks/training_step.py",
    "inference": "python benchmarks/inference.py",
    "small_networks": "python benchmarks/small_networks.py",
    "host_overhead": "python benchmarks/host_overhead.py",
    "backends": "python benchmarks/backends.py",
    "fused_convolution": "python benchmarks/fused_convolution.py",
    "decoding": "python benchmarks/decoding.py",
    "before_after": "python benchmarks/before_after.py OTHER",
    "gpu": "make bench-gpu",
}


def read(name: str) -> Result | None:
    """Return the results of a benchmark, None if it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def provenance(name: str, result: Result) -> str:
    """Say which command, machine and versions a result comes from."""
    machine, versions = result["machine"], result["versions"]
    cores = f"{machine['threads']} threads" if "threads" in machine else f"{machine.get('cores')} cores"
    where = machine["accelerator"] or f"{machine['processor']}, {cores}"
    packages = ", ".join(f"{key} {value}" for key, value in versions.items() if value)
    text = f"`{COMMANDS.get(name, name)}`: {where}; {packages}; {result['date']}."
    return f"{text} {speeds(result['bounds'])}\n" if "bounds" in result else f"{text}\n"


def speeds(limits: Mapping[str, float]) -> str:
    """Say how fast a copy and a matrix product were."""
    return (
        f"In the same run a copy moves {limits['copy_gb_per_s']:.0f} GB/s, a matrix product does "
        f"{limits['fp32_gflops']:.0f} GFLOP/s in float32 and {limits['bf16_gflops']:.0f} in bfloat16."
    )


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(headings)} |\n", f"|---|{'---:|' * (len(headings) - 1)}\n"]
    return "\n" + "".join(lines + [f"| {' | '.join(row)} |\n" for row in rows])


def number(value: float) -> str:
    """Format to three significant digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def median(times: Mapping[str, Sequence[float]], name: str) -> str:
    """Format the median time of a contestant; empty if it did not take part."""
    return number(statistics.median(times[name])) if name in times else ""


def ratios(times: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Return how many times as long as `base` a contestant took, in each round."""
    return [a / b for a, b in zip(times[name], times[base], strict=True)]


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> str:
    """Format the median of `ratios`."""
    return f"{statistics.median(ratios(times, name, base)):.2f}" if {name, base} <= times.keys() else ""


def shape_of(one: Result) -> str:
    """Format the shape of a measurement's feature maps."""
    return f"{one['batch']} x {one['channels']} x {one['side']} x {one['side']}"


def spread(values: Sequence[float]) -> str:
    """Format a median and the middle half."""
    if len(values) < 3:
        return f"{statistics.median(values):.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
