"""Data that stay on disk: read and augmented image by image in worker processes, normalized on the device."""

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from senet.data.ahead import copying_ahead
from senet.data.channels import Picture
from senet.data.images import ImageSplit
from senet.data.order import BatchOrder, seed_of
from senet.data.preprocessing import Preprocessing
from senet.data.randomness import restored, seed_generators
from senet.data.reading import naming
from senet.data.transforms import ToPixels
from senet.errors import SenetError

Item = TypeVar("Item")
Key = tuple[int, int] | tuple[int, int, int]
"""(epoch, index), and for an image that the epoch has had before, how often."""
KEPT_BYTES = 200_000_000
"""Decoded pictures that a process keeps for the next epochs: decoding takes a third to a half of a small one's time."""


class SeededImages(Dataset[tuple[Tensor, int]]):
    """Images whose augmentation is a function of (seed, epoch, index), and of the copy where an epoch has several.

    A key contains the epoch, because worker processes stay alive through all epochs and do not know the current one.
    """

    def __init__(self, split: ImageSplit, to_pixels: ToPixels, seed: int) -> None:
        self.split = split
        self.to_pixels = to_pixels
        self.seed = seed
        self.kept: dict[int, tuple[Picture, int]] = {}
        self.room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[tuple[Tensor, int]]:
        """Return the images of a batch; without a worker, reading would change what dropout and mixup draw."""
        images = []
        with restored():
            for epoch, index, *copy in keys:
                seed_generators(seed_of(self.seed, epoch, index, *copy))
                images.append(self.prepared(index))
        return images

    def prepared(self, index: int) -> tuple[Tensor, int]:
        """Return a transformed image and its label; its picture is decoded only once, if those of the split fit."""
        picture, label = self.kept.get(index) or self.read(index)
        with naming(self.split.name(index)):
            return self.to_pixels(picture), label

    def read(self, index: int) -> tuple[Picture, int]:
        """Return a picture and its label, and keep them if there is room."""
        picture, label = self.split[index]
        if self.room > 0 and isinstance(picture, Image.Image):
            size = math.prod(picture.size) * len(picture.getbands())
            fits = self.kept or size * len(self.split) <= KEPT_BYTES  # if all are as large as the first
            self.room = self.room - size if fits else 0
            if self.room > 0:
                self.kept[index] = picture, label
        return picture, label


