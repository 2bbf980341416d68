"""Shards that `senet shard` did not write: each is looked through once, which is remembered in the cache's folder."""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from senet.checksums import digest_of
from senet.errors import SenetError, first_line, warn
from senet.files import make_folder, parse_json, written_beside
from senet.shards import parquet, tar
from senet.shards.cache import ShardCache
from senet.shards.index import EVALUATION, TRAIN, WHOLE, Index, Shard, shard_from_json, shard_to_json
from senet.shards.patterns import PARQUET, base_name, is_address, path_of, shown
from senet.shards.samples import Label, Sample, Shape
from senet.shards.sources import BrokenError, stamp_of
from senet.shards.transfer import Wanted
from senet.shards.unpacking import GZIP
from senet.terminal import tracked

FOUND = "indexes"
ASKED = 16
"""Shards that are asked for at once whether they have been replaced."""
MOST_CLASSES = 2**20
"""More numbers of classes than any data set has; a damaged label may be any number."""
Piece = tuple[Shard, list[Label], tuple[str, ...]]
"""A shard, whose labels are not numbered yet; the classes of its images; the names that it gives to numbers."""


def index_of(
    names: Sequence[str],
    cache: ShardCache,
    shape: Shape,
    extensions: frozenset[str],
    splits: tuple[Sequence[str], Sequence[str]],
) -> Index:
    """Return the index of shards that have none.

    Args:
        names: paths or addresses.
        cache: to which those are copied that are far away or packed; its folder keeps what was found.
        shape: which parts of a sample are meant.
        extensions: of images, without a dot.
        splits: what those to train on, and those to evaluate on, are called, the better ones first.

    Raises:
        SenetError: one cannot be read, or does not hold images with classes.
    """
    pieces, stamps = [], stamps_of([name for name in names if is_address(name)])
    for name in tracked(names, "Looking through shards", len(names)):
        pieces.append(piece_of(name, stamps.get(name, ""), cache, shape, extensions))
    found = [split_of(name, splits) for name in names]
    own = next((word for word in splits[1] if word in found), None)
    chosen = [EVALUATION if split == own else split for split in found]
    left_out = sorted({split for split in chosen if split not in (TRAIN, EVALUATION, WHOLE)})
    if left_out:
        warn(f"the shards called {', '.join(left_out)} are not read, for there are others called {own}")
    kept = [(split, piece) for split, piece in zip(chosen, pieces, strict=True) if split not in left_out]
    return numbered([(replace(shard, split=split), labels, given) for split, (shard, labels, given) in kept])


def split_of(name: str, splits: tuple[Sequence[str], Sequence[str]]) -> str:
    """Return the split that a shard is of, by its folder or the beginning of its name; `WHOLE` where none is said."""
    path = path_of(name)
    words = [path.rpartition("/")[0].rpartition("/")[2].lower(), *re.split(r"[-_.\d]", base_name(name).lower())]
    for word in words:
        if word in splits[0]:
            return TRAIN
        if word in splits[1]:
            return word
    return WHOLE


# ---- looking through -------------------------------------------------------------------------------------------------


def stamps_of(addresses: Sequence[str]) -> dict[str, str]:
    """Return what tells each shard from one that has replaced it, of those that can be asked.

    Raises:
        SenetError: one is not there, or may not be read.
    """
    stamps: dict[str, str] = {}
    pool = ThreadPoolExecutor(ASKED)
    try:
        stamps.update(zip(addresses, pool.map(stamp_of, addresses), strict=True))
    except BrokenError as error:
        warn(
            f"whether {shown(addresses[0])} and the like have been replaced cannot be asked ({error.args[0]}); what "
            "they held when they were last read is used"
        )
    finally:
        pool.shutdown(cancel_futures=True)
    return stamps


def piece_of(name: str, stamp: str, cache: ShardCache, shape: Shape, extensions: frozenset[str]) -> Piece:
    """Return what a shard holds, as it was found now or earlier.

    Args:
        name: its path or address.
        stamp: what tells it from one that has replaced it, where it is far away; "" to believe what was found.
        cache: see `index_of`.
        shape: see `index_of`.
        extensions: see `index_of`.

    Raises:
        SenetError: it cannot be read, or does not hold images.
    """
    is_local = not is_address(name)
    if is_local:
        try:
            stat = Path(name).stat()
        except OSError as error:
            raise SenetError(f"there is no shard {name} ({error.strerror}); check the path") from error
        stamp = f"{stat.st_size} {stat.st_mtime_ns}"
    place = f"{Path(name).absolute()}\n{stamp}" if is_local else f"{name}\n"
    identity = "\n".join((place, shape.image, shape.label))
    kept = cache.folder / FOUND / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:40]}.json"
    piece = kept_piece(kept, name, stamp)
    if piece is not None:
        return piece
    piece = looked_through(name, cache, shape, extensions)
    keep(kept, piece, stamp, cache)
    return piece


