"""Copies of shards on this machine's disk, bounded in size, which several processes and machines may share.

A copy is complete or absent: it is written under another name, compared with its SHA-256, synchronized and renamed. The
copies that were not used for the longest time make room for others; whoever reads one of them goes on reading it.
"""

import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from filelock import FileLock, Timeout

from senet.errors import SenetError
from senet.files import make_folder, put, synchronize
from senet.shards.patterns import shown
from senet.shards.transfer import FULL, Wanted, download
from senet.shards.unpacking import unpack

COMPLETE, PART, LOCK = ".shard", ".part", ".lock"
ABANDONED = 600
"""Seconds without a write after which another machine's unfinished copy counts as abandoned."""
POLL = 0.1
"""Seconds between looks for room that other processes' copies will give back."""
PATIENCE = 900
"""Seconds to wait for such room."""


class Entry(NamedTuple):
    """A file of the cache: when it was last used, the bytes that it takes or will take, and where it is."""

    used: float
    size: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """The copies in a folder.

    Args:
        folder: where they are; it is made where there is none.
        limit: most bytes that they take together.
    """

    folder: Path
    limit: int

    def path_of(self, wanted: Wanted) -> Path:
        """Return where the copy of a file is, or will be."""
        return self.folder / f"{wanted.key}{COMPLETE}"

    def fetch(self, wanted: Wanted) -> Path:
        """Return a complete copy of a file, which is made if there is none.

        Raises:
            SenetError: it cannot be read, is damaged, or the cache cannot be written.
        """
        path = self.path_of(wanted)
        if self.touch(path):
            return path
        try:
            make_folder(self.folder)
            with self.lock(wanted.key):
                if not self.touch(path):
                    self.copy(wanted, path)
        except SenetError:  # some of which are an OSError too
            raise
        except OSError as error:
            self.refuse(error)
        return path

    def renamed(self, path: Path, wanted: Wanted) -> Path:
        """Return the copy of a file of which more is known now than when it was made.

        Raises:
            SenetError: the cache cannot be written.
        """
        try:
            path = path.replace(self.path_of(wanted))
            synchronize(self.folder)
            return path
        except FileNotFoundError:  # another process was faster
            return self.fetch(wanted)
        except OSError as error:
            self.refuse(error)

    def touch(self, path: Path) -> bool:
        """Return whether a copy is there, and note that it is used."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except OSError:  # a folder that cannot be written can be read
            return path.exists()
        return True

    def copy(self, wanted: Wanted, path: Path) -> None:
        """Make a copy, as the only process that does.

        Raises:
            SenetError: see `fetch`.
            OSError: the cache cannot be written.
        """
        copies = 2 if wanted.unpack else 1  # packed and unpacked at the same time
        needed = copies * (wanted.size or 0)
        part = self.folder / f"{wanted.key}.{host()}.{needed}{PART}"
        self.make_room(needed, wanted, part)
        unpacked = self.folder / f"{wanted.key}.{host()}.0{PART}"
        try:
            download(wanted, part, self.drop_oldest)
            made = part
            if wanted.unpack:
                unpack(part, unpacked, wanted, self.limit, self.drop_oldest)
                made = unpacked
            put(made, path)
            part.unlink(missing_ok=True)
        except OSError as error:
            if error.errno in FULL:
                part.unlink(missing_ok=True)
            raise
        finally:
            unpacked.unlink(missing_ok=True)
        self.make_room(0, wanted, path)  # where the size was not known, or unpacking has made it larger

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Let one process at a time make a copy, or room; the system releases the lock where a process is killed."""
        try:
            lock = FileLock(self.folder / f"{key}{LOCK}", thread_local=False)
            lock.acquire(poll_interval=POLL)
        except NotImplementedError:  # a file system without locks: two may make the same copy, each under its own name
            yield
            return
        try:
            yield
        finally:
            lock.release()

    # ---- room --------------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return the complete copies and those in the making, the ones not used for the longest time first."""
        found = []
        for path in self.folder.iterdir():
            with suppress(OSError, ValueError):
                if path.suffix in (COMPLETE, PART):
                    stat = path.stat()
                    reserved = int(path.name.split(".")[-2]) if path.suffix == PART else 0
                    found.append(Entry(stat.st_mtime, max(stat.st_size, reserved), path))
        return sorted(found)

    def make_room(self, needed: int, wanted: Wanted, own: Path) -> None:
        """Remove copies until there is room for another one, which is noted by an empty file.

        Args:
            needed: bytes.
            wanted: the file for which.
            own: what must stay.

        Raises:
            SenetError: the cache is too small for it.
        """
        if needed > self.limit:
            raise SenetError(
                f"{shown(wanted.name)} takes {gigabytes(needed)}, and the cache may hold {gigabytes(self.limit)}; set "
                f"data.shards.cache_gb to more than the {gigabytes(needed)}, such as {max(1, round(4 * needed / 1e9))}"
            )
        end = time.monotonic() + PATIENCE
        while True:
            with self.lock("room"):
                entries = self.entries()
                others = [entry for entry in entries if entry.path != own]
                made = sum(entry.size for entry in entries if entry.path == own)
                total = max(needed, made) + sum(entry.size for entry in others)
                for entry in others:
                    if total > self.limit and self.drop(entry.path):
                        total -= entry.size
                if total <= self.limit or not needed:
                    if own.suffix == PART:
                        own.touch()
                    return
            if time.monotonic() > end:
                raise SenetError(
                    f"{self.folder} is full of unfinished copies of other processes; set data.shards.cache_gb to more "
                    f"than {self.limit / 1e9:g}, or remove the files that end in {PART}"
                )
            time.sleep(POLL)

    def drop(self, path: Path) -> bool:
        """Remove a complete copy, or an unfinished one that nobody goes on with; return whether it is gone."""
        if path.suffix == PART and not self.is_abandoned(path):
            return False
        with suppress(FileNotFoundError):
            path.unlink()
        return True

    def is_abandoned(self, part: Path) -> bool:
        """Return whether nobody writes an unfinished copy any more."""
        with suppress(OSError):
            if f".{host()}." not in part.name:
                return time.time() - part.stat().st_mtime > ABANDONED
        lock = FileLock(self.folder / f"{part.name.split('.')[0]}{LOCK}", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except (Timeout, NotImplementedError):
            return False
        lock.release()
        return True

    def drop_oldest(self, needed: int) -> bool:
        """Remove complete copies where the disk is full, though the limit is not reached; return whether one is gone.

        Args:
            needed: bytes.
        """
        freed = 0
        for entry in self.entries():
            if freed < needed and entry.path.suffix == COMPLETE and self.drop(entry.path):
                freed += entry.size
        return freed > 0

    def refuse(self, error: OSError) -> NoReturn:
        """Raise the error for a cache that cannot be written."""
        remedy = "make room there, or name another folder by data.shards.cache"
        if error.errno not in FULL:
            remedy = "make it writable, or name another folder by data.shards.cache"
        reason = error.strerror or type(error).__name__
        raise SenetError(f"the cache of shards in {self.folder} cannot be written ({reason}); {remedy}") from error


def host() -> str:
    """Return a name for this machine, of letters and digits."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def gigabytes(number: int) -> str:
    """Return a number of bytes in words."""
    return f"{number / 1e9:.3g} GB" if number >= 1e8 else f"{number / 1e6:.3g} MB"
