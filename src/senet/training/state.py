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
        loss_sum: of this process's batches of the epoch.
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


def is_position(value: Any) -> bool:
    """Whether a value of a training state may be where a run stands, also one of former versions."""
    if not isinstance(value, Mapping):
        return False
    needed, numbers = ("epoch", "batch", "step", "seconds"), ("loss_sum", "data_wait_s", "best_top1")
    given = [value.get(name) for name in needed] + [value[name] for name in numbers if value.get(name) is not None]
    return all(isinstance(number, int | float) and not isinstance(number, bool) for number in given)


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
