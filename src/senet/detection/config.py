"""The configuration of a run that trains a detector."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, get_args

from senet.detection.data_config import DetectionDataConfig
from senet.detection.detector_config import DetectorConfig
from senet.errors import SenetError, check_choice, check_ranges
from senet.models.config import ModelConfig
from senet.models.description import required_modules
from senet.nn.block import SEOptions
from senet.training.config import RunConfig
from senet.training.length import Length, of_iterations
from senet.training.sections import AnySelection, ComputeConfig, ScheduleConfig

DetectionMetric = Literal["ap", "ap50", "ap75", "epoch"]
"""COCO's figures of the evaluation images, in %; "epoch" is the number of the epoch."""


@dataclass(frozen=True, kw_only=True)
class DetectionSchedule(ScheduleConfig):
    """The schedule of the learning rate.

    Args:
        name: "step" (multiplied by `factor` at each milestone), "cosine" (half a cosine down to zero) or "one_cycle"
            (linear up, then linear down to zero).
        milestones: for "step": iterations if the run's length is in iterations, else epochs.
        factor: for "step".
        warmup_iterations: length of the linear warm-up in steps, whatever the run's length is in.
    """

    warmup_iterations: int = 0

    def __post_init__(self) -> None:
        if self.name == "plateau":
            raise SenetError(
                "schedule.name is plateau, which follows the loss of the evaluation images, and a detector has none; "
                "take step, cosine or one_cycle"
            )
        super().__post_init__()
        check_ranges(self, "schedule.", {"warmup_iterations": (0, 1e9)})
        if self.warmup_iterations and self.warmup_epochs:
            raise SenetError(
                f"schedule.warmup_iterations is {self.warmup_iterations} and schedule.warmup_epochs "
                f"{self.warmup_epochs:g}; a warm-up has one length: leave one of them out"
            )
        if self.warmup_iterations and self.name == "one_cycle":
            raise SenetError("schedule.warmup_iterations has no effect with 'one_cycle', which rises by itself")


