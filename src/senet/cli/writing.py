"""Writing predictions as they come: formats, output files, and the images that cannot be read."""

import csv
import io
import json
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TextIO

from senet.errors import SenetError
from senet.files import check_writable, put, remove, writing_to
from senet.launch import is_first
from senet.locks import held
from senet.terminal import console, printable, say

Format = Literal["table", "csv", "jsonl", "json"]
FORMATS: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json"}
"""The format of an output file, by its extension."""
WIDTH = 40
"""Of the column of images where they are not known before."""


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


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
    def text(self, found: Any) -> str:
        """Return what is written for a prediction."""

    def write(self, found: Any) -> None:
        """Write a prediction."""
        self.file.write(self.text(found))
        self.file.flush()
        self.started = True

    def close(self) -> None:  # noqa: B027  # most formats have no end
        """Write what comes at the end."""

    def values(self, found: Any) -> dict[str, Any]:
        """Return a prediction as plain values."""
        certain = {"certain": found.certain} if self.marked else {}
        return {"image": str(found.image), **certain, "classes": [asdict(likely) for likely in found.classes]}


class JsonLinesWriter(Writer):
    """A JSON object for each image, on a line of its own."""

    def text(self, found: Any) -> str:
        """Return the line of an image."""
        return json.dumps(self.values(found)) + "\n"


class JsonWriter(Writer):
    """One JSON array; also when it is stopped, it is closed."""

    def text(self, found: Any) -> str:
        """Return the item of an image."""
        return (",\n" if self.started else "[") + json.dumps(self.values(found))

    def close(self) -> None:
        """Close the array."""
        self.file.write("]\n" if self.started else "[]\n")


def check_output(output: Path | None) -> None:
    """Make the folder of an output, None for standard output; raise a SenetError if it exists already."""
    if output is None or not is_first():
        return
    if output.exists():
        raise SenetError(f"{output} exists already; name another file by --output, or remove it")
    check_writable(output)


def part_of(output: Path) -> Path:
    """Return the file that holds the results of an output until the command ends."""
    return output.with_name(f"{output.name}.part")


@contextmanager
def opened(output: Path | None) -> Iterator[TextIO]:
    """Yield the file to write to, standard output for None; and for all processes but the first, which get nothing.

    It is OUTPUT.part, which becomes OUTPUT when the block ends, also by a signal or because an image cannot be read. So
    a process that is killed, or a disk that fills up, leaves no OUTPUT that lacks results without saying so.

    Raises:
        SenetError: it cannot be written, exists by now, or another process writes it.
    """
    if output is None or not is_first():
        yield sys.stdout
        return
    part, refusal = part_of(output), f"another process writes {output}; wait until it ends, or name another --output"
    with (
        writing_to(
            output, f"make room, or name another file by --output; {part.name} may hold what was done until then"
        ),
        held(output.with_name(f".{output.name}.lock"), refusal),
    ):
        check_output(output)
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            try:
                yield file
            except BaseException as error:
                if isinstance(error, SenetError) or not isinstance(error, OSError):
                    file.close()
                    take_over(part, output)
                raise
        take_over(part, output)


def take_over(part: Path, output: Path) -> None:
    """Let results become the output; remove them if there are none."""
    if part.stat().st_size:
        put(part, output)
    else:
        remove(part)


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


def write_all(writer: Writer, predictions: Iterable[Any]) -> tuple[int, list[SenetError]]:
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


def report(errors: Sequence[SenetError], number: int) -> None:
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
