"""Checksums beside files: model.safetensors.sha256 for model.safetensors, as `sha256sum -c` reads it.

A file without one is not compared, as those of other libraries and of former versions. While a file is replaced its
checksum names the old and the new one, so that a kill in between leaves a whole file with a checksum, whichever it is.
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
    with written_beside(checksum_of(path)) as said, written_beside(path) as beside:
        yield beside
        said.write_text(f"{digest_of(beside)}  {path.name}\n")
        synchronize(beside)
        synchronize(said)
        name_both(path, said)


def copy_with_checksum(source: Path, target: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """Copy a file and its checksum, which is not computed again: it would hide that the file has been damaged since."""
    said, noted = checksum_of(source), checksum_of(target)
    with written_beside(target) as beside:
        copy(source, beside)
        if said.exists():
            name_both(target, said)
        else:
            remove(noted)
    if said.exists():
        with written_beside(noted) as beside:
            shutil.copyfile(said, beside)


def name_both(path: Path, said: Path) -> None:
    """Let the checksum of a file that is about to be replaced name the new one too; a file of others keeps none."""
    noted = checksum_of(path)
    if noted.exists() or not path.exists():
        with noted.open("ab") as file:  # what is there stays, whenever this ends
            file.write(said.read_bytes())
        synchronize(noted)


def noted_digests(path: Path) -> set[str] | None:
    """Return the digests that the checksum of a file names, none if it is unreadable; None if there is no checksum."""
    try:
        return {found.lower() for found in DIGEST.findall(checksum_of(path).read_text(errors="replace"))}
    except OSError:
        return None


def is_whole(path: Path) -> bool:
    """Return whether a file is what was written, as far as a checksum tells."""
    while (noted := noted_digests(path)) is not None and digest_of(path) not in noted:
        if noted_digests(path) == noted:
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
