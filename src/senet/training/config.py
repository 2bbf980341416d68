"""The configuration of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Fixed, Suppress

from senet.configs import from_dict, settings
from senet.data.config import DataConfig
from senet.errors import SenetError, check_choice, check_ranges
from senet.models.config import DROP_PATH_OPTIONS, ModelConfig
from senet.training.sections import (
    ComputeConfig,
    Freeze,
    ObjectiveConfig,
    OptimizerConfig,
    RegularizationConfig,
    ScheduleConfig,
    SelectionConfig,
)

Tracker = Literal["tensorboard", "wandb", "mlflow", "comet_ml"]


def class_defaults() -> dict[str, Any]:
    """Return what `suggested` is for a configuration that no recipe made: the defaults of the classes."""
    return dict(settings(ModelConfig(name=""), "model")) | dict(settings(DEFAULT_PREPROCESSING, "data.preprocessing"))


DEFAULT_PREPROCESSING = DataConfig().preprocessing


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
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
        max_seconds: time for the whole run, with its evaluations; the number of epochs is then what fits, at most
            `epochs`, and is decided again after each. None for no limit.
        batch_size: images of a batch in one process, before accumulation.
        seed: of everything random.
        checkpoint_every: batches between saves within an epoch; None saves after each epoch. Interrupting always saves.
        weights: what to start from: a tag of the package, a run or model folder, a file or a hub id. The network and
            its preprocessing are then those of the weights, except for what you set differently from the recipe: that
            is applied where the weights can be adapted (classes, channels, dropout, image size ...), and refused where
            it contradicts them. A classifier for other classes starts at random. None starts everything at random.
        weights_layout: how the file of weights names its tensors, see `load_weights`; None for what its keys say.
        weights_key: which of several networks in the file of weights, see `load_weights`.
        trackers: where the metrics of each epoch go: "tensorboard" (in the run folder), "wandb", "mlflow", "comet_ml".
        suggested: values of `model` and `data.preprocessing`, by dotted name, that nobody asked for: the recipe's, or
            the defaults of the classes. Weights that say otherwise replace these and no others.
    """

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    freeze: Freeze = "none"
    head_epochs: int = 0
    epochs: int = 100
    max_seconds: float | None = None
    batch_size: int = 128
    seed: int = 0
    checkpoint_every: int | None = None
    weights: str | None = None
    weights_layout: str | None = None
    weights_key: str | None = None
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    suggested: Annotated[Mapping[str, Any], Suppress, Fixed] = field(
        default_factory=class_defaults, repr=False, compare=False
    )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration that `senet.configs.to_dict` wrote, as in a run's config.json.

        Raises:
            SenetError: an unknown key, or a value that does not fit; the message has its dotted name.
        """
        return from_dict(cls, values)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "",
            {"epochs": (1, 1e6), "batch_size": (1, 1e6), "seed": (0, 2**63 - 1), "head_epochs": (0, self.epochs)},
        )
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
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise SenetError(f"max_seconds is {self.max_seconds}; expected a positive number of seconds")
        for tracker in self.trackers:
            check_choice("trackers", tracker, get_args(Tracker))
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise SenetError(f"checkpoint_every is {self.checkpoint_every}; expected at least 1")
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

    def asked(self) -> dict[str, Any]:
        """Return the values of `model` and `data.preprocessing` that somebody asked for, by dotted name."""
        found, suggested = network_settings(self), dict(self.suggested)
        if self.data.preprocessing == DEFAULT_PREPROCESSING:  # left out in a `DataConfig` of the caller's
            suggested |= {name: value for name, value in found.items() if name in suggested and "preprocessing" in name}
        return {name: value for name, value in found.items() if name not in suggested or suggested[name] != value}


def network_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the values of `model` and `data.preprocessing` by dotted name."""
    return dict(settings(config.model, "model")) | dict(settings(config.data.preprocessing, "data.preprocessing"))


def recipe(function: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    """Mark a recipe: its network and preprocessing are suggestions, see `TrainConfig.suggested`."""

    @wraps(function)
    def suggesting() -> TrainConfig:
        config = function()
        if not isinstance(config, TrainConfig):
            raise SenetError(f"the recipe {function.__name__} returns a {type(config).__name__}, no TrainConfig")
        return replace(config, suggested=network_settings(config))

    return suggesting
