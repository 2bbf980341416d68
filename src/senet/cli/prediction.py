"""`senet predict`."""

import csv
import io
import json
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import tyro
from tyro.conf import Positional, UseAppendAction

from senet.cli.parsing import Command
from senet.errors import SenetError
from senet.files import check_writable
from senet.nn.precision import Precision
from senet.terminal import console, printable, say, tracked

if TYPE_CHECKING:
    from senet.evaluation.prediction import Prediction

Format = Literal["table", "csv", "jsonl", "json"]
FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
"""The format of an output file, by its extension."""
STANDARD_INPUT = "-"
WIDTH = 40
"""Of the column of images where they are not known before."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand(Command):
    """Classify images: print the likeliest classes with their probabilities.

    IMAGE is a file; a folder, for all images in it and below it; a pattern in quotes, such as 'photos/**/*.jpg'; or -
    for a list on standard input, one file a line. Results are printed as they come. Images that cannot be read are
    listed at the end, on standard error, and the exit status is then 1.

    Examples:
        senet predict photo.jpg
        senet predict photos --model runs/mine --output found.csv --top 1 --threshold 0.8
        senet predict photos --model runs/seed0 --model runs/seed1 --format jsonl
        find /data -newer last -name '*.png' | senet predict - --model runs/digits --format csv
    """

    images: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """files of images, folders, patterns, or -"""
    list: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """a file that lists more images, one a line"""
    model: Annotated[tuple[str, ...], UseAppendAction, tyro.conf.arg(metavar="RUN_OR_MODEL")] = ()
    """the network, as for `senet evaluate`; repeated for several, whose probabilities are averaged; left out, a small
    one that knows CIFAR-10's classes"""
    top: int = 5
    """classes given for each image"""
    threshold: float | None = None
    """a prediction whose highest probability is lower is marked: as (uncertain) in the table, in the other formats by
    `certain`, which is false; None for no mark"""
    format: Format | None = None
    """how results are written; None for what the extension of --output says, else a table"""
    json: bool = False
    """the same as --format json: one array"""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write the results to a new file, while they come, instead of printing them"""
    batch_size: int = 16
    """crops at once: few, so that results come soon; more are faster on a GPU"""
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

    def run(self) -> None:
        """Predict, and print or write."""
        from senet.evaluation.prediction import predict_each
        from senet.weights.folder import PACKAGED_DEFAULT

        form = self.chosen_format()
        if self.output is not None:
            if self.output.exists():
                raise SenetError(f"{self.output} exists already; name another file by --output, or remove it")
            check_writable(self.output)
        images = self.given()
        number = len(images) if isinstance(images, Sequence) else None
        found = predict_each(
            self.model or (PACKAGED_DEFAULT,),
            images,
            top=self.top,
            batch_size=self.batch_size,
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
            say(f"{self.output} holds the predictions of {count:,} images")
        report(errors, count + len(errors))

    def chosen_format(self) -> Format:
        """Return the format that was asked for.

        Raises:
            SenetError: two were.
        """
        if self.json and self.format not in (None, "json"):
            raise SenetError(f"json=True contradicts format={self.format}; leave one of them out")
        by_name = FORMATS.get(self.output.suffix.lower(), "table") if self.output is not None else "table"
        return "json" if self.json else self.format or by_name

    def given(self) -> "Sequence[str] | Iterable[str]":
        """Return the images that were named; an iterator where they come from standard input.

        Raises:
            SenetError: there are none.
        """
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


def checked_device(name: str | None) -> str | None:
    """Return a device's name.

    Raises:
        SenetError: there is no such device.
    """
    import torch

    if name is None:
        return None
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as PyTorch was built with it or without
        raise SenetError(
            f"device is {name!r}, which is not there; expected cpu, or cuda where there is a GPU"
        ) from error
    return name


class Writer(ABC):
    """Writes predictions as they come: after each, what has been written is whole.

    Args:
        file: where to.
        top: classes for each image.
        marked: whether a threshold says which predictions are certain.
        width: of a column of images, in characters.
    """

    def __init__(self, file: TextIO, top: int, marked: bool, width: int) -> None:
        self.file, self.top, self.marked, self.width = file, top, marked, width
        self.started = False

    @abstractmethod
    def text(self, found: "Prediction") -> str:
        """Return what is written for a prediction."""

    def write(self, found: "Prediction") -> None:
        """Write a prediction."""
        self.file.write(self.text(found))
        self.file.flush()
        self.started = True

    def close(self) -> None:  # noqa: B027  # most formats have no end
        """Write what comes at the end."""

    def values(self, found: "Prediction") -> dict[str, Any]:
        """Return a prediction as plain values."""
        certain = {"certain": found.certain} if self.marked else {}
        return {"image": str(found.image), **certain, "classes": [asdict(likely) for likely in found.classes]}


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
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        pairs = [(likely.class_name, f"{likely.probability:.6g}") for likely in found.classes]
        if not self.started:
            names = [f"_{i + 1}" if i else "" for i in range(len(pairs))]
            headings = [f"{heading}{name}" for name in names for heading in ("class", "probability")]
            lines.writerow(["image", *(["certain"] if self.marked else []), *headings])
        certain = [str(found.certain).lower()] if self.marked else []
        lines.writerow([str(found.image), *certain, *(cell for pair in pairs for cell in pair)])
        return text.getvalue()


class JsonLinesWriter(Writer):
    """A JSON object for each image, on a line of its own."""

    def text(self, found: "Prediction") -> str:
        """Return the line of an image."""
        return json.dumps(self.values(found)) + "\n"


class JsonWriter(Writer):
    """One JSON array; also when it is stopped, it is closed."""

    def text(self, found: "Prediction") -> str:
        """Return the item of an image."""
        return (",\n" if self.started else "[") + json.dumps(self.values(found))

    def close(self) -> None:
        """Close the array."""
        self.file.write("]\n" if self.started else "[]\n")


WRITERS: dict[Format, type[Writer]] = {
    "table": TableWriter,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
    "json": JsonWriter,
}


@contextmanager
def opened(output: Path | None) -> "Iterator[TextIO]":
    """Yield the file to write to, standard output for None.

    Raises:
        SenetError: it cannot be written.
    """
    if output is None:
        yield sys.stdout
        return
    try:
        with output.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
    except OSError as error:
        raise SenetError(f"{output} cannot be written ({error.strerror}); name another file by --output") from error


@contextmanager
def exit_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block by an exception, as Ctrl-C does, so that what was begun is closed."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_all(writer: Writer, predictions: "Iterable[Prediction]") -> "tuple[int, list[SenetError]]":
    """Write predictions as they come; return how many there were, and the errors of the images that cannot be read."""
    count, errors = 0, []
    try:
        for found in predictions:
            if found.error is not None:
                errors.append(found.error)
            else:
                writer.write(found)
                count += 1
    finally:
        writer.close()
    return count, errors


def report(errors: "Sequence[SenetError]", number: int) -> None:
    """List the images that cannot be read.

    Args:
        errors: one for each.
        number: of all images.

    Raises:
        SenetError: the only image cannot be read.
        SystemExit: some cannot.
    """
    if number == 1 and errors:
        raise errors[0]
    if errors:
        reasons = "".join(f"\n  {printable(str(error))}" for error in errors)
        say(f"senet: {len(errors)} of {number} images are left out:{reasons}", console(stderr=True))
        raise SystemExit(1)
