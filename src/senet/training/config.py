"""The configuration of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Fixed, Suppress

from senet.configs import Switch, from_dict, settings
from senet.data.config import DataConfig
from senet.errors import SenetError, check_choice, check_ranges
from senet.models.config import ModelConfig
from senet.nn.precision import Precision

ScheduleName = Literal["step", "cosine", "one_cycle", "plateau"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Stochastic gradient descent.

    Args:
        lr: highest learning rate; the schedule lowers it.
        momentum: in [0, 1].
        nesterov: use Nesterov momentum.
        weight_decay: L2 penalty.
        decay_norm_and_bias: apply the weight decay to the parameters of BatchNorm and to biases too, as the papers did.
        clip_norm: clip the norm of the whole gradient to this; None does not clip.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer.", {"lr": (1e-12, 1e6), "momentum": (0, 1), "weight_decay": (0, 1e6)})
        if self.nesterov and not self.momentum:
            raise SenetError("optimizer.nesterov has no effect without momentum; set optimizer.momentum")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise SenetError(f"optimizer.clip_norm is {self.clip_norm}; expected a positive number")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The schedule of the learning rate.

    Args:
        name: "step" (multiplied by `factor` at each milestone), "cosine" (half a cosine down to zero), "one_cycle"
            (linear up, then linear down to zero) or "plateau" (multiplied by `factor` when the evaluation loss has not
            fallen for `patience` epochs).
        milestones: epochs, for "step".
        factor: for "step" and "plateau".
        patience: epochs, for "plateau".
        peak: share of the run after which "one_cycle" is at its highest.
        warmup_epochs: length of the linear warm-up, which may be a fraction of an epoch.
        warmup_start: share of the learning rate at which the warm-up begins.
    """

    name: ScheduleName = "cosine"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    patience: int = 5
    peak: float = 0.2
    warmup_epochs: float = 0.0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        check_choice("schedule.name", self.name, get_args(ScheduleName))
        check_ranges(
            self,
            "schedule.",
            {
                "factor": (0, 1),
                "patience": (0, 1e6),
                "peak": (0.01, 0.99),
                "warmup_epochs": (0, 1e6),
                "warmup_start": (0, 1),
            },
        )
        if (self.name == "step") != bool(self.milestones):
            raise SenetError(
                f"schedule.milestones is {self.milestones} with schedule.name {self.name!r}; only 'step' takes them"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise SenetError(f"schedule.milestones is {self.milestones}; expected rising epochs")
        if self.name == "one_cycle" and self.warmup_epochs:
            raise SenetError("schedule.warmup_epochs has no effect with 'one_cycle', which rises by itself")


@dataclass(frozen=True, kw_only=True)
class RegularizationConfig:
    """Regularization against overfitting.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none. With both, one of them is drawn for each batch.
        ema_decay: decay per step of an exponential moving average of the weights, which is then evaluated and saved;
            None for none.
        freeze_bn_epochs: number of epochs at the end in which BatchNorm keeps its statistics (SENet-154's recipe).
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float | None = None
    freeze_bn_epochs: int = 0

    @property
    def pairs_images(self) -> bool:
        """Whether images are mixed in pairs, so that a batch needs an even number."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "regularization.",
            {
                "label_smoothing": (0, 0.999),
                "mixup": (0, 1e3),
                "cutmix": (0, 1e3),
                "freeze_bn_epochs": (0, 1e6),
            },
        )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise SenetError(f"regularization.ema_decay is {self.ema_decay}; expected between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the arithmetic is done; except for `accumulate`, the choices change only speed and rounding.

    Args:
        precision: of the forward and backward passes; "auto" is bf16 where the hardware computes it, else fp32, which
            is float32 in convolutions too; "tf32" needs one of NVIDIA's GPUs since Ampere, "fp16" any GPU.
        channels_last: memory format of images and weights.
        compile: compile the steps with torch.compile, on CUDA into CUDA graphs: "on", "off", or "auto", which compiles
            on CUDA alone. The first step then takes a minute or two. Where it fails, "auto" goes on without.
        fused: run BatchNorm, SE, sum and ReLU in few passes and operations (`senet.fuse`): "on" or "off"; "auto" is on
            wherever it is faster. On the CPU large feature maps need a C++ compiler, and some seconds to compile.
        accumulate: number of batches whose gradients are averaged into one step.
        cpu: stay on the CPU even if there is a GPU.
    """

    precision: Precision = "fp32"
    channels_last: bool = True
    compile: Switch = "auto"
    fused: Switch = "auto"
    accumulate: int = 1
    cpu: bool = False

    def __post_init__(self) -> None:
        check_choice("compute.precision", self.precision, get_args(Precision))
        check_choice("compute.compile", self.compile, get_args(Switch))
        check_choice("compute.fused", self.fused, get_args(Switch))
        check_ranges(self, "compute.", {"accumulate": (1, 1e6)})


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
        regularization: label smoothing, mixup, moving average of the weights.
        compute: precision, compiling, fused layers, accumulation.
        epochs: passes over the training images.
        batch_size: images of a batch in one process, before accumulation.
        seed: of everything random.
        checkpoint_every: batches between saves within an epoch; None saves after each epoch. Interrupting always saves.
        weights: what to start from: a tag of the package, a run or model folder, a file or a hub id. The network and
            its preprocessing are then those of the weights, except for what you set differently from the recipe: that
            is applied where the weights can be adapted (classes, channels, dropout, image size ...), and refused where
            it contradicts them. A classifier for other classes starts at random. None starts everything at random.
        weights_layout: how the file of weights names its tensors, see `load_weights`; None for what its keys say.
        weights_key: which of several networks in the file of weights, see `load_weights`.
        suggested: values of `model` and `data.preprocessing`, by dotted name, that nobody asked for: the recipe's, or
            the defaults of the classes. Weights that say otherwise replace these and no others.
    """

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    epochs: int = 100
    batch_size: int = 128
    seed: int = 0
    checkpoint_every: int | None = None
    weights: str | None = None
    weights_layout: str | None = None
    weights_key: str | None = None
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
        check_ranges(self, "", {"epochs": (1, 1e6), "batch_size": (1, 1e6), "seed": (0, 2**63 - 1)})
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise SenetError(f"checkpoint_every is {self.checkpoint_every}; expected at least 1")
        if self.batch_size % 2 and self.regularization.pairs_images:
            raise SenetError(f"batch_size is {self.batch_size}; mixup and CutMix pair images and need an even number")
        if self.weights is None:  # otherwise the weights decide
            self.check_channels()
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
