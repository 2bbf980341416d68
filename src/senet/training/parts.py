"""The parts of a run: network, optimizer, schedule, objective and the others, built from its configuration and task."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import nn

from senet.training.budget import Budget
from senet.training.groups import parameter_groups
from senet.training.optimizers import Restorable, build_optimizer
from senet.training.schedule import Schedule
from senet.training.seeding import seed_everything
from senet.training.selection import Selection
from senet.training.task import Task


class Stateful(Protocol):
    """A part that has a state."""

    def state_dict(self) -> Any:
        """Return what `load_state_dict` takes."""

    def load_state_dict(self, state: Any) -> Any:
        """Go on where another one was."""


class Parts:
    """The parts of a run, at its beginning.

    Args:
        task: what the run does; its data are open.
        device: of the run.
        started: when this process began to work for the run, by `senet.training.budget.clock`; None for now.

    Attributes:
        config: of the run, with what weights say of their network.
        length: how long the run is.
        model: the network that is trained.
        ema: the running average of its weights; None for none.

    Raises:
        SenetError: the network does not fit the data, or the configuration does not fit the network.
    """

    def __init__(self, task: Task[Any], device: torch.device, started: float | None = None) -> None:
        self.task, data = task, task.data
        seed_everything(task.config.seed)
        model = task.build()
        self.config = config = task.config
        self.length = config.length(len(data.train))
        self.model = model.to(device).to(memory_format=config.compute.memory_format)
        self.ema = task.average(self.model)
        self.freezing = task.frozen(self.model)
        self.freezing.set_gradients(0)
        self.optimizer = build_optimizer(config.optimizer, self.model, self.freezing.trained())
        timing, length = config.timing(len(data.train)), self.length
        self.schedule = Schedule(
            timing, self.optimizer, config.optimizer.lr, length.epochs, iterations=length.iterations
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "fp16")
        self.objective = task.objective(self.model)
        self.selection = Selection(config.selection)
        self.budget = Budget(config.max_seconds, self.length.epochs, started)
        self.budget.num_batches, self.budget.num_evaluation_batches = len(data.train), len(data.evaluation)
        self.stateful: dict[str, Stateful] = {
            "optimizer": Restorable(self.optimizer),
            "schedule": self.schedule,
            "scaler": self.scaler,
            "selection": self.selection,
            "budget": self.budget,
        }

    @property
    def kept(self) -> nn.Module:
        """What is evaluated and saved: the running average of the network if there is one."""
        return self.model if self.ema is None else self.ema.module

    def set_gradients(self, epoch: int) -> bool:
        """Let those parameters have gradients that an epoch, counted from 0, trains.

        Returns:
            Whether these are others than before: from now on also those of the trunk, which the optimizer is given.
        """
        if not self.freezing.set_gradients(epoch):
            return False
        for group in parameter_groups(self.config.optimizer, self.model, self.freezing.trunk):
            self.optimizer.add_param_group(group)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            **{name: part.state_dict() for name, part in self.stateful.items()},
            **self.task.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where others were, once `set_gradients` was called for their epoch.

        Raises:
            SenetError: the state is of another task, such as one with another teacher.
        """
        self.task.check_state(state)
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
