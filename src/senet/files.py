"""Writing files atomically: each is old or new, never half."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from senet.errors import SenetError


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


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a last line cut short by a crash is left out."""
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
