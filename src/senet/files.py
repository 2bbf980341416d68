"""Writing files atomically, and so that they survive a power cut: each is old or new, never half.

The system may write a rename to the disk before the content of the file, and a file before its entry in the folder. So
every rename comes after `synchronize` of the file and before that of the folder.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from senet.errors import SenetError, first_line

PAGE_MARK = '<meta name="generator" content="senet">'
"""What the head of every page has, by which it is known as one that may be replaced."""
START = 2**16
"""Bytes at the start of a file that tell what it is."""


NO_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What the system says where it cannot synchronize a folder: its kind has no such thing, or it may not be listed."""


@contextmanager
def written_beside(path: Path, *, synchronized: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` when the block ends without an error.

    Args:
        path: of the file.
        synchronized: whether it survives a power cut, which takes milliseconds; too many for each of many pictures.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unlinked(beside)  # a killed process of the same number may have left it, as a second name of another file
        yield beside
        if synchronized:
            put(beside, path)
        else:
            beside.replace(path)
    finally:
        unlinked(beside)


@contextmanager
def folder_written_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder, which takes the name of one that is not there yet when the block ends without an error."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)  # see `written_beside`
        beside.mkdir()
        yield beside
        synchronize_below(beside)
        beside.rename(path)
        synchronize(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def unlinked(path: Path) -> None:
    """Remove a file if there is one; on a disk that has become read-only it stays."""
    with suppress(OSError):
        path.unlink()


def put(made: Path, path: Path) -> None:
    """Rename a complete file, which replaces the one that was there; both are on the disk afterwards."""
    synchronize(made)
    made.replace(path)
    synchronize(path.parent)


def remove(path: Path) -> None:
    """Remove a file if there is one, also on the disk."""
    if path.exists():
        path.unlink(missing_ok=True)
        synchronize(path.parent)


def synchronize(path: Path) -> None:
    """Write the content of a file, or the entries of a folder, to the disk; Windows has that for files only."""
    if not path.is_dir():
        with path.open("rb+" if os.name == "nt" else "rb") as file:
            os.fsync(file.fileno())
    elif os.name != "nt":
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            if error.errno not in NO_FOLDERS:
                raise


def synchronize_below(folder: Path) -> None:
    """Write all files and folders in a folder to the disk, and its own entries."""
    for path in folder.rglob("*"):
        synchronize(path)
    synchronize(folder)


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in, unless they are there; they are on the disk afterwards."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    synchronize(path.parent)


@contextmanager
def writing_to(path: Path, remedy: str) -> Iterator[None]:
    """Raise a SenetError if what the block writes cannot be written.

    Args:
        path: what is written, for the message.
        remedy: what to do then, after a semicolon.

    Raises:
        SenetError: the disk is full, has become read-only or fails.
    """
    try:
        yield
    except SenetError:  # some of which are an OSError too
        raise
    except OSError as error:
        raise unwritable(path, error, remedy) from error


def unwritable(path: Path, error: OSError, remedy: str) -> SenetError:
    """Return the error for what cannot be written, see `writing_to`."""
    return SenetError(f"{path} cannot be written ({error.strerror or first_line(error)}); {remedy}")


def at_home(path: str | Path) -> Path:
    """Return a path with "~/" at its start as the home folder, which shells replace only where it starts a word."""
    first, *rest = Path(path).parts or (".",)
    return Path.home().joinpath(*rest) if first == "~" else Path(path)


def check_writable(path: Path) -> None:
    """Create an output's folder, and check that the output can be written, before the work for it starts.

    Raises:
        SenetError: the output cannot be written.
    """
    try:
        make_folder(path.parent)
        reason = "it is a folder" if path.is_dir() else ""
        if not reason:  # a folder's permissions do not say all: /proc and some network drives take no file
            with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part"):
                pass
    except (FileExistsError, NotADirectoryError):
        reason = f"{path.parent} is not a folder"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise SenetError(f"{path} cannot be written ({reason}); name another output")


def check_replaced(path: Path, suffix: str, kind: str, is_own: Callable[[bytes], bool]) -> None:
    """Check that an output can be written and replaces nothing but an earlier output of its kind.

    Args:
        path: of the output.
        suffix: of all outputs of its kind.
        kind: in words, such as "a page".
        is_own: whether a file that begins like this is of the kind.

    Raises:
        SenetError: it has another suffix, is a file of something else, or cannot be written.
    """
    if path.suffix.lower() != suffix and not path.is_dir():
        raise SenetError(f"{path} does not end in {suffix}, as {kind} does; name another output")
    check_writable(path)
    try:
        with path.open("rb") as file:
            is_free = is_own(file.read(START))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SenetError(f"{path} cannot be replaced ({error.strerror}); name another output") from error
    if not is_free:
        raise SenetError(f"{path} exists and is not {kind} that senet wrote; name another output, or remove it")


def check_page(path: Path) -> None:
    """Check that a page can be written to a file, see `check_replaced`; before the work for it starts."""
    check_replaced(path, ".html", "a page", lambda start: PAGE_MARK.encode() in start)


def write_output(path: Path, content: bytes, *, synchronized: bool = True) -> None:
    """Write a file that the user asked for, atomically; create its folder.

    Args:
        path: of the file.
        content: of it.
        synchronized: see `written_beside`.

    Raises:
        SenetError: it cannot be written.
    """
    check_writable(path)
    with (
        writing_to(path, "make room, or name another output"),
        written_beside(path, synchronized=synchronized) as beside,
    ):
        beside.write_bytes(content)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    with written_beside(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n")


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return the value of JSON from a file of anyone.

    Args:
        text: the JSON.
        options: of json.loads.

    Raises:
        ValueError: it is none; also for lists inside lists without end, for which json has a RecursionError.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a last line cut short by a crash is left out.

    Raises:
        SenetError: it is no text in UTF-8, or cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise SenetError(f"{path} cannot be read ({error}); it is damaged: restore it") from error
    rows = []
    for line in lines:
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows
