"""What a run reports while it trains: log lines, metrics for its trackers, and the caller's progress display."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from senet.training.trackers import Trackers

logger = logging.getLogger("senet.training")

LINE_EVERY_S = 60.0
"""A line says at least this often how far the run is, unless the caller shows it."""


class StderrLines(logging.Handler):
    """Writes each record on a line of what is standard error at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        sys.stderr.write(f"{record.getMessage()}\n")
        sys.stderr.flush()


@contextmanager
def lines_shown() -> Iterator[None]:
    """Show the lines of runs on standard error, unless the program has set up logging for them.

    It has if the logger "senet.training" or "senet" has a level, or the root logger's lets INFO pass.
    """
    if any(logging.getLogger(name).level for name in ("senet.training", "senet")) or logger.isEnabledFor(logging.INFO):
        yield
        return
    handler = StderrLines(logging.INFO)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


class Progress(Protocol):
    """Shows how far a run is, while it goes."""

    def start(self, name: str, num_batches: int, done: int) -> None:
        """Begin.

        Args:
            name: of the run.
            num_batches: of the whole run.
            done: those trained before.
        """

    def advance(self, batches: int, now: str) -> None:
        """Go on.

        Args:
            batches: trained since the last call.
            now: the loss and the speed, in words.
        """

    def plan(self, num_batches: int) -> None:
        """Take note that the run has another length, as one with a limit of time.

        Args:
            num_batches: of the whole run.
        """

    def stop(self) -> None:
        """End, also after an error."""


class Reporter:
    """Reports the progress of one run; use it as a context manager.

    Args:
        folder: of the run.
        num_epochs: of the whole run.
        num_batches: of an epoch.
        done_batches: before this start.
        progress: the caller's; None for lines alone.
        trackers: which take the metrics of each epoch; None for none.
        quiet: report nothing (all processes but the main one).
    """

    def __init__(
        self,
        folder: Path,
        num_epochs: int,
        num_batches: int,
        done_batches: int,
        progress: Progress | None = None,
        *,
        trackers: Trackers | None = None,
        quiet: bool = False,
    ) -> None:
        self.folder = folder
        self.num_epochs = num_epochs
        self.batches_of_epoch, self.num_batches = num_batches, num_epochs * num_batches
        self.done = done_batches
        self.quiet = quiet
        self.progress = None if quiet else progress
        self.last_line = time.monotonic()
        self.trackers = None if quiet else trackers

    def __enter__(self) -> "Reporter":
        if self.trackers is not None:
            self.trackers.__enter__()
        if self.progress is not None:
            self.progress.start(self.folder.name, self.num_batches, self.done)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if self.progress is not None:
            self.progress.stop()
        if self.trackers is not None:
            self.trackers.__exit__(kind, *rest)

    def say(self, sentence: str) -> None:
        """Log a line about the run."""
        self.last_line = time.monotonic()
        if not self.quiet:
            logger.info("%s: %s", self.folder.name, sentence)

    def start(self, sentence: str) -> None:
        """Log what the run starts from, and how good that is."""
        self.say(sentence)
        if self.trackers is not None:
            self.trackers.send()

    def advance(self, batches: int, loss: float, images_per_s: float) -> None:
        """Count batches that were trained."""
        self.done += batches
        now = f"loss {loss:.3f}  {images_per_s:,.0f} images/s"
        if self.progress is not None:
            self.progress.advance(batches, now)
        elif time.monotonic() - self.last_line > LINE_EVERY_S:
            self.say(f"batch {self.done:,}/{self.num_batches:,}  {now}")

    def step(self, row: Mapping[str, float] | None) -> None:
        """Send a line about some steps to the trackers, if there is one."""
        if row is not None and self.trackers is not None:
            self.trackers.send_steps(row)

    def plan(self, num_epochs: int) -> None:
        """Take note of another number of epochs for the whole run."""
        if num_epochs == self.num_epochs:
            return
        self.num_epochs, self.num_batches = num_epochs, num_epochs * self.batches_of_epoch
        if self.progress is not None:
            self.progress.plan(self.num_batches)

    def end_epoch(self, row: Mapping[str, float], found: str) -> None:
        """Log an epoch's line and its numbers.

        Args:
            row: of metrics.jsonl.
            found: by the evaluation, in words.
        """
        left = row["time_s"] * (self.num_epochs - row["epoch"])
        self.say(
            f"epoch {row['epoch']:.0f}/{self.num_epochs}  train loss {row['train_loss']:.4f}  "
            f"{found}  "
            f"{row['images_per_s']:,.0f} images/s  "
            f"about {f'{left / 60:.0f} min' if left >= 120 else f'{left:.0f} s'} left"
        )
        if self.trackers is not None:
            self.trackers.send()
