"""Which epoch of a run is the best, and how long ago it was."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from senet.training.sections import AnySelection

IN_WORDS: Mapping[str, tuple[str, str]] = {
    "top1": ("top-1", " %"),
    "balanced_accuracy": ("balanced accuracy", " %"),
    "macro_f1": ("macro F1", " %"),
    "loss": ("loss", ""),
    "ap": ("AP", " %"),
    "ap50": ("AP50", " %"),
    "ap75": ("AP75", " %"),
    "epoch": ("number", ""),
}
"""What each metric is called in sentences, and its unit."""


def quality(metric: str, row: Mapping[str, float]) -> tuple[float, float]:
    """Return what is larger the better an epoch is: by the metric, then by the loss.

    Args:
        metric: by which epochs are compared.
        row: of metrics.jsonl.
    """
    value, loss = row[metric], row.get("loss", math.nan)
    by_metric, by_loss = -value if metric == "loss" else value, -loss
    return tuple(-math.inf if math.isnan(x) else x for x in (by_metric, by_loss))  # type: ignore[return-value]


def best_of(rows: Iterable[Mapping[str, float]], metric: str) -> Mapping[str, float] | None:
    """Return the best of some lines of metrics.jsonl, the first of equal ones; None if none has the metric."""
    measured = (row for row in rows if metric in row)
    return max(measured, key=lambda row: quality(metric, row), default=None)


class Selection:
    """Remembers the best epoch of a run. Of epochs with the same metric, the one with the lower loss is better.

    Args:
        config: what makes an epoch better.

    Attributes:
        epoch: the best, from 1; 0 before there is one.
        row: its line of metrics.jsonl, as far as it matters: the metric and the loss.
    """

    def __init__(self, config: AnySelection) -> None:
        self.config = config
        self.epoch = 0
        self.row: dict[str, float] = {}

    def take(self, row: Mapping[str, float]) -> bool:
        """Take note of an epoch, and return whether it is the best so far."""
        metric = self.config.metric
        if self.epoch and quality(metric, row) <= quality(metric, self.row):
            return False
        self.epoch, self.row = int(row["epoch"]), {name: row[name] for name in row if name in (metric, "loss")}
        return True

    def is_over(self, epochs: int) -> bool:
        """Whether a run of so many epochs ends because none was better for as long as its patience."""
        return self.config.patience is not None and epochs - self.epoch >= self.config.patience

    def in_words(self) -> str:
        """Return which epoch is the best, for a sentence."""
        if self.config.metric == "epoch":
            return f"epoch {self.epoch}, the last, counts as the best"
        name, unit = IN_WORDS[self.config.metric]
        digits = 4 if self.config.metric == "loss" else 2
        return f"the best epoch is {self.epoch}, with {name} {self.row[self.config.metric]:.{digits}f}{unit}"

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {"epoch": self.epoch, "row": dict(self.row)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one was."""
        self.epoch, self.row = state["epoch"], dict(state["row"])


def from_metrics(best_top1: float, rows: Iterable[Mapping[str, float]]) -> dict[str, Any]:
    """Return the state of a selection for a run of a former version, which kept the first of the highest top-1.

    Args:
        best_top1: in %, negative before the first epoch.
        rows: of its metrics.jsonl.
    """
    for row in rows:
        if row["epoch"] > 0 and row["top1"] == best_top1:
            return {"epoch": int(row["epoch"]), "row": {name: row[name] for name in ("top1", "loss")}}
    return {"epoch": 0, "row": {}}
