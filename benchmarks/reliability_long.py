"""Ten thousand steps: whether memory grows, or the number of open files or threads."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from reliability_processes import Process
from reliability_results import Stage, Trial, place_of

READING = ("--data.no-in-memory", "--data.num-workers", "2")
SETTINGS: Mapping[str, Sequence[str]] = {
    "in memory": (),
    "streamed by 2 workers": READING,
    "evaluated and saved often": ("--checkpoint-every", "5", "--log-every", "1"),
}
"""Options of the runs, besides those of all."""
WARM_UP = 0.2
"""Of the steps, what is left out of the slope: allocators fill their pools."""
INTERVAL_S = 0.25
LIMIT_KB = 1.0
"""Growth of memory by a step that counts as a leak."""


def long_trials(stage: Stage, steps: int) -> Iterator[Trial]:
    """Train for many steps in each setting, and look at the process from outside."""
    for name, options in SETTINGS.items():
        for i in stage.missing(name, 1):
            with place_of(stage, name) as folder:
                yield Trial(name, i, trained_long(stage, folder, options, steps))


def trained_long(stage: Stage, folder: Path, options: Sequence[str], steps: int) -> dict[str, Any]:
    """Train in a folder, and return how memory and the rest grow with the steps."""
    argv = [
        "train",
        "digits",
        "--output",
        "run",
        "--data",
        str(stage.ground.pictures),
        "--compute.cpu",
        "--batch-size",
        "4",
    ]
    epochs = math.ceil(steps / 24)  # of 96 images
    with Process([*argv, "--epochs", str(epochs), *options], folder) as process:
        rows = []
        while not process.ends_within(INTERVAL_S):
            row = looked_at(process.pid)
            if row is not None and process.watch.numbers[1]:
                rows.append({"step": process.watch.numbers[1], **row})
        status, done, seconds = process.wait(), process.watch.numbers[1], process.seconds
    problems = [f"status {status}: {process.said[-300:]}"] if status else []
    late = [row for row in rows if WARM_UP * done <= row["step"] < 0.99 * done]
    slope, error = least_squares([row["step"] for row in late], [row["kilobytes"] for row in late])
    if slope > LIMIT_KB:
        problems.append(f"memory grows by {slope:.2f} kB a step")
    counts = {name: [min(row[name] for row in late), max(row[name] for row in late)] for name in ("files", "threads")}
    first, last = (average(part, "files") for part in (late[: len(late) // 4], late[-len(late) // 4 :]))
    if last > first + 1:
        problems.append(f"open files: {first:.1f} at first, {last:.1f} at last")
    return {
        "steps": done,
        "slope_kb": round(slope, 4),
        "error_kb": round(error, 4),
        "megabytes": [round(late[0]["kilobytes"] / 1024, 1), round(late[-1]["kilobytes"] / 1024, 1)],
        **counts,
        "looks": len(late),
        "per_second": round(done / seconds, 1),
        "problems": problems,
    }


def average(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the mean of a column."""
    return sum(row[name] for row in rows) / len(rows)


def looked_at(pid: int) -> dict[str, int] | None:
    """Return memory, open files and threads of a process and all that it has started; None if it has ended."""
    total = {"kilobytes": 0, "files": 0, "threads": 0}
    try:
        for one in (pid, *started_by(pid)):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
            if "VmRSS" not in status:
                return None
            total["kilobytes"] += int(status["VmRSS"].split()[0])
            total["threads"] += int(status["Threads"])
            total["files"] += sum(1 for _ in Path(f"/proc/{one}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return total


def started_by(pid: int) -> Iterator[int]:
    """Yield the processes below a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            for child in map(int, (task / "children").read_text().split()):
                yield child
                yield from started_by(child)


def least_squares(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return the slope of the line through points, and its standard error."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    spread = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return slope, math.sqrt(left / max(n - 2, 1) / spread)
