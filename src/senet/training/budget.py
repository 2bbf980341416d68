"""A limit of time for a run: how many epochs fit, decided again and again from the time that they take."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

clock = time.monotonic
"""Seconds; replaced in tests."""

MEASURED = ("batch_seconds", "save_seconds", "evaluation_seconds")
KEPT = ("seconds", "epochs", "num_batches", "num_evaluation_batches", "epoch", "batch", *MEASURED, "planned")
"""What of a budget is saved."""

EVALUATION_SHARE = 1 / 3
"""Time of a batch in the evaluation as a share of one in training, before it is measured: a forward pass of three."""


class Budget:
    """The time that a run may take, and what of it is used.

    Time is counted from the moment that a process starts to build the run until its last save; what a killed process
    did after that is lost, and its time does not count.

    Args:
        seconds: for the whole run; None for no limit.
        epochs: of the run, at most.
        started: when this process began, by `clock`; None for now.

    Attributes:
        planned: epochs that fit; with a fraction if the run ends within its first epoch.
        num_batches: of an epoch.
        num_evaluation_batches: of an evaluation.
    """

    def __init__(self, seconds: float | None, epochs: int, started: float | None = None) -> None:
        self.seconds, self.epochs = seconds, epochs
        self.started = clock() if started is None else started
        self.num_batches = self.num_evaluation_batches = 1
        self.epoch = self.batch = 0
        self.spent_before, self.batch_seconds, self.save_seconds = 0.0, 0.0, 0.0
        self.evaluation_seconds: float | None = None
        self.planned: float = epochs

    @property
    def num_epochs(self) -> int:
        """The epochs that fit, the last of which may be cut."""
        return math.ceil(self.planned)

    def spent(self) -> float:
        """Return the seconds that the run has taken so far, in all its processes."""
        return self.spent_before + clock() - self.started

    def after_training(self) -> float:
        """Return the seconds that it takes to evaluate and to save."""
        evaluation = self.evaluation_seconds
        if evaluation is None:
            evaluation = self.num_evaluation_batches * self.batch_seconds * EVALUATION_SHARE
        return evaluation + self.save_seconds

    def must_stop(self) -> bool:
        """Whether there is just time left to evaluate and to save."""
        return self.seconds is not None and self.seconds - self.spent() <= self.after_training()

    def note(self, epoch: int, batch: int, seconds: float) -> None:
        """Take note of how far the run is.

        Args:
            epoch: those that are done.
            batch: batches of the next epoch that are done.
            seconds: that these batches took.
        """
        self.epoch, self.batch = epoch, batch
        if batch:
            self.batch_seconds = seconds / batch

    def fitting(self) -> float:
        """Return the number of epochs that fit, from the time that batches and evaluations took."""
        if self.seconds is None or self.batch_seconds <= 0:
            return float(self.epochs)
        left, after = self.seconds - self.spent(), self.after_training()
        rest = (self.num_batches - self.batch) * self.batch_seconds + after
        if left >= rest:
            more = (left - rest) / (self.num_batches * self.batch_seconds + after)
            return float(min(self.epochs, self.epoch + 1 + math.floor(more)))
        if self.epoch and not self.batch:
            return float(self.epoch)
        batches = self.batch + max(0.0, left - after) / self.batch_seconds
        return self.epoch + min(batches, self.num_batches) / self.num_batches

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Measure an evaluation."""
        started = clock()
        yield
        self.evaluation_seconds = clock() - started

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure what is done between an evaluation and the next epoch."""
        started = clock()
        yield
        self.save_seconds = clock() - started

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes; the save that it is part of counts as well."""
        return {"spent": self.spent() + self.save_seconds, **{name: getattr(self, name) for name in KEPT}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one was, with what is left of the time; plan again if there is more or less of it."""
        self.spent_before, limits = state["spent"], (self.seconds, self.epochs)
        for name in KEPT:
            setattr(self, name, state[name])
        is_same, (self.seconds, self.epochs) = limits == (self.seconds, self.epochs), limits
        if not is_same:
            self.planned = self.fitting()
