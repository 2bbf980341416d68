"""The index of a data set in shards: what each holds, where each image is in it, and its checksum. JSON.

    {"format": "senet shards", "version": 1, "class_names": ["cat", "dog"], "shards": [
        {"name": "train-000000.tar", "split": "train", "bytes": 10240, "sha256": "...", "packed": false,
         "labels": [0, 1], "offsets": [512, 4096], "sizes": [2930, 3001], "names": [...], "digests": [...]}]}

An index comes from anywhere, so that everything in it is checked before it is used.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from senet.errors import SenetError
from senet.shards.patterns import PARQUET
from senet.shards.transfer import Wanted
from senet.shards.unpacking import GZIP, IMAGES

INDEX = "senet-shards.json"
FORMAT, VERSION = "senet shards", 1
TRAIN, EVALUATION, WHOLE = "train", "val", "all"
SPLITS = (TRAIN, EVALUATION, WHOLE)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard, and the images in it.

    Args:
        name: its file, relative to the folder of the index; in an index of other people's shards, the path or address.
        split: "train", "val", or "all" where nothing is said.
        size: in bytes.
        sha256: of its content; None if it has not been read.
        packed: whether it has to be unpacked to reach its images.
        labels: (N,) int64, of its images.
        offsets: (N,) int64, of their contents.
        sizes: (N,) int64, of their contents.
        names: of the images, N.
        digests: the first 16 hexadecimal digits of the SHA-256 of each content; None if they have not been read.
        column: of a parquet file, that with the images.
    """

    name: str
    split: str
    size: int
    sha256: str | None
    packed: bool
    labels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    names: tuple[str, ...]
    digests: tuple[str, ...] | None = None
    column: str = "image"

    def __len__(self) -> int:
        return len(self.labels)

    def wanted(self, location: str) -> Wanted:
        """Return what is to be copied from its location."""
        is_parquet = self.name.lower().endswith(PARQUET)
        unpack = "" if not self.packed else f"{IMAGES}{self.column}" if is_parquet else GZIP
        return Wanted(name=location, size=self.size, sha256=self.sha256, unpack=unpack)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a data set in shards consists of.

    Args:
        folder: of the shards, a path or an address; empty where they have whole names.
        class_names: of the labels 0, 1, ...; empty where the images have none.
        shards: in their order.
    """

    folder: str
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]

    def of(self, split: str) -> tuple[Shard, ...]:
        """Return the shards of a split."""
        return tuple(shard for shard in self.shards if shard.split == split)


def index_to_json(class_names: Sequence[str], shards: Sequence[Shard]) -> dict[str, Any]:
    """Return an index as JSON has it."""
    described = [shard_to_json(shard) for shard in shards]
    return {"format": FORMAT, "version": VERSION, "class_names": list(class_names), "shards": described}


def short_digest(content: bytes) -> str:
    """Return what an index has of the content of an image: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def shard_to_json(shard: Shard) -> dict[str, Any]:
    """Return the description of a shard as JSON has it."""
    return {
        "name": shard.name,
        "split": shard.split,
        "bytes": shard.size,
        "sha256": shard.sha256,
        "packed": shard.packed,
        "column": shard.column,
        "images": len(shard),
        "labels": shard.labels.tolist(),
        "offsets": shard.offsets.tolist(),
        "sizes": shard.sizes.tolist(),
        "names": list(shard.names),
        "digests": None if shard.digests is None else list(shard.digests),
    }


def index_from_json(value: Any, folder: str, source: str) -> Index:
    """Return an index.

    Args:
        value: what the JSON file holds.
        folder: where the shards are.
        source: the file, for messages.

    Raises:
        SenetError: it is none.
    """
    try:
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise ValueError(f"it does not say that its format is {FORMAT!r}")
        if not isinstance(value.get("version"), int) or value["version"] > VERSION:
            raise ValueError(f"its version is {value.get('version')!r}, and {VERSION} is the newest known")
        names = words(value, "class_names")
        if len(set(names)) < len(names):
            raise ValueError("a class is there twice")
        shards = tuple(shard_from_json(each, len(names)) for each in value["shards"])
        if len({shard.name for shard in shards}) < len(shards):
            raise ValueError("a shard is there twice")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise SenetError(f"{source} is no index of shards ({reason}); write it again by senet shard") from error
    return Index(folder=folder, class_names=names, shards=shards)


def shard_from_json(value: Any, num_classes: int | None) -> Shard:
    """Return the description of a shard.

    Args:
        value: what `shard_to_json` returned.
        num_classes: number of classes; None where that is not known yet.

    Raises:
        ValueError: it is none, or says what cannot be.
        KeyError: something is missing.
    """
    name, size, digest = value["name"], value["bytes"], value["sha256"]
    if not isinstance(name, str) or (num_classes is not None and not is_inside(name)):
        raise ValueError(f"a shard is called {name!r}, which is no file in its folder")
    if value["split"] not in SPLITS or not isinstance(value["packed"], bool):
        raise ValueError(f"the shard {name} is not described as one")
    if not isinstance(size, int) or not (digest is None or is_hexadecimal(digest, 64)):
        raise ValueError(f"the size or SHA-256 of {name} is none")
    labels, offsets, sizes = (numbers(value, key) for key in ("labels", "offsets", "sizes"))
    names = words(value, "names")
    digests = None if value.get("digests") is None else words(value, "digests")
    if len({len(labels), len(offsets), len(sizes), len(names), *([] if digests is None else [len(digests)])}) > 1:
        raise ValueError(f"{name} has labels, offsets, sizes and names of different number")
    if len(labels) and num_classes is not None and labels.max() >= max(1, num_classes):
        raise ValueError(f"{name} has the label {labels.max()}, and there are {num_classes} classes")
    if len(labels) and not value["packed"] and (offsets + sizes).max() > size:
        raise ValueError(f"{name} has images beyond its end")
    return Shard(
        name=name,
        split=value["split"],
        size=size,
        sha256=digest,
        packed=value["packed"],
        labels=labels,
        offsets=offsets,
        sizes=sizes,
        names=names,
        digests=digests,
        column=str(value.get("column", "image")),
    )


def is_inside(name: str) -> bool:
    """Return whether a name is that of a file in a folder or below it."""
    parts = name.split("/")
    return "\\" not in name and ":" not in name and "\0" not in name and not {"", ".", ".."} & set(parts)


def is_hexadecimal(value: Any, number: int) -> bool:
    """Return whether a value is a text of so many hexadecimal digits."""
    return isinstance(value, str) and len(value) == number and not set(value) - set("0123456789abcdef")


def numbers(value: Mapping[str, Any], key: str) -> np.ndarray:
    """Return a list of whole numbers from 0 as int64, below 2**62, so that two may be added."""
    found = np.array(value[key]) if value[key] else np.zeros(0, np.int64)
    if found.ndim != 1 or found.dtype != np.int64 or (len(found) and not 0 <= found.min() <= found.max() < 2**62):
        raise ValueError(f"{key} are not numbers from 0 on")
    return found


def words(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of texts."""
    if not isinstance(value[key], list) or not all(isinstance(word, str) for word in value[key]):
        raise ValueError(f"{key} are no texts")
    return tuple(value[key])
