"""Shards whose images do not lie in them as they are: unpacked once, so that each can be read at its place."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from senet.errors import SenetError
from senet.shards.parquet import contents_in
from senet.shards.patterns import shown
from senet.shards.sources import CHUNK
from senet.shards.transfer import Wanted, write

GZIP, IMAGES = "gzip", "parquet:"


def unpack(packed: Path, target: Path, wanted: Wanted, limit: int, room: Callable[[int], bool]) -> None:
    """Write what is in a packed shard.

    Args:
        packed: the shard.
        target: what is written.
        wanted: says how, and what the shard is called in messages.
        limit: most bytes: a small file may unpack to any size.
        room: see `download`.

    Raises:
        SenetError: it is damaged, or larger than the limit.
        OSError: `target` cannot be written.
    """
    chunks = gunzipped(packed) if wanted.unpack == GZIP else contents_in(packed, wanted.unpack.removeprefix(IMAGES))
    written = 0
    with target.open("wb", buffering=0) as file:
        while True:
            try:
                chunk = next(chunks, None)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise SenetError(
                    f"{shown(wanted.name)} cannot be unpacked ({error}); it is damaged or cut short: copy it again"
                ) from error
            if chunk is None:
                return
            written += len(chunk)
            if written > limit:
                raise SenetError(
                    f"{shown(wanted.name)} unpacks to more than the {limit / 1e9:g} GB of the cache; raise "
                    "data.shards.cache_gb, if the file is to be trusted"
                )
            write(file, chunk, room)


def gunzipped(packed: Path) -> Iterator[bytes]:
    """Yield the content of a gzip file."""
    with gzip.open(packed, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
