"""The schedule of the learning rate."""

import math
from bisect import bisect_right

import torch

from senet.training.sections import ScheduleConfig


def lr_factor(config: ScheduleConfig, epoch: float, num_epochs: int, planned: float | None = None) -> float:
    """Return the share of the highest learning rate at a moment of the run.

    Times are in epochs here, and may all be in steps as well.

    Args:
        config: the schedule; "plateau" is constant here, since it depends on the results.
        epoch: passes over the data so far, with fraction.
        num_epochs: of the whole run.
        planned: epochs that fit into a limit of time, if these are fewer: milestones move in proportion, and the
            warm-up takes at most a fifth of them.

    Returns:
        A factor in [0, 1].
    """
    warmup, length = config.warmup_epochs, float(num_epochs)
    if planned is not None and planned < num_epochs:
        warmup, length = min(warmup, planned / 5), planned
    if epoch < warmup:
        return config.warmup_start + (1 - config.warmup_start) * epoch / warmup
    if config.name == "step":
        return config.factor ** bisect_right(config.milestones, epoch * num_epochs / length)
    if config.name == "cosine":
        done = (epoch - warmup) / max(length - warmup, 1e-12)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if config.name == "one_cycle":
        done = epoch / length
        return done / config.peak if done < config.peak else max(0.0, (1 - done) / (1 - config.peak))
    return 1.0


class Schedule:
    """Sets the learning rate before every step.

    All schedules but "plateau" are a function of the moment alone; "plateau" remembers the best evaluation loss.

    Args:
        config: the schedule.
        optimizer: whose groups are set; None for a schedule that is only asked whether it is over.
        lr: the highest learning rate.
        num_epochs: of the whole run.
        iterations: steps of the whole run if the times of the schedule are in steps; None for epochs.

    Attributes:
        planned: epochs that fit into a limit of time; None without one.
    """

    def __init__(
        self,
        config: ScheduleConfig,
        optimizer: torch.optim.Optimizer | None,
        lr: float,
        num_epochs: int,
        *,
        iterations: int | None = None,
    ) -> None:
        self.config = config
        self.optimizer = optimizer
        self.lr = lr
        self.num_epochs = num_epochs
        self.iterations = iterations
        self.best_loss = math.inf
        self.bad_epochs = 0
        self.plateau_factor = 1.0
        self.drops = 0
        self.planned: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the loss has stopped falling once more after all reductions that "plateau" may make."""
        limit = self.config.max_drops
        return limit is not None and self.drops >= limit and self.bad_epochs > self.config.patience

    def set_lr(self, epoch: float, step: int = 0) -> float:
        """Set and return the learning rate at a moment of the run.

        A group of parameters with an `lr_scale` gets that share of it.

        Args:
            epoch: passes over the data so far, with fraction.
            step: steps so far.
        """
        moment, length = (epoch, self.num_epochs) if self.iterations is None else (step, self.iterations)
        lr = self.lr * self.plateau_factor * lr_factor(self.config, moment, length, self.planned)
        for group in self.optimizer.param_groups if self.optimizer else ():
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def end_epoch(self, eval_loss: float) -> None:
        """Take note of the evaluation loss: "plateau" lowers the rate after `patience` epochs without a better one."""
        if self.config.name != "plateau":
            return
        if eval_loss < self.best_loss:
            self.best_loss, self.bad_epochs = eval_loss, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.config.patience and not self.is_over:
            self.plateau_factor *= self.config.factor
            self.drops += 1
            self.bad_epochs = 0

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` takes."""
        return {
            "best_loss": self.best_loss,
            "bad_epochs": self.bad_epochs,
            "plateau_factor": self.plateau_factor,
            "drops": self.drops,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on where another schedule was."""
        self.best_loss = state["best_loss"]
        self.bad_epochs = int(state["bad_epochs"])
        self.plateau_factor = state["plateau_factor"]
        self.drops = int(state.get("drops", self.drops))  # runs of former versions had no limit of them
