"""`senet predict` and `senet evaluate` for networks that detect objects."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro
from tyro.conf import Positional

from senet.cli.names import EVALUATING, check_options
from senet.cli.parsing import Command, check_new, parse
from senet.cli.writing import (
    FORMATS,
    WIDTH,
    Format,
    JsonLinesWriter,
    JsonWriter,
    Writer,
    check_output,
    checked_device,
    exit_at_sigterm,
    opened,
    part_of,
    report,
    write_all,
)
from senet.detection.data_config import BoxAugmentation, DetectionDataConfig
from senet.detection.opening import detects
from senet.detection.prediction import AT_ONCE, THRESHOLD, Detection, detect_each
from senet.errors import SenetError, counted
from senet.files import check_page, check_writable, write_output
from senet.launch import is_first
from senet.nn.precision import Precision
from senet.terminal import Table, console, printable, say, tracked

QUALITY = 92
"""Of the JPEG files that boxes are drawn into."""


def predict_objects(
    model: str,
    images: Sequence[str] | Iterable[str],
    *,
    output: Path | None,
    form: Format,
    threshold: float | None,
    batch_size: int | None,
    precision: Precision,
    device: str | None,
    num_workers: int | None,
) -> None:
    """Find objects, and print or write them, or draw their boxes into a folder of pictures.

    Args:
        model: the detector.
        images: files.
        output: a new file; or a new folder, see `draws`; None to print.
        form: of the results.
        threshold: the lowest score; None for the usual one.
        batch_size: see `senet.detect`, as are the others; None for its default.
        precision: of the arithmetic.
        device: where to compute.
        num_workers: threads.

    Raises:
        SenetError: the output exists, or the network cannot be opened.
    """
    listed = images if isinstance(images, Sequence) else None
    folder = output if output is not None and draws(output) else None
    form = "json" if folder is not None and form == "table" else form
    file = output if folder is None else folder / f"objects.{form}"
    make_output(file, folder)
    found: Iterable[Detection] = detect_each(
        model,
        images,
        threshold=THRESHOLD if threshold is None else threshold,
        batch_size=AT_ONCE if batch_size is None else batch_size,
        on_error="keep",
        precision=precision,
        device=device,
        num_workers=num_workers,
        finish=without_picture if folder is None else with_file,
    )
    if file is not None or not sys.stdout.isatty():
        found = tracked(found, "Detecting", None if listed is None else len(listed))
    if folder is not None:
        found = drawn_into(folder, found)
    width = WIDTH if listed is None else max(len(printable(image)) for image in listed)
    with exit_at_sigterm(), opened(file) as stream:
        writer = WRITERS[form](stream, 0, False, width)
        number, errors = write_all(writer, counting(found, counts := [0]))
    if file is not None and number:
        objects = f"{counted(counts[0], 'object')} in {counted(number, 'image')}"
        place = f"{file} holds" if folder is None else f"{folder} holds pictures with boxes, and {file}"
        say(f"{place} {objects}")
    report(errors, number + len(errors))


def make_output(file: Path | None, folder: Path | None) -> None:
    """Make the folder of the output; raise a SenetError for a file or folder that exists already.

    A folder that a killed command has left is taken: the file with its objects still has another name.
    """
    if file is None or folder is None:
        check_output(file)
    elif is_first():
        part = part_of(file)
        if file.exists() or not part.exists():
            check_new(folder)
            folder.mkdir()
        part.touch()


def without_picture(found: Detection) -> Detection:
    """Return what is found without the picture, which is large."""
    return replace(found, picture=None)


def with_file(found: Detection) -> Detection:
    """Return what is found with the file of the picture with boxes in place of the picture."""
    return found if found.error is not None else replace(found, picture=None, encoded=encoded(found))


def draws(output: Path) -> bool:
    """Return whether an output is a folder for pictures rather than a file: it has no extension of a file."""
    return output.is_dir() or (output.suffix.lower() not in FORMATS and output.suffix != ".txt")


def counting(found: Iterable[Detection], counts: list[int]) -> Iterator[Any]:
    """Yield what is found, and add up the objects."""
    for each in found:
        counts[0] += len(each.objects)
        yield each


def drawn_into(folder: Path, found: Iterable[Detection]) -> Iterator[Detection]:
    """Yield what is found, each after its picture with boxes is written to a folder, and with the name of that."""
    taken: set[str] = set()
    for each in found:
        if each.error is not None:
            yield each
            continue
        file = folder / free_name(str(each.image), taken)
        assert each.encoded is not None
        write_output(file, each.encoded, synchronized=False)
        yield replace(each, encoded=None, drawn_to=file)


def free_name(image: str, taken: set[str]) -> str:
    """Return the name of a drawn picture, that of its file; with a number where another picture has it."""
    path = Path(image)
    ending = ".png" if path.suffix.lower() == ".png" else ".jpg"
    name, number = f"{path.stem}{ending}", 1
    while name.lower() in taken:
        number += 1
        name = f"{path.stem}-{number}{ending}"
    taken.add(name.lower())
    return name


def encoded(found: Detection) -> bytes:
    """Return a picture with its boxes as a PNG file if it was one, else as a JPEG."""
    file = io.BytesIO()
    is_png = str(found.image).lower().endswith(".png")
    found.drawn().save(file, "png" if is_png else "jpeg", quality=QUALITY)
    return file.getvalue()


# ---- formats ---------------------------------------------------------------------------------------------------------


def plain(found: Any) -> dict[str, Any]:
    """Return what is found in an image as plain values, boxes to a hundredth of a pixel."""
    drawn = {} if found.drawn_to is None else {"drawn": found.drawn_to.name}
    return {
        "image": str(found.image),
        **drawn,
        "width": found.width,
        "height": found.height,
        "objects": [
            {"class_name": each.class_name, "score": round(each.score, 6), "box": [round(v, 2) for v in each.box]}
            for each in found.objects
        ],
    }


class ObjectJsonWriter(JsonWriter):
    """One JSON array: an object for each image."""

    def values(self, found: Any) -> dict[str, Any]:
        """Return what is found in an image as plain values."""
        return plain(found)


class ObjectJsonLinesWriter(JsonLinesWriter):
    """A JSON object for each image, on a line of its own."""

    def values(self, found: Any) -> dict[str, Any]:
        """Return what is found in an image as plain values."""
        return plain(found)


class ObjectTableWriter(Writer):
    """A row for each object, highest score first; one for an image without objects."""

    def text(self, found: Any) -> str:
        """Return the rows of an image."""
        rows = [] if self.started else [f"{'image':<{self.width}}  score  box: x1, y1, x2, y2{'':<11}  class"]
        for i, each in enumerate(found.objects):
            image = "" if i else printable(str(found.image))
            box = ", ".join(f"{value:.1f}" for value in each.box)
            rows.append(f"{image:<{self.width}}  {each.score:>5.2f}  {box:<30}  {printable(each.class_name)}")
        if not found.objects:
            rows.append(f"{printable(str(found.image)):<{self.width}}         {'':<30}  (no objects)")
        return "".join(f"{row}\n" for row in rows)


class ObjectCsvWriter(Writer):
    """A line for each object: image, class, score, x1, y1, x2, y2; an image without objects has one of empty cells."""

    def text(self, found: Any) -> str:
        """Return the lines of an image, after the headings if it is the first."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if not self.started:
            lines.writerow(["image", "class", "score", "x1", "y1", "x2", "y2"])
        for each in found.objects:
            box = [f"{value:.2f}" for value in each.box]
            lines.writerow([str(found.image), each.class_name, f"{each.score:.6g}", *box])
        if not found.objects:
            lines.writerow([str(found.image), *[""] * 6])
        return text.getvalue()


WRITERS: dict[Format, type[Writer]] = {
    "table": ObjectTableWriter,
    "csv": ObjectCsvWriter,
    "jsonl": ObjectJsonLinesWriter,
    "json": ObjectJsonWriter,
}


# ---- senet evaluate --------------------------------------------------------------------------------------------------


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
        check_options(cls, argv, EVALUATING)
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
