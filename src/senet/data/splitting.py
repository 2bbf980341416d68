"""Holding out a share of each class for evaluation: which images, their names or contents and a seed decide."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from senet.data.folders import path_below
from senet.errors import SenetError

END = 4096
"""Bytes at the end of a file by which those of one size are told apart: compressed pictures mostly differ there."""


def keys_of_files(folder: Path, files: Iterable[str], seed: int) -> list[bytes]:
    """Return for each file of a folder a number that depends on its path in the folder and the seed."""
    return [key_of(os.fsencode(path_below(folder, file)), seed) for file in files]


def key_of(content: bytes, seed: int) -> bytes:
    """Return the SHA-256 of a name or content, and of the seed unless it is 0."""
    return hashlib.sha256(b"%d/" % seed + content if seed else content).digest()


def same_contents(files: Sequence[str]) -> np.ndarray:
    """Return for each file the number of the first one with the same content, (N,) int64.

    Of files that have a size of their own nothing is read, of most others 4 KB: on a local disk 100,000 pictures take
    some seconds.
    """
    groups = np.arange(len(files))
    for alike in divided([range(len(files))], files, size_of):
        for same_end in divided([alike], files, end_of):
            for same in divided([same_end], files, digest_of):
                groups[same] = same[0]
    return groups


def divided(
    groups: Iterable[Sequence[int]], files: Sequence[str], value_of: Callable[[str], object]
) -> list[list[int]]:
    """Divide groups of files by a value, and return the parts of two files or more; None is no value."""
    parts = []
    for group in groups:
        by_value = defaultdict(list)
        for index in group:
            value = value_of(files[index])
            if value is not None:
                by_value[value].append(index)
        parts += [part for part in by_value.values() if len(part) > 1]
    return parts


def size_of(file: str) -> int | None:
    """Return the size of a file in bytes; None if it is empty or cannot be read, which its reader will say."""
    try:
        return os.stat(file).st_size or None  # noqa: PTH116  # for a million files much faster than Path
    except OSError:
        return None


def end_of(file: str) -> bytes | None:
    """Return the last bytes of a file; None if it cannot be read."""
    try:
        with open(file, "rb", buffering=0) as opened:  # noqa: PTH123
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - END))
            return opened.read(END)
    except OSError:
        return None


def digest_of(file: str) -> bytes | None:
    """Return the SHA-256 of a file's content; None if it cannot be read."""
    try:
        with Path(file).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return None


def held_out(
    keys: Sequence[bytes], groups: np.ndarray, labels: np.ndarray, fraction: float, name: Callable[[int], str]
) -> np.ndarray:
    """Return which images are held out for evaluation, (N,) bool.

    Of each class the share `fraction` is held out, at least one image: those with the smallest keys. So images that are
    added to a class change nothing in the others, and move at most as many of its own to the other side. Images of one
    group stay together, as long as the class has others.

    Args:
        keys: of each image, spread at random.
        groups: of each image, (N,), a number that copies of one picture share.
        labels: of each image, (N,).
        fraction: in (0, 1).
        name: index -> name of an image, for messages.

    Raises:
        SenetError: a class has only one picture.
    """
    group_of: list[int] = groups.tolist()
    smallest: dict[int, bytes] = {}
    for key, group in zip(keys, group_of, strict=True):
        smallest[group] = min(key, smallest.get(group, key))
    by_label: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index in sorted(range(len(keys)), key=lambda index: (smallest[group_of[index]], keys[index])):
        by_label[int(labels[index])][group_of[index]].append(index)
    chosen = np.zeros(len(keys), dtype=bool)
    for members in by_label.values():
        if len(members) < 2:
            copies = next(iter(members.values()))
            only = "is the only image" if len(copies) == 1 else "is, with its copies, the only picture"
            raise SenetError(
                f"{name(copies[0])} {only} of its class, which data.val_fraction cannot divide; add images"
            )
        chosen[share_of(list(members.values()), fraction)] = True
    return chosen


def share_of(groups: Sequence[list[int]], fraction: float) -> list[int]:
    """Return a share of the members of groups, nearest to the fraction, at least one group and not all."""
    total = sum(map(len, groups))
    number = min(max(1, round(fraction * total)), total - 1)
    chosen: list[int] = []
    for group in groups:
        missing = number - len(chosen)
        if len(group) - missing <= missing and len(chosen) + len(group) < total:
            chosen += group
        if len(chosen) >= number:
            break
    return chosen or min(groups, key=len)
