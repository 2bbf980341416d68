"""The task of detecting objects: what of a run is about boxes, their losses and COCO's figures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from senet.configs import is_on
from senet.data.division import Division
from senet.detection.config import DetectionConfig
from senet.detection.detector_config import DetectorConfig, check_frozen
from senet.detection.detectors import Detector, build_detector
from senet.detection.evaluation import BoxFigures, check_ground_truth, evaluate_detector
from senet.detection.loading import DetectionLoaders, load_detection_data
from senet.detection.objective import DetectionObjective, detected
from senet.detection.opening import check_scaled, detects, open_detector
from senet.detection.warm_start import from_detector, kept_order
from senet.errors import SenetError, counted, needed_for
from senet.models.external import tag_of
from senet.nn.fused import set_fused
from senet.processes import Team
from senet.training.compiling import Call
from senet.training.run import RunFolder
from senet.training.scoring import share_buffers
from senet.training.task import Task

with needed_for("senet.train"):
    from accelerate import Accelerator

Batch = tuple[Sequence[Tensor], Sequence[Mapping[str, Tensor]]]


class Detection(Task[DetectionConfig]):
    """A run that trains a detector, see `Task`.

    Args:
        config: of the run.
    """

    data: DetectionLoaders
    starts_trained = False  # the weights are the trunk's, and what it would find is noise

    def __init__(self, config: DetectionConfig) -> None:
        super().__init__(config)
        self.is_new, self.from_detector = True, False

    def open(self, run: RunFolder, accelerator: Accelerator, division: Division, *, is_new: bool) -> None:
        """Open the data of the run, see `Task.open`; the weights are opened with the network."""
        with needed_for("the evaluation of a detector"):
            import faster_coco_eval  # noqa: F401  # not only after the first epoch
        self.is_new = is_new
        if division.is_split:
            shares = counted(division.num_replicas, "share")
            raise SenetError(
                f"a batch of the run has {shares}, too few for {division.num_processes} processes: a detector's losses "
                f"are of boxes that it draws from all images of a share; start at most {division.num_replicas}"
            )
        config, sentence = self.config.scaled(division.num_replicas)
        self.notes.append(sentence)
        self.config = config = replace(config, compute=replace(config.compute, compile="off"))
        self.check_start()
        self.data = load_detection_data(
            config.data,
            batch_size=config.batch_size,
            device=accelerator.device,
            seed=config.seed,
            division=division,
        )
        self.notes.extend(self.data.notes)
        for record in (*self.data.train_split.records, *self.data.eval_split.records):
            check_scaled(record.file, (record.width, record.height), config.model.min_size, config.model.max_size)
        config.check_warmup(len(self.data.train))
        number, asked = len(self.data.class_names), config.model.num_classes
        if asked not in (None, number):
            raise SenetError(f"model.num_classes is {asked}, but the data have {number} classes; leave it out")
        check_ground_truth(self.data.eval_split.ground_truth())
        run.check_same_data(self.described())

    def check_start(self) -> None:
        """Raise a SenetError if what a new run starts from leaves layers at random for good."""
        config = self.config
        if not self.is_new:
            return
        self.from_detector = config.weights is not None and detects(config.weights)
        if self.from_detector:
            for option in ("weights_layout", "weights_key"):
                if getattr(config, option) is not None:
                    raise SenetError(f"{option} has no effect on {config.weights}, which is a detector; leave it out")
            return
        check_frozen(config.model, config.weights or tag_of(config.model.trunk) or None)

    def described(self) -> dict[str, Any]:
        """Return what data.json says of the data."""
        data = self.data
        return {
            **super().described(),
            "held_out": None if data.held_out is None else list(data.held_out),
            "train_boxes": data.train_split.digest,
            "eval_boxes": data.eval_split.digest,
        }

    def build(self) -> nn.Module:
        """Build the detector, in training mode, for the classes of the data."""
        config = self.config
        of_data = replace(config.model, num_classes=len(self.data.class_names))
        if self.from_detector:
            model = self.started_from_detector(of_data, str(config.weights))
        elif self.is_new:
            layout, key = config.weights_layout, config.weights_key
            model = build_detector(of_data, weights=config.weights, layout=layout, key=key)
        else:
            model = build_detector(of_data)
        model.class_names = self.data.class_names
        set_fused(model, is_on(config.compute.fused))
        if config.compute.grad_checkpointing:
            model.set_grad_checkpointing()
        self.config = replace(config, model=model.config)
        return model.train()

    def started_from_detector(self, config: DetectorConfig, weights: str) -> Detector:
        """Return a detector with the weights of a whole other one, and note what is kept of it."""
        source = open_detector(weights, "cpu")
        model = from_detector(config, source, weights, self.data.class_names)
        kept = kept_order(cast(Detector, source), self.data.class_names) is not None
        classes = "its classes in the order of the data" if kept else "its last layers at random, for other classes"
        self.notes.append(f"the detector of {weights} is taken whole, {classes}")
        return model

    def objective(self, model: nn.Module) -> nn.Module:
        """Return the detector with the sum of its losses."""
        return DetectionObjective(model, self.config.compute.precision)

    def loss(self, call: Call, images: Any, targets: Any) -> Tensor:
        """Return the loss of a batch."""
        return call(images, targets)

    def evaluate(
        self, kept: nn.Module, batches: Iterable[Batch], accelerator: Accelerator, team: Team
    ) -> dict[str, float]:
        """Evaluate a detector on the images of all processes, and return what metrics.jsonl says of it."""
        share_buffers(kept, accelerator)

        def together() -> Iterator[Batch]:
            yield from batches
            team.agree()  # before the processes wait for what the others have found

        forward = partial(detected, kept, self.config.compute.precision)
        found = evaluate_detector(kept, together(), self.data.eval_split, forward=forward, team=team)
        figures = {part.name: getattr(found, part.name) for part in fields(BoxFigures)}
        return {name: value for name, value in figures.items() if value is not None}

    def start_in_words(self, row: Mapping[str, float]) -> str:
        """Return what the run starts from, for the log."""
        model, weights = self.config.model, self.config.weights
        if self.from_detector:
            return f"starts as {model.name} on {model.trunk}, all of it from {weights}"
        return f"starts as {model.name} on {model.trunk}: the trunk from {weights}, the rest at random"

    def in_words(self, row: Mapping[str, float]) -> str:
        """Return what an evaluation has found, for the log."""
        return f"AP {row['ap']:.2f} %  AP50 {row['ap50']:.2f} %  AP75 {row['ap75']:.2f} %"
