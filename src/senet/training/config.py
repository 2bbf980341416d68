"""The configuration of a run: what all runs have, and what those have that classify."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import wraps
from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from tyro.conf import Fixed, Suppress

from senet.configs import from_dict, settings
from senet.data.config import DataConfig
from senet.errors import SenetError, check_choice, check_ranges
from senet.lost import LOST_MINUTES
from senet.models.config import DROP_PATH_OPTIONS, ModelConfig
from senet.models.description import Surgery, required_modules
from senet.training.length import Length
from senet.training.sections import (
    AnySelection,
    ComputeConfig,
    Freeze,
    ObjectiveConfig,
    OptimizerConfig,
    RegularizationConfig,
    ScheduleConfig,
    SelectionConfig,
)

Tracker = Literal["tensorboard", "wandb", "mlflow", "comet_ml"]
Config = TypeVar("Config", bound="RunConfig")


CONFIGURATIONS: Mapping[str, str] = {
    "classification": "senet.training.config:TrainConfig",
    "detection": "senet.detection.config:DetectionConfig",
}
"""The class of each task's configuration, as "module:class", for modules that this one cannot import."""


def named(place: str) -> Any:
    """Return what "module:name" means."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def configuration_of(task: Any) -> "type[RunConfig]":
    """Return the class of a task's configuration.

    Args:
        task: as config.json says it.

    Raises:
        SenetError: there is no such task.
    """
    check_choice("task", task, tuple(CONFIGURATIONS))
    found: type[RunConfig] = named(CONFIGURATIONS[task])
    return found


def class_defaults() -> dict[str, Any]:
    """Return what `suggested` is for a configuration that no recipe made: the defaults of the classes."""
    return dict(settings(ModelConfig(name=""), "model")) | dict(settings(DEFAULT_PREPROCESSING, "data.preprocessing"))


DEFAULT_PREPROCESSING = DataConfig().preprocessing


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the configurations of all runs have in common, whatever is trained.

    Args:
        model: the network.
        data: the images, and how they are augmented.
        optimizer: settings of stochastic gradient descent.
        schedule: the schedule of the learning rate.
        selection: which epoch is the best, and when to stop early.
        compute: precision, compiling, fused layers, gradient checkpointing, accumulation.
        epochs: passes over the training images.
        max_seconds: time for the whole run, with its evaluations; the number of epochs is then what fits, at most
            `epochs`, and is decided again after each. None for no limit.
        batch_size: images of a batch in one process, before accumulation; a run that goes on in another number of
            processes keeps the batches that it started with.
        seed: of everything random.
        checkpoint_every: batches between saves within an epoch; None saves after each epoch. Interrupting always saves.
        weights: what to start from; None starts everything at random.
        weights_layout: how the file of weights names its tensors, see `load_weights`; None for what its keys say.
        weights_key: which of several networks in the file of weights, see `load_weights`.
        log_every: steps from line to line of steps.jsonl: loss, times, waiting for images, memory.
        stall_minutes: without a step after which the stacks of all threads are written to stacks/; None for never.
        lost_minutes: without a sign of life from a process on another machine after which the run ends, to be resumed;
            a slow process gives signs of life. None waits without an end.
        trackers: where the metrics go: "tensorboard" (in the run folder), "wandb", "mlflow", "comet_ml".

    Attributes:
        task: what a run of this class does, as config.json says it.
        task_class: who does it, as "module:class", for a class that this module cannot import.
    """

    task: ClassVar[str]
    task_class: ClassVar[str]

    model: Any
    data: Any
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    selection: AnySelection
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    epochs: int | None = None
    max_seconds: float | None = None
    batch_size: int
    seed: int = 0
    checkpoint_every: int | None = None
    weights: str | None = None
    weights_layout: str | None = None
    weights_key: str | None = None
    log_every: int = 50
    stall_minutes: float | None = 10.0
    lost_minutes: float | None = LOST_MINUTES
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that `senet.configs.to_dict` wrote, as in a run's config.json.

        Raises:
            SenetError: an unknown key, or a value that does not fit; the message has its dotted name.
        """
        return from_dict(cls, values)

    def __post_init__(self) -> None:
        check_ranges(self, "", {"batch_size": (1, 1e6), "seed": (0, 2**63 - 1)})
        if self.epochs is not None:
            check_ranges(self, "", {"epochs": (1, 1e6)})
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise SenetError(f"max_seconds is {self.max_seconds}; expected a positive number of seconds")
        check_ranges(self, "", {"log_every": (1, 1e9)})
        for name in ("stall_minutes", "lost_minutes"):
            minutes = getattr(self, name)
            if minutes is not None and not minutes > 0:
                raise SenetError(f"{name} is {minutes}; expected a positive number of minutes, or None")
        for tracker in self.trackers:
            check_choice("trackers", tracker, get_args(Tracker))
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise SenetError(f"checkpoint_every is {self.checkpoint_every}; expected at least 1")

    def length(self, num_batches: int) -> Length:
        """Return how long the run is if an epoch has so many batches."""
        assert self.epochs is not None
        return Length(epochs=self.epochs, num_batches=num_batches)

    def timing(self, num_batches: int) -> ScheduleConfig:
        """Return the schedule with all its times in the unit of the run's length.

        Args:
            num_batches: of an epoch.
        """
        return self.schedule

    def task_type(self) -> Any:
        """Return the class of `senet.training.task.Task` that does what a run of this class does."""
        return named(self.task_class)

    def required_modules(self) -> list[str]:
        """Return the modules of other packages that registered parts of the network."""
        raise NotImplementedError

    def suggesting(self) -> Self:
        """Return the configuration as that of a recipe, which nobody has asked for."""
        return self

    def asking(self, options: Set[str]) -> Self:
        """Return the configuration with some options, by dotted name, as asked for though they may be the recipe's."""
        return self


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """The configuration of a run: on the same machine, the same configuration gives the same weights.

    Args:
        model: the network; with `weights`, see there.
        data: the images, and how they are augmented.
        optimizer: settings of stochastic gradient descent.
        schedule: the schedule of the learning rate.
        objective: the loss, balancing of classes, a teacher.
        regularization: label smoothing, mixup, stochastic depth, moving average of the weights.
        selection: which epoch is the best, and when to stop early.
        compute: precision, compiling, fused layers, gradient checkpointing, accumulation.
        freeze: what stays as it is: "bn" the statistics of BatchNorm; "trunk" everything but the classifier and the SE
            blocks that were inserted into a network that had none.
        head_epochs: epochs at the beginning in which the trunk is frozen, so that a new classifier does not spoil it.
        epochs: passes over the training images.
        max_seconds: see `RunConfig`, as for the others that are not listed here.
        weights: what to start from: a tag of the package, a run or model folder, a file or a hub id. The network and
            its preprocessing are then those of the weights, except for what you set differently from the recipe: that
            is applied where the weights can be adapted (classes, channels, dropout, image size ...), and refused where
            it contradicts them. A classifier for other classes starts at random. None starts everything at random.
        suggested: values of `model` and `data.preprocessing`, by dotted name, that nobody asked for: the recipe's, or
            the defaults of the classes. Weights that say otherwise replace these and no others.
    """

    task: ClassVar[str] = "classification"
    task_class: ClassVar[str] = "senet.training.classification:Classification"

    model: ModelConfig
    data: DataConfig
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    freeze: Freeze = "none"
    head_epochs: int = 0
    epochs: int = 100
    batch_size: int = 128
    suggested: Annotated[Mapping[str, Any], Suppress, Fixed] = field(
        default_factory=class_defaults, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "", {"head_epochs": (0, self.epochs)})
        check_choice("freeze", self.freeze, get_args(Freeze))
        if self.freeze == "trunk" and self.head_epochs:
            raise SenetError("head_epochs has no effect with freeze trunk, which trains nothing but the head")
        if self.freeze != "none" and self.regularization.freeze_bn_epochs:
            raise SenetError(
                f"regularization.freeze_bn_epochs has no effect with freeze {self.freeze}, which keeps the statistics "
                "of BatchNorm in all epochs; leave it out"
            )
        if self.freeze == "trunk" and self.optimizer.layer_decay is not None:
            raise SenetError("optimizer.layer_decay has no effect with freeze trunk, which trains the head alone")
        if self.batch_size % 2 and self.regularization.pairs_images:
            raise SenetError(f"batch_size is {self.batch_size}; mixup and CutMix pair images and need an even number")
        if self.weights is None:  # otherwise the weights decide
            self.check_channels()
            self.check_drop_path()
            for option in ("weights_layout", "weights_key"):
                if getattr(self, option) is not None:
                    raise SenetError(f"{option} has no effect without weights; set that too")
        if self.regularization.freeze_bn_epochs > self.epochs:
            raise SenetError(
                f"regularization.freeze_bn_epochs is {self.regularization.freeze_bn_epochs}; "
                f"expected at most the {self.epochs} epochs of the run"
            )

    def check_channels(self) -> None:
        """Raise a SenetError if the network and the preprocessing differ in their numbers of channels."""
        if self.model.in_channels != self.data.preprocessing.in_channels:
            raise SenetError(
                f"model.in_channels is {self.model.in_channels}, but data.preprocessing gives "
                f"{self.data.preprocessing.in_channels} channels; set data.preprocessing.mean and std for as many"
            )

    def check_drop_path(self) -> None:
        """Raise a SenetError if an option of the network contradicts `regularization.drop_path`."""
        rate = self.regularization.drop_path
        for option in DROP_PATH_OPTIONS:
            if rate and self.model.options.get(option, rate) != rate:
                raise SenetError(
                    f"model.options.{option} is {self.model.options[option]}, but regularization.drop_path is {rate}; "
                    "leave one of them out"
                )

    def required_modules(self) -> list[str]:
        """Return the modules of other packages that registered parts of the network."""
        return required_modules(self.model, Surgery())

    def suggesting(self) -> Self:
        """Return the configuration as that of a recipe, see `suggested`."""
        return replace(self, suggested=network_settings(self))

    def asking(self, options: Set[str]) -> Self:
        """Return the configuration with some options, by dotted name, as asked for though they may be the recipe's."""
        suggested = {
            name: value
            for name, value in self.suggested.items()
            if not any(name == option or name.startswith(f"{option}.") for option in options)
        }
        return replace(self, suggested=suggested)

    def asked(self) -> dict[str, Any]:
        """Return the values of `model` and `data.preprocessing` that somebody asked for, by dotted name."""
        found, suggested = network_settings(self), dict(self.suggested)
        if self.data.preprocessing == DEFAULT_PREPROCESSING:  # left out in a `DataConfig` of the caller's
            suggested |= {name: value for name, value in found.items() if name in suggested and "preprocessing" in name}
        return {name: value for name, value in found.items() if name not in suggested or suggested[name] != value}


def network_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the values of `model` and `data.preprocessing` by dotted name."""
    return dict(settings(config.model, "model")) | dict(settings(config.data.preprocessing, "data.preprocessing"))


def recipe(function: Callable[[], Config]) -> Callable[[], Config]:
    """Mark a recipe: its network and preprocessing are suggestions, see `TrainConfig.suggested`."""

    @wraps(function)
    def suggesting() -> Config:
        config = function()
        if not isinstance(config, RunConfig):
            raise SenetError(f"the recipe {function.__name__} returns a {type(config).__name__}, no TrainConfig")
        return config.suggesting()

    return suggesting
