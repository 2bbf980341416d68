"""`senet predict`."""

import glob
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, cast

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction

from senet.cli.names import PREDICTING
from senet.cli.parsing import Command, parse
from senet.cli.writing import (
    FORMATS,
    WIDTH,
    Format,
    JsonLinesWriter,
    JsonWriter,
    Writer,
    check_output,
    checked_device,
    csv_text,
    exit_at_sigterm,
    opened,
    report,
    write_all,
)
from senet.errors import SenetError, counted
from senet.nn.precision import Precision
from senet.terminal import printable, say, tracked

if TYPE_CHECKING:
    from senet.evaluation.prediction import Prediction

STANDARD_INPUT = "-"
CLASSIFYING = ("top", "crop_size", "resize_sizes", "ten_crop", "classes", "mapping")
"""Options that have no effect on a network that detects objects."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand(Command):
    """Classify images, or find objects in them: print the likeliest classes with their probabilities, or the objects.

    What is printed depends on what the network was trained for. IMAGE is a file; a folder, for all images in it and
    below it; a pattern in quotes, such as 'photos/**/*.jpg'; or - for a list on standard input, one file a line. The
    first IMAGE may be a run or model folder, a file of weights, what `senet export` wrote or a name, which is then the
    network.
    Results are printed as they come. Images that cannot be read are listed at the end, on standard error, and the exit
    status is then 1. With a network that detects objects, --output may be a new folder: for the pictures with boxes
    drawn into them, and objects.json.

    Examples:
        senet predict photo.jpg
        senet predict photos --model runs/mine --output found.csv --top 1 --threshold 0.8
        senet predict photos --model runs/seed0 --model runs/seed1 --format jsonl
        senet predict runs/boxes 'photos/*.jpg' --output drawn --threshold 0.7
        torchrun --nproc-per-node 2 -m senet predict photos --model runs/se50 --output found.csv
        find /data -newer last -name '*.png' | senet predict - --model runs/digits --format csv
    """

    images: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """files of images, folders, patterns, or -"""
    list: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """a file that lists more images, one a line"""
    in_processes: ClassVar[Literal["share"]] = "share"
    elsewhere: ClassVar[Mapping[str, str]] = PREDICTING
    model: Annotated[tuple[str, ...], UseAppendAction, tyro.conf.arg(metavar="RUN_OR_MODEL")] = ()
    """the network, as for `senet evaluate`; repeated for several, whose probabilities are averaged; left out, a small
    one that knows CIFAR-10's classes"""
    top: int = 5
    """classes given for each image"""
    threshold: float | None = None
    """a prediction whose highest probability is lower is marked: as (uncertain) in the table, in the other formats by
    `certain`, which is false; None for no mark. Objects of a lower score are left out; None for 0.5"""
    format: Format | None = None
    """how results are written; None for what the extension of --output says, else a table"""
    json: bool = False
    """the same as --format json: one array"""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write the results to a new file instead of printing them, while they come to FILE.part, which is renamed at the
    end; or draw boxes into a new folder"""
    batch_size: int | None = None
    """crops at once: few, so that results come soon; more are faster on a GPU; None for 16, or, where objects are
    detected, 4 photos"""
    num_workers: int | None = None
    """threads that read images ahead; None for one per core, up to 8; 0 reads each batch when it is its turn"""
    crop_size: int | None = None
    """side of the crops in pixels; None for the network's own"""
    resize_sizes: tuple[int, ...] | None = None
    """lengths the shorter side is resized to; several are averaged; None keeps the network's ratio to the crop"""
    ten_crop: bool = False
    """average ten crops: corners and center, each mirrored too"""
    classes: tuple[str, ...] = ()
    """predict among these alone, as they are called after the mapping; none for all"""
    mapping: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """JSON or CSV: class of the network -> other class; several to one add up"""
    precision: Precision = "fp32"
    """of the arithmetic; auto is bf16 where the hardware computes it; tf32 and fp16 need a GPU"""
    device: str | None = None
    """where to compute, such as cpu or cuda:1; None for a GPU if there is one"""

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Read the arguments; for a network that detects, `--help` explains what has an effect on it."""
        from senet.cli.detection import named_detector

        if {"-h", "--help"} & set(argv) and named_detector(argv):
            return cast(Self, parse(DetectCommand, argv, prog))
        return cast(Self, super().read(argv, prog))

    def run(self) -> None:
        """Predict, and print or write."""
        from senet.detection.opening import detects

        named = self.with_model()
        if any(map(detects, named.model)):
            named.detect()
        else:
            named.classify()

    def with_model(self) -> "PredictCommand":
        """Return the command with its first image as the model, if that is a network and none is named.

        Raises:
            SenetError: it is neither a picture nor a network, so that a network that nobody named would see the rest.
        """
        from senet.weights.exported import exported_file
        from senet.weights.hub import FILES
        from senet.weights.reading import alike, find_model_folder
        from senet.weights.words import is_image, is_known_name

        others = self.images[1:]
        if not self.model and self.images and exported_file(self.images[0]) is not None:
            return replace(self, model=self.images[:1], images=others)
        if self.model or not (others or (self.images and self.list)):
            return self
        first = Path(self.images[0])
        if not (is_known_name(self.images[0]) and not first.exists()) and not (
            first.is_file() and first.suffix in FILES
        ):
            try:
                find_model_folder(first)
            except SenetError as error:
                if first.exists() or is_image(first) or glob.has_magic(str(first)) or str(first) == STANDARD_INPUT:
                    return self
                raise SenetError(
                    f"there is no picture or network {first}{alike(first)}; check the path, or name a network of the "
                    "hub by --model OWNER/NAME"
                ) from error
        return replace(self, model=self.images[:1], images=others)

    def classify(self) -> None:
        """Print or write classes."""
        from senet.evaluation.prediction import predict_each
        from senet.weights.folder import PACKAGED_DEFAULT

        form = self.chosen_format()
        check_output(self.output)
        images = self.given()
        number = len(images) if isinstance(images, Sequence) else None
        found = predict_each(
            self.model or (PACKAGED_DEFAULT,),
            images,
            top=self.top,
            batch_size=16 if self.batch_size is None else self.batch_size,
            on_error="keep",
            threshold=self.threshold,
            crop_size=self.crop_size,
            resize_sizes=self.resize_sizes,
            ten_crop=self.ten_crop,
            precision=self.precision,
            device=checked_device(self.device),
            num_workers=self.num_workers,
            classes=self.classes,
            mapping=self.mapping,
        )
        if self.output is not None or not sys.stdout.isatty():  # a bar among printed lines would be torn
            found = tracked(found, "Predicting", number)
        width = max(len(printable(image)) for image in images) if isinstance(images, Sequence) else WIDTH
        with exit_at_sigterm(), opened(self.output) as file:
            writer = WRITERS[form](file, self.top, self.threshold is not None, width)
            count, errors = write_all(writer, found)
        if self.output is not None and count:
            say(f"{self.output} holds the predictions of {counted(count, 'image')}")
        report(errors, count + len(errors))

    def detect(self) -> None:
        """Print or write objects, or draw their boxes.

        Raises:
            SenetError: several networks, or an option that has no effect on one that detects.
        """
        from senet.cli.boxes import predict_objects

        if len(self.model) > 1:
            raise SenetError(
                f"model names {len(self.model)} networks, of which at least one detects objects; name that one alone"
            )
        for each in fields(self):
            if each.name in CLASSIFYING and getattr(self, each.name) != each.default:
                raise SenetError(f"{each.name} has no effect on {self.model[0]}, which detects objects; leave it out")
        predict_objects(
            self.model[0],
            self.given(),
            output=self.output,
            form=self.chosen_format(),
            threshold=self.threshold,
            batch_size=self.batch_size,
            precision=self.precision,
            device=checked_device(self.device),
            num_workers=self.num_workers,
        )

    def chosen_format(self) -> Format:
        """Return the format that was asked for.

        Raises:
            SenetError: two were, or the extension of the output says none.
        """
        suffix = "" if self.output is None else self.output.suffix.lower()
        if suffix not in ("", ".txt", *FORMATS) and not (self.json or self.format):
            known = ", ".join(FORMATS)
            raise SenetError(
                f"{self.output} ends in {suffix}, which says no format; expected {known}, or .txt for a table, or name "
                "the format by --format"
            )
        if self.json and self.format not in (None, "json"):
            raise SenetError(f"json=True contradicts format={self.format}; leave one of them out")
        by_name = FORMATS.get(self.output.suffix.lower(), "table") if self.output is not None else "table"
        return "json" if self.json else self.format or by_name

    def given(self) -> "Sequence[str] | Iterable[str]":
        """Return the images that were named; an iterator where they come from standard input to one process.

        Raises:
            SenetError: there are none.
        """
        from senet.processes import current_team

        team = current_team()  # of which the first alone reads standard input, or sees a folder that changes
        return self.looked_up() if team.size == 1 else team.from_first(lambda: list(self.looked_up()))

    def looked_up(self) -> "Sequence[str] | Iterable[str]":
        """Return the images that were named, see `given`."""
        from senet.evaluation.sources import find_images, listed_images, read_list

        if STANDARD_INPUT in self.images or self.list == Path(STANDARD_INPUT):
            if len(self.images) + (self.list is not None) > 1:
                raise SenetError("- is a list on standard input, which takes no other images beside it; name it alone")
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")  # names of files need not be text
            return listed_images(sys.stdin)
        found = [image for source in self.images for image in find_images(source)]
        found += [] if self.list is None else read_list(self.list)
        if not found:
            raise SenetError("no image is given; `senet predict --help` explains all arguments")
        return found


@dataclass(frozen=True, kw_only=True)
class DetectCommand(PredictCommand):
    """Find objects in images, and print or write them, or draw their boxes.

    IMAGE is a file; a folder, for all images in it and below it; a pattern in quotes, such as 'photos/**/*.jpg'; or -
    for a list on standard input, one file a line. Results are printed as they come. Images that cannot be read are
    listed at the end, on standard error, and the exit status is then 1.

    Examples:
        senet predict runs/boxes photo.jpg
        senet predict runs/boxes 'photos/*.jpg' --output drawn --threshold 0.7
        senet predict photos --model runs/boxes --output found.csv
    """

    model: Annotated[tuple[str, ...], UseAppendAction, tyro.conf.arg(metavar="RUN_OR_MODEL")] = ()
    """the network, if it does not come first"""
    threshold: float | None = None
    """objects of a lower score are left out; None for 0.5"""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE_OR_FOLDER")] = None
    """write the results to a new file, while they come to FILE.part, which is renamed at the end; or, into a new
    folder, the pictures with boxes drawn and objects.json"""
    batch_size: int | None = None
    """images at once, of which those of one size are run together; None for 4"""
    top: Annotated[int, Suppress] = 5
    crop_size: Annotated[int | None, Suppress] = None
    resize_sizes: Annotated[tuple[int, ...] | None, Suppress] = None
    ten_crop: Annotated[bool, Suppress] = False
    classes: Annotated[tuple[str, ...], Suppress] = ()
    mapping: Annotated[Path | None, Suppress] = None


class TableWriter(Writer):
    """Rows of a table, the likeliest class beside the image."""

    def text(self, found: "Prediction") -> str:
        """Return the rows of an image."""
        rows = [] if self.started else [f"{'image':<{self.width}}  probability  class"]
        for i, likely in enumerate(found.classes):
            image = "" if i else printable(str(found.image))
            uncertain = "" if i or found.certain else "  (uncertain)"
            probability = f"{100 * likely.probability:>9.2f} %"
            rows.append(f"{image:<{self.width}}  {probability}  {printable(likely.class_name)}{uncertain}")
        return "".join(f"{row}\n" for row in rows)


class CsvWriter(Writer):
    """A line for each image: image, certain (with a threshold), class, probability, class_2, probability_2, ..."""

    def text(self, found: "Prediction") -> str:
        """Return the line of an image, after the headings if it is the first."""
        rows = []
        pairs = [(likely.class_name, f"{likely.probability:.6g}") for likely in found.classes]
        if not self.started:
            names = [f"_{i + 1}" if i else "" for i in range(len(pairs))]
            headings = [f"{heading}{name}" for name in names for heading in ("class", "probability")]
            rows.append(["image", *(["certain"] if self.marked else []), *headings])
        certain = [str(found.certain).lower()] if self.marked else []
        rows.append([str(found.image), *certain, *(cell for pair in pairs for cell in pair)])
        return csv_text(rows)


WRITERS: dict[Format, type[Writer]] = {
    "table": TableWriter,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "json": JsonWriter,
}
