"""The parts of a run: network, teacher, optimizer, schedule, objective and the others, built from its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from senet.configs import is_on
from senet.data.loading import Loaders
from senet.errors import SenetError
from senet.models.base import Network
from senet.models.build import checkpoint_gradients
from senet.models.config import ModelConfig
from senet.models.stochastic_depth import with_drop_path
from senet.nn.fused import set_fused
from senet.training.budget import Budget
from senet.training.config import TrainConfig
from senet.training.distillation import open_teacher
from senet.training.freezing import Freezing
from senet.training.groups import parameter_groups
from senet.training.objective import Objective, by_class
from senet.training.optimizers import Restorable, build_optimizer
from senet.training.regularization import RunningAverage, build_mixup
from senet.training.schedule import Schedule
from senet.training.seeding import seed_everything
from senet.training.selection import Selection


class Stateful(Protocol):
    """A part that has a state."""

    def state_dict(self) -> Any:
        """Return what `load_state_dict` takes."""

    def load_state_dict(self, state: Any) -> Any:
        """Go on where another one was."""


class Parts:
    """The parts of a run, at its beginning.

    Args:
        config: of the run.
        data: its loaders.
        build: makes the network of a configuration, at random or with weights.
        device: of the run.
        started: when this process began to work for the run, by `senet.training.budget.clock`; None for now.

    Attributes:
        config: of the run, with what weights say of their network.
        model: the network that is trained.
        ema: the running average of its weights; None for none.

    Raises:
        SenetError: the network does not fit the data, or the configuration does not fit the network.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Loaders,
        build: Callable[[ModelConfig], Network],
        device: torch.device,
        started: float | None = None,
    ) -> None:
        num_classes = len(data.class_names)
        if config.model.num_classes not in (None, num_classes):
            raise SenetError(f"model.num_classes is {config.model.num_classes}, but the data has {num_classes} classes")
        regularization = config.regularization
        self.teacher = open_teacher(config, data.class_names, device)
        seed_everything(config.seed)
        model = self.network(config, data, build)
        self.config = config if config.weights is None else replace(config, model=model.config)
        self.model = model.to(device).to(memory_format=config.compute.memory_format)
        decay, warmup = regularization.ema_decay, regularization.ema_warmup
        self.ema = RunningAverage(self.model, decay, warmup=warmup) if decay else None
        self.freezing = Freezing(config, self.model)
        self.freezing.set_gradients(0)
        self.optimizer = build_optimizer(config.optimizer, self.model, self.freezing.trained())
        self.schedule = Schedule(config.schedule, self.optimizer, config.optimizer.lr, config.epochs)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.compute.precision == "fp16")
        self.mixup = build_mixup(regularization, num_classes) if regularization.pairs_images else None
        self.objective = Objective(
            self.model,
            config.compute.precision,
            regularization.label_smoothing,
            config=config.objective,
            teacher=self.teacher,
            **by_class(config.objective, data.counts),
        )
        self.selection = Selection(config.selection)
        self.budget = Budget(config.max_seconds, config.epochs, started)
        self.budget.num_batches, self.budget.num_evaluation_batches = len(data.train), len(data.evaluation)
        self.stateful: dict[str, Stateful] = {
            "optimizer": Restorable(self.optimizer),
            "schedule": self.schedule,
            "scaler": self.scaler,
            "selection": self.selection,
            "budget": self.budget,
        }

    @staticmethod
    def network(config: TrainConfig, data: Loaders, build: Callable[[ModelConfig], Network]) -> Network:
        """Build the network, in training mode, for the classes and the images of the data."""
        of_data = replace(config.model, num_classes=len(data.class_names))
        model = build(with_drop_path(of_data, config.regularization.drop_path)).train()
        model.preprocessing = config.data.preprocessing
        model.class_names = data.class_names
        set_fused(model, is_on(config.compute.fused))
        if config.compute.grad_checkpointing:
            checkpoint_gradients(model)
        return model

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
            **({} if self.teacher is None else {"teacher": self.teacher.digest}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where others were, once `set_gradients` was called for their epoch.

        Raises:
            SenetError: the teacher is not the one that they had.
        """
        if self.teacher is not None:
            self.teacher.check_same(state.get("teacher"))
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        for name, part in self.stateful.items():
            part.load_state_dict(state[name])
