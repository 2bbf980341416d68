"""The images of one split of a data set, one by one, with their labels and names, wherever they come from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from senet.data.channels import Picture, to_channels
from senet.data.folders import File
from senet.data.readers import Reader, Relabeled, labels_of, shards_read
from senet.data.reading import naming, read_named
from senet.errors import SenetError

Split = Literal["train", "eval"]
PROBED = 16
"""Number of images that are read when a data set is opened, each of another class."""


@dataclass(frozen=True, kw_only=True)
class ImageSplit:
    """The training or evaluation images of a data set.

    Args:
        source: its name in messages.
        size: number of images.
        class_names: of the labels 0, 1, ...; empty for images without labels.
        read_image: index -> (picture, label); may raise whatever decoders raise. It can be pickled, for workers that
            are not forked.
        files: index -> (file, label), to name an image in messages; None if the images are not files.
        names_of_folders: True if the class names are those of folders and the labels their order; False if the labels
            are the data set's own.
        rows: index -> number of the row in its table; None if all its rows are here, or there is no table.
        held_out: names of the images, if they were held out of the training images of the data set.
    """

    source: str
    size: int
    class_names: tuple[str, ...]
    read_image: Reader
    files: Sequence[File] | None = None
    names_of_folders: bool = False
    rows: Sequence[int] | None = None
    held_out: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return self.size

    @cached_property
    def labels(self) -> np.ndarray | None:
        """The labels (N,) in int64; None for images without classes, or from a reader that only reads."""
        labels = labels_of(self.read_image) if self.class_names else None
        return None if labels is None else labels[: self.size]

    @property
    def shards(self) -> np.ndarray | None:
        """The number of the shard that each image is in, (N,); None where they are not in shards."""
        found = shards_read(self.read_image)
        return None if found is None else found.places[: self.size]

    @property
    def counts(self) -> np.ndarray:
        """Number of images of each class, (C,); 0 for images without labels."""
        labels = np.zeros(0, np.int64) if self.labels is None else self.labels
        return np.bincount(labels, minlength=len(self.class_names))

    def __getitem__(self, index: int) -> tuple[Picture, int]:
        """Return image and label.

        Raises:
            SenetError: the image cannot be read.
        """

        def read() -> tuple[Picture, int]:
            picture, label = self.read_image(index)
            if isinstance(picture, Image.Image):
                picture.load()
            return picture, int(label)

        try:
            return read_named(self.name(index), read)
        except SenetError:
            shards = shards_read(self.read_image)
            if shards is None or not shards.store.drops_damaged(int(shards.numbers[index])):
                raise
            return read_named(self.name(index), read)

    def prepared(self, index: int, to_pixels: Callable[[Any], Tensor]) -> tuple[Tensor, int]:
        """Return a transformed image and its label.

        Raises:
            SenetError: the image cannot be read, or the network cannot take it.
        """
        picture, label = self[index]
        with naming(self.name(index)):
            return to_pixels(picture), label

    def name(self, index: int) -> str:
        """Return the name of an image for messages."""
        if self.files:
            return self.files[index][0]
        if (shards := shards_read(self.read_image)) is not None:
            return shards.name(index)
        return f"image {index if self.rows is None else self.rows[index]} of {self.source}"

    def relabeled(self, labels: Sequence[int], class_names: tuple[str, ...]) -> "ImageSplit":
        """Return the same images with other labels: `labels[k]` for the label k."""
        files = None if self.files is None else [(file, labels[label]) for file, label in self.files]
        read_image = Relabeled(self.read_image, labels)
        return replace(self, read_image=read_image, files=files, class_names=class_names)

    def probe(self, channels: int) -> None:
        """Read one image of each of some classes.

        Raises:
            SenetError: one cannot be read, or cannot be converted to this number of channels.
        """
        labels = [0] if self.files is None else [label for _, label in self.files]
        firsts = np.unique(labels, return_index=True)[1]
        for index in firsts[:: -(-len(firsts) // PROBED)].tolist():
            picture, _ = self[index]
            with naming(self.name(index)):
                to_channels(picture, channels)
