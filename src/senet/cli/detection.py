"""`senet evaluate` for networks that detect objects."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro
from tyro.conf import Positional

from senet.cli.names import EVALUATING
from senet.cli.parsing import Command, parse
from senet.cli.writing import checked_device
from senet.detection.data_config import BoxAugmentation, DetectionDataConfig
from senet.detection.opening import detects
from senet.detection.prediction import AT_ONCE
from senet.errors import SenetError, counted
from senet.files import check_page, check_writable, write_output
from senet.launch import is_first
from senet.nn.precision import Precision
from senet.terminal import Table, console, say


@dataclass(frozen=True, kw_only=True)
class EvaluationData(DetectionDataConfig):
    """The settings of the data, of which those that are about training are no options."""

    augmentation: Annotated[BoxAugmentation, tyro.conf.Suppress] = field(default_factory=BoxAugmentation)
    in_memory: Annotated[bool, tyro.conf.Suppress] = False
    group_by_shape: Annotated[bool, tyro.conf.Suppress] = True

    @classmethod
    def of(cls, data: DetectionDataConfig) -> Self:
        """Return the same settings."""
        return cls(**{each.name: getattr(data, each.name) for each in fields(data)})


@dataclass(frozen=True, kw_only=True)
class EvaluateDetectorCommand(Command):
    """Measure how well a network finds objects: COCO's average precision and recall.

    RUN_OR_MODEL is a run folder, a model folder or a hub id of a network that detects. The data are those of the run,
    unless you name others.

    Examples:
        senet evaluate runs/boxes
        senet evaluate runs/boxes --report page.html
        senet evaluate runs/boxes --data photos --data.val test.json --detections found.json
    """

    in_processes: ClassVar[Literal["share"]] = "share"
    elsewhere: ClassVar[Mapping[str, str]] = EVALUATING
    model: Annotated[Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """the network"""
    data: EvaluationData = field(default_factory=EvaluationData)
    """the data; a run's own settings are the defaults"""
    batch_size: int = AT_ONCE
    """images at once; only those of one size are run together"""
    threshold: float | None = None
    """the lowest score that counts in what is said of single boxes; None for the one with the highest F1"""
    report: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write a page: curves of precision and recall, class by class, pictures with boxes, gates"""
    detections: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write everything that is found to a new file, in the form of COCO's results"""
    precision: Precision = "fp32"
    """of the arithmetic; auto is bf16 where the hardware computes it; tf32 and fp16 need a GPU"""
    device: str | None = None
    """where to compute, such as cpu or cuda:1; None for a GPU if there is one"""
    json: bool = False
    """print JSON with all figures instead of tables"""

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Read the arguments; data settings that are left out are those of the run.

        The share of the training images that a run has held out is not that of other data.

        Raises:
            SenetError: no data are named for a network that is not a run, several networks are, or a setting of the
                data has no effect.
        """
        from senet.detection.report import run_detection_data

        networks = [word for word in argv if Path(word).is_dir() and detects(word)]
        if len(networks) > 1:
            raise SenetError(
                f"{networks[1]} comes after {networks[0]}, but networks that detect are evaluated one by one; name "
                "one, and compare runs by `senet runs`"
            )
        command = parse(cls, [word for word in argv if word not in ("-h", "--help")], prog)
        trained_on, default = run_detection_data(command.model), EvaluationData()
        if trained_on is not None:
            default = EvaluationData.of(trained_on)
            if command.data.dataset not in ("", default.dataset):
                default = replace(default, val_fraction=None, split_seed=0)
        command = parse(cls, argv, prog, default=replace(command, data=default))
        if not command.data.dataset:
            raise SenetError("data is missing: name a folder of images with boxes by --data")
        if command.data.val_fraction is None and command.data.train != default.train:
            raise SenetError("data.train has no effect without data.val_fraction, for nothing is trained; leave it out")
        return command

    def run(self) -> None:
        """Evaluate, print and write."""
        from senet.detection.report import report_detector

        if self.report is not None:
            from senet.analysis.detection_page import write_detection_page
        if is_first():
            self.check_outputs()
        found = report_detector(
            self.model,
            self.data,
            batch_size=self.batch_size,
            threshold=self.threshold,
            precision=self.precision,
            device=checked_device(self.device),
        )
        if not is_first():
            return
        if self.detections is not None:
            write_output(self.detections, json.dumps(found.detections).encode())
        page = None if self.report is None else write_detection_page(found, self.report)
        if self.json:
            print(json.dumps(found.to_dict(), allow_nan=False))
            return
        say(sentence(found))
        console().print(class_table(found))
        if self.detections is not None:
            say(f"{self.detections} holds {counted(len(found.detections), 'detection')}")
        if page is not None:
            say(f"{page} is the report; open it in a browser")

    def check_outputs(self) -> None:
        """Raise a SenetError for an output that cannot be written, or may not be replaced."""
        if self.report is not None:
            check_page(self.report)
        if self.detections is not None:
            if self.detections.exists():
                raise SenetError(f"{self.detections} exists already; name another file by --detections, or remove it")
            check_writable(self.detections)


def named_detector(argv: Sequence[str]) -> bool:
    """Return whether the network that `senet evaluate` is given detects: the first word, or a folder among others."""
    return any(detects(word) for word in argv if Path(word).is_dir()) or any(
        detects(word) for word in argv[:1] if not word.startswith("-")
    )


def sentence(found: Any) -> str:
    """Return COCO's figures, and what holds from the threshold on."""
    of, at = found.evaluation, found.overall
    sizes = ", ".join(
        f"{size} {'none' if value is None else f'{value:.1f} %'}"
        for size, value in (("small", of.ap_small), ("medium", of.ap_medium), ("large", of.ap_large))
    )
    precision = "no detections" if at.precision is None else f"precision {at.precision:.1f} %"
    return (
        f"AP {of.ap:.1f} %, AP50 {of.ap50:.1f} %, AP75 {of.ap75:.1f} % ({sizes}), AR {of.ar100:.1f} % "
        f"on {counted(of.num_objects, 'object')} in {counted(of.num_images, 'image')} of {found.source}; "
        f"from a score of {at.threshold:.2f} on {precision}, recall {at.recall:.1f} %"
    )


def class_table(found: Any) -> Table:
    """Return the classes as rows of a table."""
    table = Table("class")
    headings = ("objects", "detections", "AP, %", "AP50, %", "AP75, %", "AR, %", "precision, %", "recall, %")
    for heading in headings:
        table.add_column(heading, justify="right")
    for each in found.evaluation.classes:
        at, of = found.by_class[each.category_id], each.figures
        figures = [None] * 4 if of is None else [of.ap, of.ap50, of.ap75, of.ar100]
        cells = ["" if value is None else f"{value:.1f}" for value in (*figures, at.precision, at.recall)]
        table.add_row(each.class_name, f"{each.num_objects:,}", f"{each.num_detections:,}", *cells)
    return table
