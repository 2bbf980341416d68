"""Writing an export of several files: all are there at the end, or nothing is, also after a kill.

They are written in a hidden folder beside the output. When all are complete, the folder is renamed and they move to
their places; after a kill, what the folder is called tells the next export whether there is something to take back.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from senet.errors import SenetError
from senet.files import put, remove, synchronize, synchronize_below, writing_to
from senet.locks import held


@contextmanager
def written_whole(output: Path) -> Iterator[Path]:
    """Yield a new folder beside an output; what it holds at the end moves to where the output is.

    The file that others belong to comes last, so that it is never without them.

    Args:
        output: of which the folder is to hold a file or folder of the same name.

    Raises:
        SenetError: there is no room for it, something of its name has come to exist meanwhile, or another process
            writes it.
    """
    writing, moving = beside(output, "part"), beside(output, "moving")
    try:
        with writing_to(output, "make room, or name another output"), alone(output):
            try:
                shutil.rmtree(writing, ignore_errors=True)  # of a process that was killed
                writing.mkdir()
                yield writing
                move(writing, moving, output)
            finally:
                shutil.rmtree(writing, ignore_errors=True)
                shutil.rmtree(moving, ignore_errors=True)
    except SenetError as error:  # some of which are OSErrors too
        error.args = (as_named(str(error), writing, output),)
        raise


def move(writing: Path, moving: Path, output: Path) -> None:
    """Move what is complete to where the output is.

    Raises:
        SenetError: something of its name has come to exist.
        OSError: it cannot be moved.
    """
    parts = sorted(writing.iterdir(), key=lambda part: part.name == output.name)
    for part in parts:
        if (output.parent / part.name).exists():
            raise SenetError(f"{output.parent / part.name} came to exist during the export; name another output")
    synchronize_below(writing)
    writing.rename(moving)
    synchronize(output.parent)
    try:
        for part in parts:
            put(moving / part.name, output.parent / part.name)
    except BaseException:
        take_back(moving, [output.parent / part.name for part in parts])
        raise


def take_back(moving: Path, places: Iterable[Path]) -> None:
    """Remove what has moved to some places, which were free before."""
    for place in places:
        if not (moving / place.name).exists():
            remove(place)


def remove_unfinished(output: Path, companions: Iterable[Path]) -> None:
    """Remove what an export that was killed has left.

    Args:
        output: of it.
        companions: the other files that it may have moved to their places.

    Raises:
        SenetError: another process writes the output, or nothing can be removed.
    """
    writing, moving, lock = (beside(output, ending) for ending in ("part", "moving", "lock"))
    if not any(path.exists() for path in (writing, moving, lock)):
        return
    with writing_to(output, "name another output"), alone(output):
        if (moving / output.name).exists():  # which moves last, and nothing of these was there before
            take_back(moving, companions)
        shutil.rmtree(moving, ignore_errors=True)
        shutil.rmtree(writing, ignore_errors=True)


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Refuse a second process that writes the same output."""
    with held(beside(output, "lock"), f"another process writes {output}; wait for it, or name another output"):
        yield


def beside(output: Path, ending: str) -> Path:
    """Return a hidden path beside an output."""
    return output.with_name(f".{output.name}.{ending}")


def as_named(sentence: str, folder: Path, output: Path) -> str:
    """Return a message with the files of a temporary folder called as they will be beside an output."""
    beside = "" if output.parent == Path() else f"{output.parent}{os.sep}"
    return sentence.replace(f"{folder}{os.sep}", beside)