def kept_piece(kept: Path, name: str, stamp: str) -> Piece | None:
    """Return what was found in a shard earlier; None if nothing was, it cannot be read, or the shard is another now."""
    try:
        value = parse_json(kept.read_text())
        if stamp and value["stamp"] != stamp:
            return None
        shard = shard_from_json({**value, "name": name}, None)
        labels, given = value["classes"], value["given"]
        if len(labels) != len(shard) or not all(label is None or isinstance(label, int | str) for label in labels):
            return None
        return shard, labels, tuple(map(str, given))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(kept: Path, piece: Piece, stamp: str, cache: ShardCache) -> None:
    """Write what was found in a shard.

    Raises:
        SenetError: the cache cannot be written.
    """
    shard, labels, given = piece
    value = {**shard_to_json(replace(shard, name="")), "classes": labels, "given": given, "stamp": stamp}
    try:
        make_folder(kept.parent)
        with written_beside(kept) as beside:
            beside.write_text(json.dumps(value))
    except OSError as error:
        cache.refuse(error)


def looked_through(name: str, cache: ShardCache, shape: Shape, extensions: frozenset[str]) -> Piece:
    """Look through a shard, see `piece_of`."""
    is_parquet = path_of(name).lower().endswith(PARQUET)
    is_packed = not is_parquet and path_of(name).lower().endswith("gz")
    path, digest = Path(name), None
    if is_address(name):
        path = cache.fetch(Wanted(name=name))
        digest = digest_of(path)
        path = cache.renamed(path, Wanted(name=name, size=path.stat().st_size, sha256=digest))
    size = path.stat().st_size
    given: tuple[str, ...] = ()
    try:
        if is_parquet:
            samples, given, is_packed = parquet.samples_in(path, shown(name), shape)
            digest = digest or (digest_of(path) if is_packed else None)  # tells its copy from that of an older one
        else:
            if is_packed:
                digest = digest or digest_of(path)
                path = cache.fetch(Wanted(name=name, size=size, sha256=digest, unpack=GZIP))
            with path.open("rb") as file:
                samples = tar.samples_in(file, path.stat().st_size, shown(name), extensions, shape)
    except SenetError:  # some of which are an OSError too
        raise
    except OSError as error:
        raise SenetError(f"{shown(name)} cannot be read ({first_line(error)}); check it") from error
    if not samples:
        raise SenetError(f"{shown(name)} has no images; take it out")
    return described(name, size, digest, is_packed, samples, shape), [sample.label for sample in samples], given


def described(name: str, size: int, digest: str | None, packed: bool, samples: Sequence[Sample], shape: Shape) -> Shard:
    """Describe a shard whose labels are not numbered yet."""

    def column(values: list[Any]) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    return Shard(
        name=name,
        split=WHOLE,
        size=size,
        sha256=digest,
        packed=packed,
        labels=np.zeros(len(samples), np.int64),
        offsets=column([sample.offset for sample in samples]),
        sizes=column([sample.size for sample in samples]),
        names=tuple(sample.name for sample in samples),
        column=shape.image,
    )


# ---- classes ---------------------------------------------------------------------------------------------------------


def numbered(pieces: Sequence[Piece]) -> Index:
    """Return the index of shards whose classes are numbers, or names, or not said at all.

    Names are numbered in alphabetical order; numbers have names where a parquet file gives them.

    Raises:
        SenetError: some images have a class and others none, or some numbers and others names.
    """
    kinds = {type(label) for _, labels, _ in pieces for label in labels}
    if len(kinds) > 1:
        first = type(pieces[0][1][0])
        example = next(shard for shard, labels, _ in pieces if any(type(label) is not first for label in labels))
        raise SenetError(
            f"{shown(example.name)} has images without a class, or with a class of another kind than those before; "
            "give each a number from 0, or each a name"
        )
    (kind,) = kinds or {type(None)}
    shards = tuple(shard for shard, _, _ in pieces)
    if kind is type(None):
        return Index(folder="", class_names=(), shards=shards)
    everything = {label for _, labels, _ in pieces for label in labels}
    if kind is str:
        names = tuple(sorted(map(str, everything)))
        place_of: dict[Label, int] = {name: place for place, name in enumerate(names)}
    else:
        given = {names for _, _, names in pieces if names}
        if len(given) > 1:
            raise SenetError("the parquet files name their classes differently; they are not one data set")
        top = max(int(label) for label in everything if label is not None)
        low = min(int(label) for label in everything if label is not None)
        named = next(iter(given), None)
        most = MOST_CLASSES if named is None else min(MOST_CLASSES, len(named))
        if not 0 <= low <= top < most:
            odd = low if low < 0 else top
            shard = next(shard for shard, labels, _ in pieces if odd in labels)
            raise SenetError(
                f"{shown(shard.name)} has the class {odd}, and the shards have classes from {low} to {top}; expected "
                f"numbers from 0 to {most - 1}"
            )
        names = tuple(map(str, range(top + 1))) if named is None else named
        place_of = {number: number for number in range(top + 1)}
    numbers = [np.array([place_of[label] for label in labels], np.int64) for _, labels, _ in pieces]
    return Index(
        folder="",
        class_names=names,
        shards=tuple(replace(shard, labels=each) for shard, each in zip(shards, numbers, strict=True)),
    )
