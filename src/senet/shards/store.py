"""The contents of the images of shards, each read at its place: in local shards, or in copies in the cache."""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from senet.errors import MissingFileError, SenetError, warn
from senet.shards.cache import ShardCache
from senet.shards.index import Index, Shard, short_digest
from senet.shards.patterns import base_name, is_address, joined, shown
from senet.shards.transfer import mismatch

OPEN = 128
"""Most shards that a process has open."""
TOUCHED = 20.0
"""Seconds after which the copy of a shard that is being read is noted as used again."""
EVICTED = 5
"""How often a copy may be removed by another process between its making and its opening."""


class Opened:
    """A shard that is open, until nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self.handle).st_size
        self.touched = time.monotonic()

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes at a place, fewer at the end of the file; several threads may read at once."""
        parts = []
        while size > 0 and (part := os.pread(self.handle, size, offset)):
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        try:
            close(self.handle)
        except (AttributeError, OSError):  # contextlib is gone when the program ends
            return


@dataclass(frozen=True, eq=False)
class ShardStore:
    """The images of some shards, by number; it can be pickled, for workers that are not forked.

    Args:
        folder: of the shards, a path or an address; empty where they have whole names.
        shards: in their order.
        cache: of those that are not read in place.
    """

    folder: str
    shards: tuple[Shard, ...]
    cache: ShardCache
    opened: OrderedDict[int, Opened] = field(default_factory=OrderedDict, repr=False)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "shards": self.shards, "cache": self.cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in {**state, "opened": OrderedDict(), "lock": threading.Lock()}.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of the first image of each shard, and the number of all, (S + 1,)."""
        return np.cumsum([0, *map(len, self.shards)])

    @cached_property
    def labels(self) -> np.ndarray:
        """The labels (N,) in int64."""
        return np.concatenate([shard.labels for shard in self.shards])

    def shards_of(self, numbers: np.ndarray) -> np.ndarray:
        """Return the number of the shard of each image, (N,)."""
        found: np.ndarray = np.searchsorted(self.starts, numbers, side="right") - 1
        return found

    def place(self, number: int) -> tuple[int, int]:
        """Return the shard of an image, and its number in the shard."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return shard, number - int(self.starts[shard])

    def name(self, number: int) -> str:
        """Return the name of an image for messages."""
        shard, place = self.place(number)
        return f"{self.shards[shard].names[place]} in {shown(self.location(shard))}"

    def location(self, shard: int) -> str:
        """Return the path or address of a shard."""
        name = self.shards[shard].name
        return joined(self.folder, name) if self.folder else name

    def is_copied(self, shard: int) -> bool:
        """Return whether a shard is read from a copy in the cache."""
        return self.shards[shard].packed or is_address(self.location(shard))

    def read(self, number: int) -> bytes:
        """Return the content of an image.

        Raises:
            SenetError: its shard cannot be read, or is damaged.
        """
        shard, place = self.place(number)
        described = self.shards[shard]
        size = int(described.sizes[place])
        content = self.handle(shard).read(int(described.offsets[place]), size)
        if len(content) < size:
            raise SenetError(f"{self.name(number)} is cut short; copy the shard again")
        if described.digests is not None and short_digest(content) != described.digests[place]:
            raise SenetError(
                f"{self.name(number)} is not what was written, its SHA-256 is another one; copy the shard again, or "
                "write its index again"
            )
        return content

    def handle(self, shard: int) -> Opened:
        """Return a shard, opened.

        Raises:
            SenetError: it cannot be read, or is not of the size that the index says.
        """
        with self.lock:
            found = self.opened.get(shard)
            if found is not None:
                self.opened.move_to_end(shard)
                self.note_use(found)
                return found
        found = self.open_copy(shard) if self.is_copied(shard) else self.open_in_place(shard)
        with self.lock:
            self.opened[shard] = found
            while len(self.opened) > OPEN:
                self.opened.popitem(last=False)
        return found

    def note_use(self, opened: Opened) -> None:
        """Note now and then that a copy is used, so that it is not removed from the cache."""
        now = time.monotonic()
        if opened.path.parent == self.cache.folder and now - opened.touched > TOUCHED:
            opened.touched = now
            self.cache.touch(opened.path)

    def open_copy(self, shard: int) -> Opened:
        """Open the copy of a shard in the cache."""
        for _ in range(EVICTED):
            path = self.cache.fetch(self.shards[shard].wanted(self.location(shard)))
            with suppress(FileNotFoundError):  # of the copy
                return Opened(path)
        raise SenetError(
            f"the copies of shards in {self.cache.folder} are removed as soon as they are made; set "
            f"data.shards.cache_gb to more than {self.cache.limit / 1e9:g}"
        )

    def drops_damaged(self, number: int) -> bool:
        """Drop the copy of an image's shard if it is damaged, so that it is made again; return whether it was.

        A copy that was unpacked on its way cannot be told from a damaged one.
        """
        shard, _ = self.place(number)
        wanted = self.shards[shard].wanted(self.location(shard))
        path = self.cache.path_of(wanted)
        try:
            if not self.is_copied(shard) or wanted.unpack or not mismatch(wanted, path):
                return False
            path.unlink()
        except OSError:
            return False
        with self.lock:
            self.opened.pop(shard, None)
        warn(f"the copy of {shown(self.location(shard))} in {self.cache.folder} is damaged, and is made again")
        return True

    def open_in_place(self, shard: int) -> Opened:
        """Open a local shard."""
        path, expected = self.location(shard), self.shards[shard].size
        try:
            found = Opened(Path(path))
        except FileNotFoundError as error:
            raise MissingFileError(f"the shard {path} is not there any more; restore it, then go on") from error
        except OSError as error:
            raise SenetError(f"the shard {path} cannot be read ({error.strerror}); restore it, then go on") from error
        if found.size != expected:
            raise SenetError(
                f"{path} has {found.size:,} bytes, and {expected:,} according to its index; it is cut short or has "
                "been replaced: copy it again, or write its index again"
            )
        return found

    def prepare(self, shard: int) -> None:
        """Copy a shard to the cache, if it is read from there and not yet in it.

        Raises:
            SenetError: it cannot be read.
        """
        if self.is_copied(shard):
            self.cache.fetch(self.shards[shard].wanted(self.location(shard)))

    def digests(self) -> list[str] | None:
        """Return the digests of the contents of all images; None if some shard has none."""
        found: list[str] = []
        for shard in self.shards:
            if shard.digests is None:
                return None
            found += shard.digests
        return found


def store_of(index: Index, shards: Sequence[Shard], cache: ShardCache) -> ShardStore:
    """Return the images of some shards of an index."""
    return ShardStore(index.folder, tuple(shards), cache)


def largest(shards: Sequence[Shard]) -> Shard:
    """Return the largest shard."""
    return max(shards, key=lambda shard: (shard.size, base_name(shard.name)))
