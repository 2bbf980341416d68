"""Data sets in shards: tar files and parquet in folders, on servers and in object stores, as splits of images."""

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from senet.data.config import DataConfig
from senet.data.folders import EVAL_SPLITS, TRAIN_SPLITS, class_folders, listed
from senet.data.huggingface import check_labels
from senet.data.images import ImageSplit, Split
from senet.data.readers import Shards
from senet.data.reading import NEEDS
from senet.data.splitting import held_out, key_of
from senet.errors import MissingFileError, SenetError, warn
from senet.ops.cpu import cache_folder
from senet.shards.cache import ShardCache, gigabytes
from senet.shards.foreign import index_of
from senet.shards.index import EVALUATION, INDEX, TRAIN, WHOLE, Index, index_from_json
from senet.shards.patterns import (
    SEPARATOR,
    TAR,
    base_name,
    expanded,
    folder_of,
    has_wildcard,
    is_address,
    is_shard,
    joined,
    shown,
)
from senet.shards.samples import Shape
from senet.shards.sources import listing, matching, read_json
from senet.shards.store import ShardStore, largest, store_of

WHAT = "index of shards"
EXTENSIONS = frozenset(extension.removeprefix(".") for extension in NEEDS)
"""What the files of images in a sample end in."""


def is_sharded(dataset: str) -> bool:
    """Return whether a data set is one of shards, by its name and what is in its folder."""
    if is_address(dataset):
        return True
    path = Path(dataset)
    if path.is_dir():
        return (path / INDEX).is_file() or (has_tar_files(path) and not class_folders(path))
    if path.is_file():
        return path.name == INDEX or path.name.lower().endswith(TAR)
    return SEPARATOR in dataset or any(mark in dataset for mark in "{*?") or is_shard(dataset)


def has_tar_files(folder: Path) -> bool:
    """Return whether there are tar files in a folder or the folders in it."""
    return any(file.lower().endswith(TAR) for file in listing(str(folder)) or ())


def cache_of(config: DataConfig) -> ShardCache:
    """Return the cache of shards that a data set is read by."""
    folder = config.shards.cache or cache_folder() / "shards"
    return ShardCache(folder=folder, limit=int(config.shards.cache_gb * 1e9))


def read_index(config: DataConfig) -> Index:
    """Return the index of a data set in shards, its own or one that is made.

    Raises:
        SenetError: there are no such shards, or they cannot be read.
    """
    dataset = config.dataset
    cache, shape = cache_of(config), Shape(image=config.image_column, label=config.label_column)
    path = Path(dataset, INDEX) if Path(dataset).is_dir() else Path(dataset)
    state = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return index_once(dataset, cache, shape, state)


@lru_cache(maxsize=4)  # each split asks for it, and so do the checks before
def index_once(dataset: str, cache: ShardCache, shape: Shape, state: object) -> Index:
    """Return an index, see `read_index`; `state` tells a file from one that has replaced it."""
    if dataset.startswith("pipe:"):
        raise SenetError(f"{dataset} is a command, and data sets run none; give the address of the shards itself")
    if base_name(dataset) == INDEX:
        return own_index(folder_of(dataset))
    names = [dataset] if Path(dataset).exists() else expanded(dataset)
    if len(names) == 1 and not is_shard(names[0]) and not has_wildcard(names[0]):
        found = read_json(joined(names[0], INDEX), WHAT)
        if found:
            return own_index(names[0])
        names = shards_in(names[0])
    names = [file for name in names for file in (matching(name) if has_wildcard(name) else [name])]
    others = [name for name in names if not is_shard(name)]
    if not names or others:
        what = f"{shown(others[0])} is no shard" if others else f"{shown(dataset)} matches no shards"
        raise MissingFileError(f"{what}; expected files that end in {', '.join(TAR)} or .parquet")
    return index_of(names, cache, shape, EXTENSIONS, (TRAIN_SPLITS, EVAL_SPLITS))


def own_index(folder: str) -> Index:
    """Return the index that is in a folder of shards.

    Raises:
        SenetError: there is none, or it is damaged.
    """
    name = joined(folder, INDEX)
    found = read_json(name, WHAT)
    if not found:
        raise MissingFileError(f"there is no {shown(name)}; check the path")
    return index_from_json(found, folder, shown(name))


