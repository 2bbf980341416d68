"""The task of classifying images: what of a run is about labels, logits and their loss."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from senet.configs import is_on
from senet.data.division import Division
from senet.data.loading import Loaders, load_data
from senet.errors import SenetError, needed_for
from senet.models.base import Network
from senet.models.build import build, checkpoint_gradients
from senet.models.config import ModelConfig
from senet.models.stochastic_depth import with_drop_path
from senet.nn.fused import set_fused
from senet.processes import Team
from senet.training.compiling import Call
from senet.training.config import TrainConfig
from senet.training.distillation import Teacher, open_teacher
from senet.training.freezing import Freezing
from senet.training.objective import Objective, by_class, loss_of
from senet.training.regularization import RunningAverage, build_mixup
from senet.training.run import RunFolder
from senet.training.scoring import evaluate_in_run, figures
from senet.training.task import Task
from senet.training.warm_start import start_from_weights, with_asked

with needed_for("senet.train"):
    from accelerate import Accelerator


class Classification(Task[TrainConfig]):
    """A run that classifies images, see `Task`.

    Args:
        config: of the run.

    Attributes:
        teacher: whose probabilities are learned too; None for none.
    """

    data: Loaders
    teacher: Teacher | None = None

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.make: Callable[[ModelConfig], Network] = build
        self.mixup: Any = None

    @classmethod
    def settled(cls, config: TrainConfig, stored: TrainConfig) -> TrainConfig:
        """Return a configuration with what its run fixed: precision, balancing, the network of its weights."""
        config = super().settled(config, stored)
        if config.objective.balance == "auto":
            config = replace(config, objective=replace(config.objective, balance=stored.objective.balance))
        if config.weights is not None and config.weights == stored.weights:
            config = with_asked(config, stored.model, stored.data.preprocessing)
        return config

    def open(self, run: RunFolder, accelerator: Accelerator, division: Division, *, is_new: bool) -> None:
        """Open the weights and the data of the run, see `Task.open`."""
        start = None
        self.make = partial(build, surgery=run.surgery())
        if self.config.weights is not None and is_new:
            self.config, start = start_from_weights(self.config)
        config = self.config
        self.data = load_data(
            config.data,
            batch_size=config.batch_size,
            device=accelerator.device,
            seed=config.seed,
            division=division,
            even=config.regularization.pairs_images,
            balance=config.objective.balance,
            softmax=config.objective.loss == "cross_entropy",
        )
        self.config = replace(config, objective=replace(config.objective, balance=self.data.balance))
        self.notes.extend(self.data.notes)
        run.check_same_data(self.described())
        class_names = self.data.class_names
        if start is not None:
            self.make = start.for_classes(class_names).build
            self.notes.append(start.classifier_note(class_names))
        if config.model.num_classes not in (None, len(class_names)):
            raise SenetError(
                f"model.num_classes is {config.model.num_classes}, but the data has {len(class_names)} classes"
            )
        self.teacher = open_teacher(self.config, class_names, accelerator.device)

    def described(self) -> dict[str, Any]:
        """Return what data.json says of the data."""
        held_out = self.data.held_out
        return {**super().described(), "held_out": None if held_out is None else list(held_out)}

    def build(self) -> nn.Module:
        """Build the network, in training mode, for the classes and the images of the data."""
        config, num_classes = self.config, len(self.data.class_names)
        of_data = replace(config.model, num_classes=num_classes)
        model = self.make(with_drop_path(of_data, config.regularization.drop_path)).train()
        model.preprocessing = config.data.preprocessing
        model.class_names = self.data.class_names
        set_fused(model, is_on(config.compute.fused))
        if config.compute.grad_checkpointing:
            checkpoint_gradients(model)
        if config.weights is not None:
            self.config = replace(config, model=model.config)
        return model

    def objective(self, model: nn.Module) -> nn.Module:
        """Return the network with its loss, and prepare the mixing of images."""
        config, regularization = self.config, self.config.regularization
        num_classes = len(self.data.class_names)
        self.mixup = build_mixup(regularization, num_classes) if regularization.pairs_images else None
        return Objective(
            model,
            config.compute.precision,
            regularization.label_smoothing,
            config=config.objective,
            teacher=self.teacher,
            **by_class(config.objective, self.data.counts),
        )

    def frozen(self, model: nn.Module) -> Freezing:
        """Return what keeps the trunk or the statistics of BatchNorm as they are."""
        return Freezing(self.config, model)

    def average(self, model: nn.Module) -> RunningAverage | None:
        """Return the running average of the network; None for none."""
        regularization = self.config.regularization
        if not regularization.ema_decay:
            return None
        return RunningAverage(model, regularization.ema_decay, warmup=regularization.ema_warmup)

    def prepare(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch in the memory format of the run, its images mixed if they are to be."""
        images = images.contiguous(memory_format=self.config.compute.memory_format)
        return (images, targets) if self.mixup is None else self.mixup(images, targets)

    def loss(self, call: Call, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, see `loss_of`."""
        return loss_of(call, images, targets)

    def evaluate(
        self, kept: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator, team: Team
    ) -> dict[str, float]:
        """Evaluate a network on the images of all processes, and return what metrics.jsonl says of it."""
        memory_format: torch.memory_format = self.config.compute.memory_format
        formatted = ((images.contiguous(memory_format=memory_format), labels) for images, labels in batches)
        return figures(evaluate_in_run(kept, formatted, accelerator, team, self.config.compute.precision))

    def start_in_words(self, row: Mapping[str, float]) -> str:
        """Return what the run starts from, and how good that is, for the log."""
        what = f"{self.config.model.name} from {self.config.weights}"
        found = f"loss {row['loss']:.4f}  top-1 {row['top1']:.2f} %"
        return f"starts as {what}, on {self.config.data.preprocessing.in_words()}: {found}"

    def in_words(self, row: Mapping[str, float]) -> str:
        """Return what an evaluation has found, for the log."""
        return (
            f"loss {row['loss']:.4f}  top-1 {row['top1']:.2f} %  "
            f"balanced {row['balanced_accuracy']:.2f} %  macro F1 {row['macro_f1']:.2f} %"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a training state holds of the task: which teacher it has."""
        return {} if self.teacher is None else {"teacher": self.teacher.digest}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Raise a SenetError if a training state is of a run with another teacher."""
        if self.teacher is not None:
            self.teacher.check_same(state.get("teacher"))
