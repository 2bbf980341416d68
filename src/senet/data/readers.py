"""Where the pictures of a split come from: arrays, files, rows of a table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senet.data.channels import Picture
from senet.data.folders import File
from senet.data.reading import read_picture
from senet.shards.store import ShardStore

Reader = Callable[[int], tuple[Picture, int]]
"""index -> (picture, label)."""
Content = tuple[bytes | None, int]
"""The content of an image file and its label; None if only the reader can read the picture."""


@dataclass(frozen=True)
class Arrays:
    """Reads images that are in memory: `pixels` in uint8, (N, H, W) or (N, H, W, 3), and `labels` (N,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __call__(self, index: int) -> tuple[Picture, int]:
        """Return a picture and its label."""
        return Image.fromarray(self.pixels[index]), int(self.labels[index])


@dataclass(frozen=True)
class Files:
    """Reads image files."""

    files: Sequence[File]

    def __call__(self, index: int) -> tuple[Picture, int]:
        """Return a picture and its label."""
        path, label = self.files[index]
        return read_picture(path), label

    def contents(self, indices: range) -> Iterator[Content]:
        """Yield the content of each file and its label."""
        for index in indices:
            path, label = self.files[index]
            yield content_of(path), label


@dataclass(frozen=True)
class Rows:
    """Reads the rows of a Hugging Face data set, whose one column is the images, and of labels (N,)."""

    images: Any
    labels: np.ndarray

    def __call__(self, index: int) -> tuple[Picture, int]:
        """Return a picture and its label."""
        import datasets

        (image,) = self.images[index].values()
        if image is None:
            raise ValueError("its row has none")
        label = int(self.labels[index])
        if image["bytes"] is not None or Path(image["path"]).exists():
            return read_picture(image["path"] if image["bytes"] is None else image["bytes"]), label
        return datasets.Image().decode_example(image), label  # a path inside an archive or on a server

    def contents(self, indices: range) -> Iterator[Content]:
        """Yield the content of each image and its label; a row of many costs an eighth of a row by itself."""
        try:
            (images,) = self.images[indices.start : indices.stop].values()
        except Exception:  # of any kind: the reader says which row it is
            images = [None] * len(indices)
        for image, label in zip(images, self.labels[indices.start : indices.stop].tolist(), strict=True):
            if image is None or image["bytes"] is not None:
                yield image and image["bytes"], label
            else:
                yield content_of(image["path"]), label


@dataclass(frozen=True)
class Shards:
    """Reads images of shards: those with the numbers (N,), with labels (N,)."""

    store: ShardStore
    numbers: np.ndarray
    labels: np.ndarray

    def __call__(self, index: int) -> tuple[Picture, int]:
        """Return a picture and its label."""
        return read_picture(self.store.read(int(self.numbers[index]))), int(self.labels[index])

    def contents(self, indices: range) -> Iterator[Content]:
        """Yield the content of each image and its label."""
        for index in indices:
            yield self.store.read(int(self.numbers[index])), int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        return self.store.name(int(self.numbers[index]))

    @cached_property
    def places(self) -> np.ndarray:
        """The number of the shard of each image, (N,)."""
        return self.store.shards_of(self.numbers)


@dataclass(frozen=True)
class Relabeled:
    """Reads the same images with other labels: `labels[k]` for the label k."""

    read_image: Reader
    labels: Sequence[int]

    def __call__(self, index: int) -> tuple[Picture, int]:
        """Return a picture and its label."""
        picture, label = self.read_image(index)
        return picture, self.labels[label]

    def contents(self, indices: range) -> Iterator[Content]:
        """Yield the content of each image file and its label."""
        for content, label in contents_of(self.read_image, indices):
            yield content, self.labels[label]


def labels_of(read_image: Reader) -> np.ndarray | None:
    """Return the labels (N,) of all images in int64, none of which is read; None for a reader of another kind."""
    if isinstance(read_image, Arrays | Rows | Shards):
        return np.asarray(read_image.labels, dtype=np.int64)
    if isinstance(read_image, Files):
        return np.fromiter((label for _, label in read_image.files), np.int64, len(read_image.files))
    if isinstance(read_image, Relabeled) and (labels := labels_of(read_image.read_image)) is not None:
        return np.array([read_image.labels[label] for label in labels.tolist()], dtype=np.int64)
    return None


def shards_read(read_image: Reader) -> Shards | None:
    """Return what reads from shards in a reader; None for one that reads from elsewhere."""
    while isinstance(read_image, Relabeled):
        read_image = read_image.read_image
    return read_image if isinstance(read_image, Shards) else None


def content_of(path: str) -> bytes | None:
    """Return the content of a file; None if it cannot be read, which its reader will say."""
    try:
        with FileIO(path) as file:  # half the time of Path.read_bytes
            return file.readall()
    except OSError:
        return None


def contents_of(read_image: Reader, indices: range) -> Iterable[Content]:
    """Return the contents of image files and their labels; (None, 0) where the pictures do not come from files."""
    if isinstance(read_image, Files | Rows | Shards | Relabeled):
        return read_image.contents(indices)
    return [(None, 0)] * len(indices)