def collate(batch: list[tuple[Tensor, int]], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Stack uint8 pixels, in channels-last memory as PIL has them, and labels.

    Args:
        batch: empty if the last images of an epoch are fewer than the processes.
        shape: (C, H, W) of an empty batch.
    """
    if not batch:
        return torch.empty(0, *shape, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    pixels = torch.stack([pixels.movedim(-3, -1) for pixels, _ in batch]).movedim(-1, -3)
    return pixels, torch.tensor([label for _, label in batch])


class Keys:
    """The batches of keys for a DataLoader's workers; `epoch` and `start` are set before each pass."""

    def __init__(self, order: BatchOrder) -> None:
        self.order = order
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return (len(self.order) - self.start) * len(self.order.own_shares)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, batches = self.epoch, self.order.batches(self.epoch, self.start)
        if not self.order.has_copies:
            for indices in batches:
                yield [(epoch, index) for index in indices.tolist()]
            return
        for indices, copies in zip(batches, self.order.copies(epoch, self.start), strict=True):
            pairs = zip(indices.tolist(), copies.tolist(), strict=True)
            yield [(epoch, index, copy) if copy else (epoch, index) for index, copy in pairs]


def ignore_ctrl_c(worker: int) -> None:
    """Ignore Ctrl-C in a worker: the main process saves the run, and stops its workers when it exits.

    SIGTERM must still stop a worker: that is how the main process stops it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def own_sigchld() -> Iterator[None]:
    """Keep this process's own SIGCHLD handler.

    A DataLoader installs one that raises an error as soon as a worker dies, even in the middle of an optimizer step.
    Without it, the next batch that the worker should have delivered raises the error.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def normalized(
    batches: Iterable[tuple[Tensor, Tensor]], preprocessing: Preprocessing, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Move batches of uint8 pixels to a device and normalize them there.

    On a GPU, the next batch is copied and normalized on a stream of its own while the caller computes with one.
    """
    shape = (-1, 1, 1)
    mean = torch.tensor([255 * value for value in preprocessing.mean], device=device).view(shape)
    std = torch.tensor([255 * value for value in preprocessing.std], device=device).view(shape)

    def prepared(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = pixels.to(device, non_blocking=True).to(torch.float32).sub_(mean).div_(std)
        return images, labels.to(device, non_blocking=True)

    if device.type != "cuda":
        for pixels, labels in batches:
            yield prepared(pixels, labels)
        return
    stream, ready = torch.cuda.Stream(device), None
    stream.wait_stream(torch.cuda.current_stream(device))  # for mean and std
    with_end: Iterable[tuple[Tensor, Tensor] | None] = chain(batches, (None,))
    for batch in with_end:
        following = None
        if batch is not None:
            with torch.cuda.stream(stream):
                following = prepared(*batch)
        if ready is not None:
            yield ready
        torch.cuda.current_stream(device).wait_stream(stream)
        for tensor in following or ():
            tensor.record_stream(torch.cuda.current_stream(device))
        ready = following


def worker_loader(
    images: Dataset[Any], keys: Keys, to_batch: Callable[[Any], Any], device: torch.device, num_workers: int
) -> DataLoader[Any]:
    """Return PyTorch's loader of batches of images, whose workers live through all epochs.

    Args:
        images: by key.
        keys: those of each batch.
        to_batch: what the dataset returns for the keys of a batch -> the batch.
        device: where the batches go.
        num_workers: processes; 0 reads in this one.
    """
    return DataLoader(
        images,
        batch_sampler=keys,
        collate_fn=to_batch,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_ctrl_c,
        generator=torch.Generator(),  # otherwise each pass draws from the global one
        pin_memory=device.type == "cuda",
    )


class StreamingLoader:
    """Batches read from disk by workers, and normalized on the device.

    Args:
        split: the images.
        to_pixels: picture -> uint8 (C, H, W).
        order: which images make a batch.
        preprocessing: for the normalization.
        device: where batches arrive.
        num_workers: processes; 0 reads in this one.
    """

    def __init__(
        self,
        split: ImageSplit,
        to_pixels: ToPixels,
        order: BatchOrder,
        preprocessing: Preprocessing,
        device: torch.device,
        num_workers: int,
    ) -> None:
        self.order = order
        self.keys = Keys(order)
        self.preprocessing, self.device = preprocessing, device
        size = preprocessing.image_size
        self.images = SeededImages(split, to_pixels, order.seed)
        to_batch = partial(collate, shape=(preprocessing.in_channels, size, size))
        self.loader = worker_loader(self.images, self.keys, to_batch, device, num_workers)

    def __len__(self) -> int:
        return len(self.order)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.images.split.name(index)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (N, C, H, W) float32, labels (N,)) of `epoch` from batch `start` on, see `BatchOrder.batches`.

        Raises:
            SenetError: an image cannot be read, or a worker died.
        """
        self.keys.epoch, self.keys.start = epoch, start
        read: Iterable[tuple[Tensor, Tensor]] = self.loader if len(self.keys) else ()
        with copying_ahead(self.images.split, self.order, epoch, start) as at:
            for number, batch in enumerate(delivered(normalized(read, self.preprocessing, self.device))):
                at(start + number // len(self.order.own_shares))
                yield batch


def delivered(batches: Iterator[Item]) -> Iterator[Item]:
    """Yield the batches of a DataLoader, and turn what goes wrong in its workers into one sentence.

    Raises:
        SenetError: an image cannot be read, or a worker died.
    """
    while True:
        try:
            with own_sigchld():
                batch = next(batches, None)
        except SenetError as error:  # a worker's error carries the worker's traceback in its text
            kind = type(error)
            raise kind(last_line(error).removeprefix(f"{kind.__module__}.{kind.__name__}: ")) from error
        except Exception as error:  # of any kind in a worker, or in the connection to it
            if not (isinstance(error, OSError | EOFError) or "DataLoader worker" in str(error)):
                raise
            raise SenetError(
                f"a process that reads images failed ({last_line(error)}), perhaps for lack of memory; "
                "lower data.num_workers or batch_size"
            ) from error
        if batch is None:
            return
        yield batch


def last_line(error: Exception) -> str:
    """Return the last line of an error's text, without its full stop, or the error's kind if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(". ")
