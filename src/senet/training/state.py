"""Where a run stands, and the training states of former versions brought up to date."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from senet.training.budget import Budget
from senet.training.selection import from_metrics

STATE_KEYS = frozenset({"model", "ema", "optimizer", "schedule", "scaler", "position", "num_processes"})
"""What every training state holds, also those of former versions."""


@dataclass
class Position:
    """Where a run stands: `batch` batches into epoch number `epoch` (both from 0), with that epoch's sums so far.

    Args:
        epoch: see above.
        batch: see above.
        step: steps of the optimizer so far.
        loss_sum: of the epoch's batches in this process; the mean of all processes' is the run's.
        seconds: that the epoch has taken.
        loss_sums: of every process, as of the last save; None before that, and of former versions.
        data_wait_s: seconds of the epoch in which this process waited for images.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    loss_sums: list[float] | None = None
    data_wait_s: float = 0.0

    def take_share(self, num_processes: int, process: int) -> None:
        """Give a process its sum of the losses, once the position was read from a state.

        Args:
            num_processes: that go on, perhaps others than those that saved.
            process: from 0.
        """
        sums = self.loss_sums
        if sums is not None:
            self.loss_sum = sums[process] if len(sums) == num_processes else sum(sums) / len(sums)


def up_to_date(state: Mapping[str, Any], epochs: int | None, metrics: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """Return a training state with what those of former versions do not hold.

    Args:
        state: of any version.
        epochs: of the run; None if it counts iterations.
        metrics: the lines of its metrics.jsonl.
    """
    position, found = dict(state["position"]), dict(state)
    best_top1 = position.pop("best_top1", None)
    if best_top1 is not None:
        rows = [row for row in metrics if 0 < row["epoch"] <= position["epoch"]]
        spent = sum(row["time_s"] for row in rows) + position["seconds"]
        found["selection"] = from_metrics(best_top1, rows)
        found["budget"] = Budget(None, epochs or 1).state_dict() | {"spent": spent}
    return found | {"position": position}


def standing(position: Position, num_epochs: int, num_batches: int, run: Path) -> str:
    """Say where a saved run stands and how it goes on.

    Args:
        position: where it stands.
        num_epochs: of the run.
        num_batches: of an epoch.
        run: the run folder.
    """
    return (
        f"stopped in epoch {position.epoch + 1} of {num_epochs}, after {position.batch} of {num_batches} batches; "
        f"saved in {run}: `senet train --resume {quote(str(run))}` goes on"
    )
