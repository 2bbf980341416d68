"""Where a run stands: training states written and read, and those of former versions brought up to date."""

import errno
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from senet.checksums import check_whole
from senet.errors import SenetError
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


# ---- files -----------------------------------------------------------------------------------------------------------


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Save a training state; what PyTorch raises when the disk is full does not say so.

    Raises:
        OSError: it cannot be written.
    """
    try:
        with path.open("wb") as file:  # by name, PyTorch would not say why a write fails
            torch.save(state, file)
    except RuntimeError as error:
        if "inline_container" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        why = error.__context__
        raise why if isinstance(why, OSError) else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def read_state(path: Path, keys: Set[str], *, lazily: bool) -> dict[str, Any]:
    """Read a training state.

    Args:
        path: of the file.
        keys: what it must hold.
        lazily: read tensors only when they are used, and do not compare the checksum, for which all is read.

    Raises:
        SenetError: the file is damaged, truncated, or not a training state.
    """
    try:
        if not lazily:
            check_whole(path, "start again elsewhere")
        state: dict[str, Any] = torch.load(path, "cpu", weights_only=True, mmap=lazily)
    except SenetError:
        raise
    except Exception as error:  # whatever PyTorch's reader meets in a damaged file
        said = f"{path} cannot be read (truncated, or not a training state)"
        raise SenetError(f"{said}; start again elsewhere") from error
    if not isinstance(state, dict) or not keys <= state.keys() or not is_position(state["position"]):
        raise SenetError(f"{path} is not a training state; start again elsewhere")
    return state
