"""`senet predict` for networks that detect objects: boxes as text, or drawn."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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
    check_output,
    csv_text,
    exit_at_sigterm,
    opened,
    part_of,
    report,
    write_all,
)
from senet.detection.prediction import AT_ONCE, THRESHOLD, Detection, detect_each
from senet.errors import counted
from senet.files import write_output
from senet.launch import is_first
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
        rows = [] if self.started else [["image", "class", "score", "x1", "y1", "x2", "y2"]]
        for each in found.objects:
            box = [f"{value:.2f}" for value in each.box]
            rows.append([str(found.image), each.class_name, f"{each.score:.6g}", *box])
        if not found.objects:
            rows.append([str(found.image), *[""] * 6])
        return csv_text(rows)


WRITERS: dict[Format, type[Writer]] = {
    "table": ObjectTableWriter,
    "csv": ObjectCsvWriter,
    "jsonl": ObjectJsonLinesWriter,
    "json": ObjectJsonWriter,
}
