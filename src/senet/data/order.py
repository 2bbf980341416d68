"""Which image comes when: a function of seed and epoch, so that a run can go on anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


def seed_of(*parts: int) -> int:
    """Mix non-negative integers, such as (seed, epoch, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The batches of an epoch, as arrays of image indices.

    Args:
        num_images: in the split.
        batch_size: images of a batch in one process.
        shuffle: a new order in every epoch; an incomplete last batch is then left out, unless it is the only one.
        seed: of the orders.
        rank: of this process.
        num_processes: that share the images.
    """

    num_images: int
    batch_size: int
    shuffle: bool
    seed: int = 0
    rank: int = 0
    num_processes: int = 1

    def __len__(self) -> int:
        global_size = self.batch_size * self.num_processes
        complete, rest = divmod(self.num_images, global_size)
        return complete + (rest > 0 and (not self.shuffle or complete == 0))

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the batches of `epoch` (from 0) from number `start` on."""
        indices = np.arange(self.num_images)
        if self.shuffle:
            indices = np.random.default_rng(seed_of(self.seed, epoch)).permutation(self.num_images)
        global_size = self.batch_size * self.num_processes
        for batch in range(start, len(self)):
            yield indices[batch * global_size : (batch + 1) * global_size][self.rank :: self.num_processes]
