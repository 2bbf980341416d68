"""The order of the images: a function of seed and epoch, so that a run can resume at any batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def seed_of(*parts: int) -> int:
    """Mix non-negative integers, such as (seed, epoch, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


MIN_FULL_BATCHES = 20
"""With this many full batches per epoch or more, images that do not fill another are left out: less than 5 %."""


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The batches of an epoch, as arrays of image indices.

    With `shuffle`, an epoch of at least `MIN_FULL_BATCHES` full batches leaves out the images that do not fill another
    batch, different ones in each epoch. A shorter epoch is divided into batches of nearly equal size, none larger than
    `batch_size`; images that cannot be shared evenly among the processes are left out there too.

    Args:
        num_images: in the split.
        batch_size: images of a batch in one process.
        shuffle: draw a new order in every epoch.
        seed: of the orders.
        rank: of this process, from 0.
        num_processes: number of processes that share the images.
        even: give each process an even number of images, which mixup needs.
    """

    num_images: int
    batch_size: int
    shuffle: bool
    seed: int = 0
    rank: int = 0
    num_processes: int = 1
    even: bool = False

    def __len__(self) -> int:
        return len(self.ends) - 1

    @cached_property
    def ends(self) -> np.ndarray:
        """The boundaries of the batches of all processes together, as positions in the order of an epoch."""
        size = self.batch_size * self.num_processes
        complete = self.num_images // size
        if not self.shuffle:
            return np.minimum(np.arange(-(-self.num_images // size) + 1) * size, self.num_images)
        if complete >= MIN_FULL_BATCHES:
            return np.arange(complete + 1) * size
        share = self.num_processes * (2 if self.even else 1)  # the size of a batch is a multiple of this
        shares = self.num_images // share
        number = -(-shares * share // size)
        return np.arange(number + 1) * shares // max(1, number) * share

    @property
    def num_used(self) -> int:
        """Number of images in an epoch, over all processes."""
        return int(self.ends[-1])

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the batches of `epoch` (from 0) from number `start` on."""
        indices = np.arange(self.num_images)
        if self.shuffle:
            indices = np.random.default_rng(seed_of(self.seed, epoch)).permutation(self.num_images)
        for batch in range(start, len(self)):
            yield indices[self.ends[batch] : self.ends[batch + 1]][self.rank :: self.num_processes]

    def summary(self) -> str:
        """Return how an epoch differs from full batches of all images, in words; empty if it does not."""
        sizes = np.diff(self.ends) // self.num_processes
        left_out = self.num_images - self.num_used
        sentences = []
        if sizes.min() < self.batch_size:
            used = " or ".join(map(str, np.unique(sizes)))
            sentences.append(
                f"{self.num_used:,} images make batches of {used}, not {self.batch_size}: {len(self)} an epoch"
            )
        if left_out:
            sentences.append(f"each epoch leaves out {left_out:,} of {self.num_images:,} images, others every time")
        return "; ".join(sentences)
