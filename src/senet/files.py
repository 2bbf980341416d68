"""Writing files atomically: each is old or new, never half."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from senet.errors import SenetError

PAGE_MARK = '<meta name="generator" content="senet">'
"""What the head of every page has, by which it is known as one that may be replaced."""
START = 2**16
"""Bytes at the start of a file that tell what it is."""


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` when the block ends without an error."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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
        path.parent.mkdir(parents=True, exist_ok=True)
        reason = "it is a folder" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "permission denied"
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


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user asked for, atomically; create its folder.

    Raises:
        SenetError: it cannot be written.
    """
    check_writable(path)
    try:
        with written_beside(path) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise SenetError(f"{path} cannot be written ({error.strerror}); name another output") from error


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
