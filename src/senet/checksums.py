"""Checksums beside files: model.safetensors.sha256 for model.safetensors, as `sha256sum -c` reads it.

A file without one is not compared, as those of other libraries and of former versions. So while a file is replaced its
checksum is removed first and written last: a kill in between leaves a whole file without, never one with another's.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from senet.errors import SenetError
from senet.files import remove, synchronize, written_beside

DIGEST = re.compile(r"\b[0-9a-fA-F]{64}\b")


def checksum_of(path: Path) -> Path:
    """Return the file with the checksum of another."""
    return path.with_name(f"{path.name}.sha256")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_with_checksum(path: Path) -> Iterator[Path]:
    """Yield a temporary path as `written_beside` does; the file gets a checksum.

    There is room for both before anything is replaced.
    """
    noted = checksum_of(path)
    with written_beside(noted) as said, written_beside(path) as beside:
        yield beside
        said.write_text(f"{digest_of(beside)}  {path.name}\n")
        synchronize(beside)
        synchronize(said)
        remove(noted)


def copy_with_checksum(source: Path, target: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """Copy a file and its checksum, which is not computed again: it would hide that the file has been damaged since."""
    with written_beside(target) as beside:
        copy(source, beside)
        remove(checksum_of(target))
    if checksum_of(source).exists():
        with written_beside(checksum_of(target)) as beside:
            shutil.copyfile(checksum_of(source), beside)


def noted_digest(path: Path) -> str | None:
    """Return what the checksum of a file says, empty if it is unreadable; None if there is none."""
    try:
        found = DIGEST.search(checksum_of(path).read_text(errors="replace"))
    except OSError:
        return None
    return found[0].lower() if found else ""


def is_whole(path: Path) -> bool:
    """Return whether a file is what was written, as far as a checksum tells."""
    while (noted := noted_digest(path)) is not None and digest_of(path) != noted:
        if noted_digest(path) == noted:
            return False
    return True  # or another process has just written it again


def check_whole(path: Path, remedy: str = "get it again", others: Iterable[Path] = ()) -> None:
    """Raise a SenetError for a file that is not what was written.

    Args:
        path: of the file.
        remedy: what to do.
        others: files that could be taken in its place; one that is whole is offered.
    """
    if is_whole(path):
        return
    for other in others:
        if other.is_file() and is_whole(other):
            remedy = f"take {other.parent}, which is whole"
    raise SenetError(
        f"{path} is damaged, for its SHA-256 is not the one in {checksum_of(path).name}; {remedy}, or remove "
        f"{checksum_of(path)} if you have changed the file yourself"
    )
