"""Copying a shard to this machine: a broken connection goes on where it broke, and what arrives is what was written."""

import errno
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from senet.errors import SenetError
from senet.shards.patterns import shown
from senet.shards.sources import BrokenError, opened, persistently

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk is full, or a quota is used up."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file that is to be copied.

    Args:
        name: its path or address.
        size: in bytes; None if it is not known.
        sha256: of its content, in hexadecimal digits; None if it is not known.
        unpack: how it is stored here: "" as it is, "gzip" unpacked, or "parquet:COLUMN", the images of a column alone.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    unpack: str = ""

    @property
    def key(self) -> str:
        """A name for it in a cache: letters and digits alone, whatever the shard is called."""
        identity = self.sha256 or f"{self.name}\n{self.size}"
        return hashlib.sha256(f"{identity}\n{self.unpack}".encode("utf-8", "surrogateescape")).hexdigest()[:40]


def download(wanted: Wanted, part: Path, room: Callable[[int], bool]) -> None:
    """Copy a file to `part`, of which an earlier try may have left a beginning; its size and SHA-256 are compared.

    Args:
        wanted: the file.
        part: where it goes.
        room: called when the disk is full; frees something and returns whether it did.

    Raises:
        SenetError: the file is not there, the connection stays broken, the content is another one, or the disk is full.
    """
    if wanted.sha256 is None:
        part.write_bytes(b"")  # nothing would tell the beginning of an older version
    for last in (False, True):
        state = CopyState(reached=part.stat().st_size if part.exists() else 0)
        persistently(wanted.name, lambda state=state: continue_copy(wanted, part, state, room))  # type: ignore[misc]
        problem = mismatch(wanted, part)
        if not problem:
            return
        part.unlink(missing_ok=True)
        if last:
            raise SenetError(
                f"{shown(wanted.name)} {problem}; it is damaged or has been replaced: copy it there again, or write "
                "its index again (shards without one are looked through again when a command starts)"
            )


def mismatch(wanted: Wanted, part: Path) -> str:
    """Return how a copy differs from what is wanted, in words; empty if it does not."""
    size = part.stat().st_size
    if wanted.size is not None and size != wanted.size:
        return f"has {size:,} bytes, and {wanted.size:,} according to its index"
    if wanted.sha256 is None:
        return ""
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        "" if digest == wanted.sha256 else f"has the SHA-256 {digest[:12]}..., not {wanted.sha256[:12]}... as written"
    )


@dataclass
class CopyState:
    """What the tries of one copy have in common.

    Args:
        version: of the file, as the server calls it.
        reached: bytes that the furthest try had.
    """

    version: str = ""
    reached: int = 0

    def passes(self, size: int) -> bool:
        """Return whether a try got further than all before: one that begins again each time never ends."""
        before, self.reached = self.reached, max(self.reached, size)
        return size > before


def continue_copy(wanted: Wanted, part: Path, state: CopyState, room: Callable[[int], bool]) -> None:
    """Go on with a copy where it ended.

    Raises:
        BrokenError: the connection broke, with whether it got further than before.
        SenetError: the file is not there, or the disk is full.
    """
    have = part.stat().st_size if part.exists() else 0
    if wanted.size is not None and have >= wanted.size:
        return  # `mismatch` says if it is too much
    came = 0
    try:
        with opened(wanted.name, have, state.version) as (stream, version), part.open("ab", buffering=0) as file:
            state.version = version
            if stream.start != have:
                file.truncate(stream.start)
                have = stream.start
            for chunk in stream.chunks:
                write(file, chunk, room)
                came += len(chunk)
            os.fsync(file.fileno())
    except BrokenError as error:
        if error.args[0] == "the server has fewer bytes":
            part.unlink(missing_ok=True)
        raise BrokenError(error.args[0], state.passes(have + came)) from error
    except HTTPException as error:
        raise BrokenError(str(error) or type(error).__name__, state.passes(have + came)) from error
    expected = wanted.size if stream.size is None else stream.size
    if expected is not None and have + came < expected:
        raise BrokenError(
            f"the connection ended after {have + came:,} of {expected:,} bytes", state.passes(have + came)
        )


def write(file: BinaryIO, chunk: bytes, room: Callable[[int], bool]) -> None:
    """Write to a file without a buffer; where the disk is full, make room and go on."""
    left = memoryview(chunk)
    while left:
        try:
            left = left[os.write(file.fileno(), left) :]
        except OSError as error:
            if error.errno not in FULL or not room(len(left)):
                raise
