"""What a run says of its steps while it trains, in steps.jsonl and at its trackers: loss, times, waiting, memory.

A line is about the steps since the line before. There is one each `log_every` steps, at each save and at the end of an
epoch, so that a run that goes on from a save neither loses nor repeats a step.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from senet.files import read_jsonl, written_beside
from senet.processes import Team
from senet.training.state import Position

STEPS_FILE = "steps.jsonl"
BOTTLENECK = 1 / 3
"""Of the time of the steps: with more of it spent on waiting for images, that is what a run should be helped with."""


class DataWait:
    """How long a device has nothing to do because images are late.

    On CUDA the host runs ahead of the device, and waits for images while that still computes: events tell when it has
    ended. They are read when the device is waited for anyway.

    Args:
        device: of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.events: list[tuple[Any, Any]] = []
        self.seconds = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the wait for what is read inside."""
        started, before = time.perf_counter(), recorded() if self.on_cuda else None
        yield
        if self.on_cuda:
            self.events.append((before, recorded()))
        else:
            self.seconds += time.perf_counter() - started

    def take(self) -> float:
        """Return the seconds since the last call; on CUDA after the device was waited for."""
        seconds: float = self.seconds + sum(before.elapsed_time(after) for before, after in self.events) / 1000
        self.seconds = 0.0
        self.events.clear()
        return seconds


def recorded() -> Any:
    """Return an event at which the device has done what it was given so far."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class StepLog:
    """Writes the lines about the steps of one run.

    Args:
        folder: of the run.
        every: steps from line to line.
        team: the processes; the first writes.
        device: of this one.
        writes: whether this is the process that writes.

    Attributes:
        wait: measures how long images are waited for.
        evaluation_s: seconds of evaluations since the last line.
        losses: of this process's batches since the last line.
    """

    def __init__(self, folder: Path, every: int, team: Team, device: torch.device, *, writes: bool) -> None:
        self.file, self.every, self.team, self.device, self.writes = folder / STEPS_FILE, every, team, device, writes
        self.wait = DataWait(device)
        self.evaluation_s = 0.0
        self.step, self.num_images = 0, 0
        self.losses: list[float] = []
        self.seconds = self.waited = 0.0

    def is_due(self, step: int) -> bool:
        """Return whether a line is to be written after a step."""
        return step % self.every == 0

    def add(self, num_images: int, seconds: float) -> float:
        """Count images whose losses are in `losses`; return how long they were waited for.

        Args:
            num_images: of this process.
            seconds: that their steps have taken, with waiting.
        """
        waited = self.wait.take()
        self.num_images += num_images
        self.seconds += seconds
        self.waited += waited
        return waited

    def line(self, position: Position, lr: float, grad_norm: Any = None) -> dict[str, float] | None:
        """Write a line about the steps since the last one, and return it; None without steps, or in another process.

        Args:
            position: after the steps.
            lr: the learning rate of the last one.
            grad_norm: of its gradient; None where the run does not compute it.

        Raises:
            OSError: it cannot be written.
        """
        number = position.step - self.step
        if number < 1 or not self.losses:
            return None
        own = (
            sum(self.losses) / len(self.losses),
            self.waited,
            memory_mb(),
            cuda_peak_mb(self.device),
            self.num_images,
        )
        losses, waits, memory, on_cuda, images = zip(*self.team.gathered(own), strict=True)
        seconds = max(self.seconds, 1e-9)
        row = {
            "step": position.step,
            "epoch": position.epoch + 1,
            "batch": position.batch,
            "steps": number,
            "loss": sum(losses) / len(losses),
            "lr": lr,
            "time_s": self.seconds,
            "step_s": self.seconds / number,
            "data_wait_s": max(waits),
            "evaluation_s": self.evaluation_s,
            "images_per_s": sum(images) / seconds,
            "memory_mb": max(memory),
            **({"cuda_peak_mb": max(on_cuda)} if self.device.type == "cuda" else {}),
            **({} if grad_norm is None else {"grad_norm": float(grad_norm)}),
        }
        self.start(position.step)
        if not self.writes:
            return None
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def start(self, step: int) -> None:
        """Begin to count after a step."""
        self.step, self.num_images, self.seconds, self.waited, self.evaluation_s = step, 0, 0.0, 0.0, 0.0
        self.losses = []

    def keep(self, step: int) -> None:
        """Go on after a step: a killed run may have written of more, or half a line."""
        self.start(step)
        if not self.writes or not self.file.exists():
            return
        rows = [row for row in read_jsonl(self.file) if row["step"] <= step]
        with written_beside(self.file) as beside:
            beside.write_text("".join(json.dumps(row) + "\n" for row in rows))


def memory_mb() -> float:
    """Return the memory of this process in MB; its largest so far where the system does not say what it is now."""
    with suppress(OSError, ValueError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return 0.0


def cuda_peak_mb(device: torch.device) -> float:
    """Return the most memory that tensors have taken on a GPU so far, in MB; 0 without one."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def waiting_in_words(waited: float, seconds: float) -> str:
    """Return that a run mostly waits for images, and what helps; empty if it does not.

    Args:
        waited: seconds of waiting.
        seconds: of the steps, with waiting.
    """
    share = waited / seconds if seconds > 0 else 0.0
    if share < BOTTLENECK:
        return ""
    return f"the data loader is the bottleneck: {share:.0%} of the time waiting; more data.num_workers may help"