def shards_in(folder: str) -> list[str]:
    """Return the shards in a folder that has no index, and in the folders in it.

    Raises:
        SenetError: there are none, or a server does not list its files.
    """
    found = listing(folder)
    if found is None:
        raise MissingFileError(
            f"{shown(folder)} has no {INDEX}, and an HTTP server lists no files; name the shards, such as "
            f"'{shown(folder).rstrip('/')}/train-{{000..099}}.tar', or write them by senet shard"
        )
    names = [name for name in found if is_shard(name)]
    if not names:
        raise MissingFileError(
            f"{shown(folder)} has no shards; expected files that end in {', '.join(TAR)} or .parquet"
        )
    return names


# ---- splits ----------------------------------------------------------------------------------------------------------


def open_shards(config: DataConfig, split: Split) -> ImageSplit:
    """Open a data set in shards.

    Raises:
        SenetError: there is no such data set, it does not say what is asked for, or a shard cannot be read.
    """
    index, name = read_index(config), shown(config.dataset)
    training, own, whole = index.of(TRAIN), index.of(EVALUATION), index.of(WHOLE)
    divided = config.val_fraction is not None
    if divided and own:
        raise SenetError(f"data.val_fraction has no effect on {name}, which has shards to evaluate on; leave it out")
    chosen = (training or (whole if divided else ())) if split == "train" or divided else own or whole
    if not chosen:
        found = listed([base_name(shard.name) for shard in index.shards])
        remedy = "set data.val_fraction, such as 0.2, to hold out a share"
        if own:
            remedy = "add shards called train-..."
        raise SenetError(
            f"{name} has no shards to {'train' if split == 'train' else 'evaluate'} on ({found}); {remedy}"
        )
    store = store_of(index, chosen, cache_of(config))
    labels, names = store.labels, index.class_names
    source = f"{name} ({chosen[0].split})"
    if split == "train" and not names:
        raise SenetError(f"{source} has no classes; each image needs a file .cls, .json or .txt beside it")
    if names:
        check_labels(labels, names, source, every_class=split == "train")
    note_small_cache(config, store)
    reader = Shards(store, np.arange(len(store)), labels)
    images = ImageSplit(source=source, size=len(store), class_names=names, read_image=reader)
    if config.val_fraction is None:
        return images
    take = held_out_of(images, reader, config.val_fraction, config.split_seed)
    numbers = np.flatnonzero(take == (split == "eval"))
    part = replace(images, size=len(numbers), read_image=Shards(store, numbers, labels[numbers]))
    if split == "train":
        return part
    return replace(part, source=f"{source}, held out", held_out=tuple(names_of(store)[i] for i in numbers.tolist()))


def names_of(store: ShardStore) -> list[str]:
    """Return the names of all images."""
    return [name for shard in store.shards for name in shard.names]


def held_out_of(images: ImageSplit, reader: Shards, fraction: float, seed: int) -> np.ndarray:
    """Return which images of shards are held out, (N,) bool, see `held_out`.

    The names decide, and copies stay together where the index knows the contents: the shards of a folder hold out the
    images that the folder does.
    """
    keys = [key_of(os.fsencode(name), seed) for name in names_of(reader.store)]
    digests = reader.store.digests()
    groups = np.arange(len(keys)) if digests is None else np.unique(digests, return_inverse=True)[1]
    return held_out(keys, groups, reader.labels, fraction, images.name)


def note_small_cache(config: DataConfig, store: ShardStore) -> None:
    """Warn where the shards that an epoch reads side by side do not fit in the cache."""
    copied = [shard for number, shard in enumerate(store.shards) if store.is_copied(number)]
    if not copied:
        return
    active = min(len(copied), config.shards.streams * config.shards.mixed)
    needed = active * largest(copied).size
    if needed > store.cache.limit:
        size = gigabytes(largest(copied).size)
        warn(
            f"{active} shards of up to {size} are read side by side, and data.shards.cache_gb is "
            f"{config.shards.cache_gb:g}, so that each is copied many times; set it to {needed / 1e9:.2g} or more, "
            "or data.shards.streams to less"
        )


def has_own_evaluation(config: DataConfig) -> bool:
    """Return whether a data set in shards has some to evaluate on."""
    return bool(read_index(config).of(EVALUATION))