@dataclass(frozen=True, kw_only=True)
class DetectionSelection(AnySelection):
    """Which epoch is kept as the best, and when a run stops early.

    Args:
        metric: of the evaluation images: "ap" (COCO's average precision), "ap50" (at an IoU of 0.5), "ap75"; or
            "epoch", by which the last is the best. The best epoch is kept in best/.
        patience: the run stops after this many epochs without a better one; None for never.
    """

    metric: DetectionMetric = "ap"

    def __post_init__(self) -> None:
        check_choice("selection.metric", self.metric, get_args(DetectionMetric))
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(RunConfig):
    """The configuration of a run that trains a detector.

    Args:
        model: the detector; its classes are those of the data.
        data: the images with boxes, and how they are augmented.
        optimizer: settings of stochastic gradient descent.
        schedule: the schedule of the learning rate.
        selection: which epoch is the best, and when to stop early.
        compute: precision, fused layers, gradient checkpointing, accumulation; detectors are not compiled.
        epochs: passes over the training images; None if the run's length is in iterations.
        iterations: steps of the whole run, the last epoch of which is cut; None if its length is in epochs.
        batch_size: images of a batch in one process, before accumulation.
        reference_batch: images of a step that the learning rate, the iterations, their milestones and the warm-up are
            meant for. With another number of images in a step, over all processes, the learning rate is multiplied by
            the ratio of the two and the iterations are divided by it (arXiv:1706.02677, section 2.1), which is logged
            and written to config.json. None takes all as they are.
        weights: of the trunk, as `create_model` takes them, such as "torchvision/resnet50.IMAGENET1K_V1", a run or
            model folder or a file; or the run or model folder of a whole detector, whose trunk and sizes of layers are
            then taken, and whose last layers start at random for other classes. None starts everything at random.

    Source: detectron2, engine/defaults.py, `DefaultTrainer.auto_scale_workers` (what is scaled).
    """

    task: ClassVar[str] = "detection"
    task_class: ClassVar[str] = "senet.detection.task:Detection"

    model: DetectorConfig = field(default_factory=DetectorConfig)
    data: DetectionDataConfig = field(default_factory=DetectionDataConfig)
    schedule: DetectionSchedule = field(default_factory=DetectionSchedule)
    selection: DetectionSelection = field(default_factory=DetectionSelection)
    compute: ComputeConfig = field(default_factory=lambda: ComputeConfig(compile="off"))
    batch_size: int = 2
    iterations: int | None = None
    reference_batch: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_length()
        if self.reference_batch is not None:
            check_ranges(self, "", {"reference_batch": (1, 1e6)})
        if self.optimizer.layer_decay is not None:
            raise SenetError(
                "optimizer.layer_decay has no effect on a detector, whose layers are no chain; leave it out"
            )
        if self.compute.compile == "on":
            raise SenetError(
                "compute.compile is on, but a detector is not compiled, for its images have many sizes; leave it out"
            )
        if self.weights is None:
            for option in ("weights_layout", "weights_key"):
                if getattr(self, option) is not None:
                    raise SenetError(f"{option} has no effect without weights; set that too")

    def check_length(self) -> None:
        """Raise a SenetError unless the run has one length, and reaches the milestones and the end of the warm-up."""
        if (self.epochs is None) == (self.iterations is None):
            raise SenetError(
                f"epochs is {self.epochs} and iterations is {self.iterations}; a run has one of these lengths, and the "
                "other is None"
            )
        if self.iterations is not None:
            check_ranges(self, "", {"iterations": (1, 1e9)})
            if self.max_seconds is not None:
                raise SenetError("max_seconds has no effect on a run whose length is in iterations; set epochs instead")
        unit = "epochs" if self.iterations is None else "iterations"
        length = getattr(self, unit)
        late = [milestone for milestone in self.schedule.milestones if milestone >= length]
        if late:
            raise SenetError(
                f"schedule.milestones has {late[0]}, which a run of {length} {unit} does not reach; set the milestones "
                "for its length, or schedule.name cosine without milestones"
            )

    def check_warmup(self, num_batches: int) -> None:
        """Raise a SenetError if a run of epochs of so many batches would end in its warm-up."""
        warmup, steps = self.schedule.warmup_iterations, -(-num_batches // self.compute.accumulate)
        total = self.iterations if self.epochs is None else self.epochs * steps
        if total is not None and warmup >= total:
            raise SenetError(
                f"the warm-up takes {warmup:,} steps, and the run has {total:,}; set schedule.warmup_iterations lower "
                "(it is meant for steps of reference_batch images)"
            )

    def length(self, num_batches: int) -> Length:
        """Return how long the run is if an epoch has so many batches."""
        if self.iterations is None:
            return super().length(num_batches)
        return of_iterations(self.iterations, num_batches, self.compute.accumulate)

    def timing(self, num_batches: int) -> ScheduleConfig:
        """Return the schedule with its warm-up in the unit of the run's length."""
        schedule, steps = self.schedule, -(-num_batches // self.compute.accumulate)
        if self.iterations is None and schedule.warmup_iterations:
            return replace(schedule, warmup_iterations=0, warmup_epochs=schedule.warmup_iterations / steps)
        if self.iterations is not None:
            warmup = schedule.warmup_iterations or schedule.warmup_epochs * steps
            return replace(schedule, warmup_iterations=0, warmup_epochs=warmup)
        return schedule

    def required_modules(self) -> list[str]:
        """Return the modules of other packages that registered parts of the network."""
        trunk = ModelConfig(name=self.model.trunk, se=self.model.se or SEOptions())
        return required_modules(trunk, self.model.surgery)

    def scaled(self, num_processes: int) -> "tuple[DetectionConfig, str]":
        """Return the configuration for the images that a step has, and a sentence if that changes it.

        Args:
            num_processes: that train together.
        """
        images = self.batch_size * self.compute.accumulate * num_processes
        reference = self.reference_batch
        if reference is None or images == reference:
            return self, ""
        ratio, schedule = images / reference, self.schedule
        lr, warmup = self.optimizer.lr * ratio, round(schedule.warmup_iterations / ratio)
        sentence = (
            f"a step has {images} images where reference_batch is {reference}: the learning rate is {lr:.4g}, not "
            f"{self.optimizer.lr:.4g}"
        )
        iterations, milestones = self.iterations, schedule.milestones
        if iterations is not None:
            iterations = max(1, round(iterations / ratio))
            milestones = tuple(round(milestone / ratio) for milestone in milestones)
            sentence += f", and the run has {iterations:,} iterations, not {self.iterations:,}"
        scaled = replace(
            self,
            optimizer=replace(self.optimizer, lr=lr),
            schedule=replace(schedule, milestones=milestones, warmup_iterations=warmup),
            iterations=iterations,
            reference_batch=None,
        )
        return scaled, sentence
