"""Which image comes when: a function of seed and epoch, so that a run can go on anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def seed_of(*parts: int) -> int:
    """Mix non-negative integers, such as (seed, epoch, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


FEW = 20
"""Of so many batches an epoch, the images that do not fill another one are left out: less than a twentieth."""


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The batches of an epoch, as arrays of image indices.

    Shuffled, for training, an epoch of `FEW` batches or more leaves out the images that do not fill another batch, as
    is usual, and others the next time. A shorter epoch is divided into batches as equal as can be, none of them larger
    than `batch_size`; images that the processes cannot share evenly are left out then, too.

    Args:
        num_images: in the split.
        batch_size: images of a batch in one process.
        shuffle: a new order in every epoch.
        seed: of the orders.
        rank: of this process.
        num_processes: that share the images.
        even: each process needs an even number of images, as mixup does.
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
        """Where each batch of all processes together begins, and the last one ends, in the order of an epoch."""
        size = self.batch_size * self.num_processes
        complete = self.num_images // size
        if not self.shuffle:
            return np.minimum(np.arange(-(-self.num_images // size) + 1) * size, self.num_images)
        if complete >= FEW:
            return np.arange(complete + 1) * size
        share = self.num_processes * (2 if self.even else 1)  # a batch's images come in so many
        shares = self.num_images // share
        number = -(-shares * share // size)
        return np.arange(number + 1) * shares // max(1, number) * share

    @property
    def num_used(self) -> int:
        """Images of an epoch, in all processes together."""
        return int(self.ends[-1])

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the batches of `epoch` (from 0) from number `start` on."""
        indices = np.arange(self.num_images)
        if self.shuffle:
            indices = np.random.default_rng(seed_of(self.seed, epoch)).permutation(self.num_images)
        for batch in range(start, len(self)):
            yield indices[self.ends[batch] : self.ends[batch + 1]][self.rank :: self.num_processes]

    def said(self) -> str:
        """Say how an epoch differs from batches of `batch_size` with all images; empty if it does not."""
        sizes = np.diff(self.ends) // self.num_processes
        left_out = self.num_images - self.num_used
        told = []
        if sizes.min() < self.batch_size:
            few = " or ".join(map(str, np.unique(sizes)))
            told.append(f"{self.num_used:,} images make batches of {few}, not {self.batch_size}: {len(self)} an epoch")
        if left_out:
            told.append(f"each epoch leaves out {left_out:,} of {self.num_images:,} images, others every time")
        return "; ".join(told)
