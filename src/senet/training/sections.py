"""The sections of a run's configuration: objective, optimizer, schedule, regularization, selection, compute."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from senet.configs import Switch
from senet.data.balance import Balance
from senet.errors import SenetError, check_choice, check_ranges
from senet.nn.precision import Precision

ScheduleName = Literal["step", "cosine", "one_cycle", "plateau"]
Loss = Literal["cross_entropy", "binary_cross_entropy"]
Metric = Literal["top1", "balanced_accuracy", "macro_f1", "loss", "epoch"]
"""What is measured on the evaluation images, in % but for the loss; "epoch" is the number of the epoch."""
Freeze = Literal["none", "bn", "trunk"]
GradientCompression = Literal["none", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What the training steps minimize.

    Args:
        loss: "cross_entropy", or "binary_cross_entropy" of each class by itself, averaged over the classes
            (arXiv:2110.00476).
        target_threshold: with "binary_cross_entropy", a class counts as present if its share of the mixed target is
            larger than this; None keeps the shares.
        balance: how classes of few images are made up for: "sampler" draws all classes equally often, "weights" gives
            the images of a class a weight in the loss that falls with their number (a mixed image has the weights of
            its classes in their shares), "logits" adds the logarithm of each class's share of the images to its
            logits in training (arXiv:2007.07314), for the cross entropy; "auto" decides by the numbers.
        teacher: a run, a model folder or whatever `senet.from_pretrained` opens, whose probabilities are learned too
            (knowledge distillation, arXiv:1503.02531); None for none. It must have the same classes, sees the same
            mixed and augmented images, and must still be there when the run is resumed.
        distillation: share of the loss that comes from the teacher.
        temperature: by which the logits of both are divided for the teacher's share.
    """

    loss: Loss = "cross_entropy"
    target_threshold: float | None = None
    balance: Balance = "off"
    teacher: str | None = None
    distillation: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_choice("objective.loss", self.loss, get_args(Loss))
        check_choice("objective.balance", self.balance, get_args(Balance))
        check_ranges(self, "objective.", {"distillation": (0, 1), "temperature": (1e-3, 1e3)})
        if self.balance == "logits" and self.loss != "cross_entropy":
            raise SenetError(
                f"objective.balance logits needs the cross entropy, not {self.loss}, in which no class's logit counts "
                "against the others'; set it to sampler or weights"
            )
        for name in ("distillation", "temperature"):
            if self.teacher is None and getattr(self, name) != getattr(type(self), name):
                raise SenetError(f"objective.{name} has no effect without objective.teacher; set that too")
        if self.teacher is not None and not self.distillation:
            raise SenetError("objective.teacher has no effect with a distillation of 0; leave it out or raise that")
        if self.target_threshold is not None:
            if self.loss != "binary_cross_entropy":
                raise SenetError("objective.target_threshold has no effect without binary_cross_entropy; leave it out")
            check_ranges(self, "objective.", {"target_threshold": (0, 0.999)})


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer.

    Args:
        name: "sgd", or another of timm's factory (`timm.optim.list_optimizers()`), such as "adamw" or "lamb".
        lr: highest learning rate; the schedule lowers it.
        momentum: in [0, 1], for the optimizers that have one.
        nesterov: use Nesterov momentum, in SGD.
        weight_decay: L2 penalty; in optimizers that decouple it, such as "adamw", the share of the weights that a step
            with learning rate 1 takes away.
        decay_norm_and_bias: apply the weight decay to the parameters of BatchNorm and to biases too, as the papers did.
        layer_decay: learning rate of each group of layers as a share of that of the next one towards the classifier,
            which has `lr` itself; None for the same rate everywhere.
        clip_norm: clip the norm of the whole gradient to this; None does not clip.
        options: further arguments of the optimizer, such as betas=(0.9,0.95) or eps=1e-6.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    layer_decay: float | None = None
    clip_norm: float | None = None
    options: Annotated[Mapping[str, Any], tyro.conf.arg(name="kwargs")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self, "optimizer.", {"lr": (1e-12, 1e6), "momentum": (0, 1), "weight_decay": (0, 1e6)})
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise SenetError(f"optimizer.layer_decay is {self.layer_decay}; expected above 0 to 1, such as 0.75")
        if self.nesterov and self.name != "sgd":
            raise SenetError(
                f"optimizer.nesterov has no effect on {self.name}; set optimizer.nesterov=False, or optimizer.name=sgd"
            )
        if self.nesterov and not self.momentum:
            raise SenetError(
                "optimizer.nesterov has no effect without momentum; set optimizer.momentum, or optimizer.nesterov=False"
            )
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
        max_drops: the run ends when the loss has stopped falling once more after so many reductions by "plateau", or
            after its epochs; None for its epochs alone.
        peak: share of the run after which "one_cycle" is at its highest.
        warmup_epochs: length of the linear warm-up, which may be a fraction of an epoch.
        warmup_start: share of the learning rate at which the warm-up begins.
    """

    name: ScheduleName = "cosine"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    patience: int = 5
    max_drops: int | None = None
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
        if self.max_drops is not None and (self.name != "plateau" or self.max_drops < 1):
            raise SenetError(
                f"schedule.max_drops is {self.max_drops} with schedule.name {self.name!r}; "
                "expected at least 1, and only 'plateau' takes it"
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
        drop_path: stochastic depth (arXiv:1603.09382): probability with which the last residual branch is left out of
            a training step for an image; those before it are left out less, in proportion to their depth. For ResNets,
            ResNeXts and SENets, and for networks of timm and torchvision that have it; 0 leaves it as the network has
            it.
        ema_decay: decay per step of an exponential moving average of the weights, which is then evaluated and saved;
            None for none.
        ema_warmup: let the average follow quickly at first, so that it is of use in short runs too: the decay of step t
            is at most 1 - (t + 1)^(-2/3), as in timm.
        freeze_bn_epochs: number of epochs at the end in which BatchNorm keeps its statistics (SENet-154's recipe).
    """

    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    ema_decay: float | None = None
    ema_warmup: bool = False
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
                "drop_path": (0, 0.999),
                "freeze_bn_epochs": (0, 1e6),
            },
        )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise SenetError(f"regularization.ema_decay is {self.ema_decay}; expected between 0 and 1")
        if self.ema_warmup and self.ema_decay is None:
            raise SenetError("regularization.ema_warmup has no effect without regularization.ema_decay; set that too")


