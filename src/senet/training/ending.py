"""Why a run is over: its epochs are trained, none was better for long, the loss has stopped falling, the time is up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from senet.training.budget import Budget
from senet.training.config import RunConfig
from senet.training.length import Length
from senet.training.schedule import Schedule
from senet.training.selection import IN_WORDS, Selection


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a run is over.

    Args:
        reason: in words, for a sentence.
        remedy: how it goes on, for a sentence.
    """

    reason: str
    remedy: str


def ending_of(
    config: RunConfig, length: Length, epoch: int, selection: Selection, schedule: Schedule, budget: Budget
) -> Ending | None:
    """Return why a run is over after `epoch` epochs; None if it goes on."""
    if epoch >= length.epochs:
        more = "epochs" if config.epochs is not None else "iterations in another run"
        return Ending(reason=f"epoch {epoch} of {length.epochs} is trained", remedy=f"set more {more} to go on")
    trained = f"epoch {epoch} of at most {length.epochs} is trained"
    if epoch and selection.is_over(epoch):
        name, patience = IN_WORDS[config.selection.metric][0], config.selection.patience
        return Ending(
            reason=f"{trained}, and none since epoch {selection.epoch} had a better {name} (selection.patience)",
            remedy=f"set selection.patience to more than {patience} to go on",
        )
    if schedule.is_over:
        drops = config.schedule.max_drops
        return Ending(
            reason=f"{trained}, and the loss has stopped falling after {drops} reductions of the learning rate",
            remedy=f"set schedule.max_drops to more than {drops} to go on",
        )
    if epoch and epoch >= budget.planned:
        return Ending(
            reason=f"{trained}, and no other fits into max_seconds, which is {budget.seconds:g}",
            remedy="set more max_seconds to go on",
        )
    return None


def ending_of_state(config: RunConfig, state: Mapping[str, Any]) -> Ending | None:
    """Return why the run of a training state is over, perhaps with a changed configuration; None if it goes on."""
    length = config.length(state["budget"]["num_batches"])
    selection, budget = Selection(config.selection), Budget(config.max_seconds, length.epochs)
    schedule = Schedule(config.schedule, None, config.optimizer.lr, length.epochs)
    for name, part in (("selection", selection), ("schedule", schedule), ("budget", budget)):
        part.load_state_dict(state[name])
    return ending_of(config, length, state["position"]["epoch"], selection, schedule, budget)
