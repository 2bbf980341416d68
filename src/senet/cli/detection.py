"""`senet predict` and `senet evaluate` for networks that detect objects."""

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from senet.cli.parsing import check_new
from senet.cli.writing import (
    FORMATS,
    WIDTH,
    Format,
    JsonLinesWriter,
    JsonWriter,
    Writer,
    exit_at_sigterm,
    opened,
    report,
    write_all,
)
from senet.detection.prediction import THRESHOLD, Detection, detect_each
from senet.errors import SenetError, counted
from senet.files import check_writable, write_output
from senet.nn.precision import Precision
from senet.terminal import printable, say, tracked

QUALITY = 92
"""Of the JPEG files that boxes are drawn into."""


def predict_objects(
    model: str,
    images: Sequence[str] | Iterable[str],
    *,
    output: Path | None,
    form: Format,
    threshold: float | None,
    batch_size: int,
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
        batch_size: see `senet.detection.prediction.detect`, as are the others.
        precision: of the arithmetic.
        device: where to compute.
        num_workers: threads.

    Raises:
        SenetError: the output exists, or the network cannot be opened.
    """
    listed = images if isinstance(images, Sequence) else None
    found: Iterable[Detection] = detect_each(
        model,
        images,
        threshold=THRESHOLD if threshold is None else threshold,
        batch_size=batch_size,
        on_error="keep",
        precision=precision,
        device=device,
        num_workers=num_workers,
    )
    folder = output if output is not None and draws(output) else None
    form = "json" if folder is not None and form == "table" else form
    file = output if folder is None else folder / f"objects.{form}"
    check_output(file, folder)
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


def check_output(file: Path | None, folder: Path | None) -> None:
    """Make the folder of the output; raise a SenetError for a file or folder that exists already."""
    if folder is not None:
        check_new(folder)
        folder.mkdir()
    elif file is not None:
        if file.exists():
            raise SenetError(f"{file} exists already; name another file by --output, or remove it")
        check_writable(file)


def draws(output: Path) -> bool:
    """Return whether an output is a folder for pictures rather than a file: it has no extension of a file."""
    return output.is_dir() or (output.suffix.lower() not in FORMATS and output.suffix != ".txt")


def counting(found: Iterable[Detection], counts: list[int]) -> Iterator[Any]:
    """Yield what is found, and add up the objects."""
    for each in found:
        counts[0] += len(each.objects)
        yield each


def drawn_into(folder: Path, found: Iterable[Detection]) -> Iterator[Detection]:
    """Yield what is found, each after its picture with boxes is written to a folder."""
    taken: set[str] = set()
    for each in found:
        if each.error is None:
            write_output(folder / free_name(str(each.image), taken), encoded(each))
        yield each


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
    return {
        "image": str(found.image),
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
