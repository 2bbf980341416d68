"""The training state: where a run stands and what it needs to go on, gathered from its parts and given back to them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from senet.training.budget import Budget
from senet.training.selection import from_metrics

STATE_KEYS = frozenset({"model", "ema", "optimizer", "schedule", "scaler", "position", "num_processes"})
"""What every training state holds, also those of former versions."""


@dataclass
class Position:
    """Where a run stands: `batch` batches into epoch number `epoch` (both from 0), with that epoch's sums so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0


class Part(Protocol):
    """A part of a run that has a state."""

    def state_dict(self) -> Any:
        """Return what `load_state_dict` takes."""

    def load_state_dict(self, state: Any) -> Any:
        """Go on where another one was."""


def gather(
    model: nn.Module, ema: nn.Module | None, parts: Mapping[str, Part], position: Position, num_processes: int
) -> dict[str, Any]:
    """Return the training state of a run.

    Args:
        model: as it is trained.
        ema: the running average of its weights, if there is one.
        parts: the others that have a state, by name.
        position: where the run stands.
        num_processes: of the run.
    """
    return {
        "model": model.state_dict(),
        "ema": None if ema is None else ema.state_dict(),
        **{name: part.state_dict() for name, part in parts.items()},
        "position": vars(position),
        "num_processes": num_processes,
    }


def up_to_date(state: Mapping[str, Any], epochs: int, metrics: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """Return a training state with what those of former versions do not hold.

    Args:
        state: of any version.
        epochs: of the run.
        metrics: the lines of its metrics.jsonl.
    """
    position, found = dict(state["position"]), dict(state)
    best_top1 = position.pop("best_top1", None)
    if best_top1 is not None:
        rows = [row for row in metrics if 0 < row["epoch"] <= position["epoch"]]
        spent = sum(row["time_s"] for row in rows) + position["seconds"]
        found["selection"] = from_metrics(best_top1, rows)
        found["budget"] = Budget(None, epochs).state_dict() | {"spent": spent}
    return found | {"position": position}