@dataclass(frozen=True, kw_only=True)
class AnySelection:
    """Which epoch is kept as the best, and when a run stops early.

    Args:
        metric: of the evaluation images, by which epochs are compared. The best epoch is kept in best/.
        patience: the run stops after this many epochs without a better one; None for never.
    """

    metric: str
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise SenetError(f"selection.patience is {self.patience}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(AnySelection):
    """Which epoch is kept as the best, and when a run stops early.

    Args:
        metric: of the evaluation images: "top1", "balanced_accuracy" (the mean of the classes' accuracies), "macro_f1"
            (the mean of the classes' F1) or "loss"; or "epoch", by which the last is the best: for evaluation images
            too few to choose by. The best epoch is kept in best/.
        patience: the run stops after this many epochs without a better one; None for never.
    """

    metric: Metric = "top1"

    def __post_init__(self) -> None:
        check_choice("selection.metric", self.metric, get_args(Metric))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the arithmetic is done: speed and rounding, but for `accumulate` and `sync_batch_norm`.

    Args:
        precision: of the forward and backward passes; "auto" is bf16 where the hardware computes it, else fp32, which
            is float32 in convolutions too; "tf32" needs one of NVIDIA's GPUs since Ampere, "fp16" any GPU.
        channels_last: memory format of images and weights.
        compile: compile the steps with torch.compile, on CUDA into CUDA graphs: "on", "off", or "auto", which compiles
            on CUDA alone. The first step then takes a minute or two. Where it fails, "auto" goes on without.
        fused: run BatchNorm, SE, sum and ReLU in few passes and operations (`senet.fuse`): "on" or "off"; "auto" is on
            wherever it is faster. On the CPU large feature maps need a C++ compiler, and some seconds to compile.
        grad_checkpointing: compute the blocks again in the backward pass instead of keeping their activations: about a
            third more time, for larger batches or images in the same memory.
        accumulate: number of batches whose gradients are averaged into one step.
        gradient_compression: how several processes send each other their gradients: "bf16" takes half the bytes of
            float32 ("none") and rounds to three digits, for slow networks; "fp16" rounds to four, but loses what is
            below 6e-8 and overflows above 65504.
        bucket_mb: megabytes of gradients that are summed at once, while the backward pass goes on; with fewer it
            overlaps more, with more a network of long delays is used better.
        sync_batch_norm: take the statistics of BatchNorm over the images of all processes (SyncBatchNorm), on any
            device, as one process with all of them would; for batches of few images in each.
        cpu: stay on the CPU even if there is a GPU.
    """

    precision: Precision = "fp32"
    channels_last: bool = True
    compile: Switch = "auto"
    fused: Switch = "auto"
    grad_checkpointing: bool = False
    accumulate: int = 1
    gradient_compression: GradientCompression = "none"
    bucket_mb: int = 25
    sync_batch_norm: bool = False
    cpu: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def __post_init__(self) -> None:
        check_choice("compute.precision", self.precision, get_args(Precision))
        check_choice("compute.compile", self.compile, get_args(Switch))
        check_choice("compute.fused", self.fused, get_args(Switch))
        check_choice("compute.gradient_compression", self.gradient_compression, get_args(GradientCompression))
        check_ranges(self, "compute.", {"accumulate": (1, 1e6), "bucket_mb": (1, 1e6)})
