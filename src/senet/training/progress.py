"""What a run says while it goes: a live bar on a terminal, lines elsewhere, TensorBoard always."""

import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from senet.data.preprocessing import Preprocessing
from senet.terminal import bar, console, printable, say

LINE_EVERY_S = 60.0
"""Where there is no terminal for a live bar, a line says at least this often how far the run is."""


class Reporter:
    """Shows the progress of one run; use it as a context manager.

    Args:
        folder: of the run, for the TensorBoard events.
        num_epochs: of the whole run.
        num_batches: of an epoch.
        done_batches: before this start.
        quiet: say nothing (all processes but the main one).
    """

    def __init__(self, folder: Path, num_epochs: int, num_batches: int, done_batches: int, quiet: bool) -> None:
        self.folder = folder
        self.num_epochs = num_epochs
        self.first_epoch = done_batches // num_batches + 1
        self.quiet = quiet
        self.console = console(stderr=True, quiet=quiet)
        self.bar = bar(self.console)
        self.last_line = time.monotonic()
        self.task = self.bar.add_task(
            printable(folder.name), total=num_epochs * num_batches, completed=done_batches, now=""
        )
        self.writer: SummaryWriter | None = None

    def __enter__(self) -> "Reporter":
        if not self.quiet:
            self.writer = SummaryWriter(str(self.folder), purge_step=self.first_epoch)
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, sentence: str) -> None:
        """Print a line about the run."""
        say(f"{self.folder.name}: {sentence}", self.console)

    def start(self, row: Mapping[str, float], what: str, preprocessing: Preprocessing) -> None:
        """Print what the run starts from, and how good that is."""
        told = f"{preprocessing.image_size} pixels out of {preprocessing.resize}, mean {preprocessing.mean}"
        self.say(
            f"starts as {what}, on {told}, std {preprocessing.std}: loss {row['loss']:.4f}  top-1 {row['top1']:.2f} %"
        )

    def advance(self, batches: int, loss: float, images_per_s: float) -> None:
        """Move the bar."""
        now = f"loss {loss:.3f}  {images_per_s:,.0f} images/s"
        self.bar.update(self.task, advance=batches, now=now)
        if self.bar.disable and time.monotonic() - self.last_line > LINE_EVERY_S:
            self.last_line = time.monotonic()
            progress = self.bar.tasks[self.task]
            self.say(f"batch {progress.completed:,.0f}/{progress.total:,.0f}  {now}")

    def end_epoch(self, row: Mapping[str, float]) -> None:
        """Print an epoch's line and log its numbers."""
        self.last_line = time.monotonic()
        left = row["time_s"] * (self.num_epochs - row["epoch"])
        self.say(
            f"epoch {row['epoch']:.0f}/{self.num_epochs}  train loss {row['train_loss']:.4f}  "
            f"loss {row['loss']:.4f}  top-1 {row['top1']:.2f} %  {row['images_per_s']:,.0f} images/s  "
            f"about {f'{left / 60:.0f} min' if left >= 120 else f'{left:.0f} s'} left"
        )
        if self.writer is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self.writer.add_scalar(name, value, int(row["epoch"]))
            self.writer.flush()
