"""The order of the images: a function of seed and epoch, so that a run can resume at any batch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from senet.data.division import Share
from senet.data.shard_order import shard_order


def seed_of(*parts: int) -> int:
    """Mix non-negative integers, such as (seed, epoch, step), into one well-spread 63-bit seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


MIN_FULL_BATCHES = 20
"""With this many full batches per epoch or more, images that do not fill another are left out: less than 5 %."""
CLASS_STREAM = 2**32
"""Keeps the orders of the classes apart from those of the epochs, which share the seed."""


def times_before(indices: np.ndarray) -> np.ndarray:
    """Return for each number of an array (N,) how often it stands before."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    times = np.empty_like(order)
    times[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return times


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """The batches of an epoch, as arrays of image indices.

    With `shuffle`, an epoch of at least `MIN_FULL_BATCHES` full batches leaves out the images that do not fill another
    batch, different ones in each epoch. A shorter epoch is divided into batches of nearly equal size, none larger than
    `batch_size`; images that cannot be shared evenly among the processes are left out there too.

    An epoch has as many images as the split, also where some come several times: by `labels` or by `repeats`.

    Args:
        num_images: in the split.
        batch_size: images of a batch in one process.
        shuffle: draw a new order in every epoch.
        seed: of the orders.
        rank: of this process, from 0.
        num_processes: number of processes that share the images; with `shares`, that of the replicas.
        shares: of each batch in this process, one after the other; none for the share of `rank`.
        even: give each process an even number of images, which mixup needs.
        labels: (num_images,) int64, from 0, each class with an image: all classes come equally often; None lets every
            image come once.
        repeats: how often each image comes, side by side, in an epoch of the fewer images (arXiv:1901.09335); several
            processes get one each.
        shards: (num_images,), the shard that each image is in: an epoch reads them one after the other, see
            `senet.data.shard_order`; None where images are files, of which any may come next.
        streams: rows of shards that are read side by side.
        mixed: shards of a row whose images are mixed.
    """

    num_images: int
    batch_size: int
    shuffle: bool
    seed: int = 0
    rank: int = 0
    num_processes: int = 1
    shares: tuple[Share, ...] = ()
    even: bool = False
    labels: np.ndarray | None = field(default=None, repr=False, compare=False)
    repeats: int = 1
    shards: np.ndarray | None = field(default=None, repr=False, compare=False)
    streams: int = 8
    mixed: int = 4

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

    @property
    def has_copies(self) -> bool:
        """Whether an image may come several times in an epoch."""
        return self.labels is not None or self.repeats > 1

    @cached_property
    def members(self) -> list[np.ndarray]:
        """The images of each class, in an order of their own in which they come; only with `labels`."""
        assert self.labels is not None
        by_class = np.split(np.argsort(self.labels, kind="stable"), np.bincount(self.labels).cumsum()[:-1])
        return [
            np.random.default_rng(seed_of(self.seed, CLASS_STREAM, label)).permutation(of_class)
            for label, of_class in enumerate(by_class)
        ]

    def balanced(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch, all classes equally often.

        Each class goes on in its order where it was at the end of the epoch before, round and round: none of its images
        comes twice more often than another, in this epoch or in all so far.
        """
        number = len(self.members)
        parts = []
        for label, of_class in enumerate(self.members):
            # The sum of (x + label) // number over the labels is x (Hermite): these are num_images in every epoch.
            first, end = ((done * self.num_images + label) // number for done in (epoch, epoch + 1))
            parts.append(of_class[np.arange(first, end) % len(of_class)])
        return np.concatenate(parts)

    def indices(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch in their order, (num_images,)."""
        if not self.shuffle:
            return self.in_rows()
        rng = np.random.default_rng(seed_of(self.seed, epoch))
        chosen = np.arange(self.num_images) if self.labels is None else self.balanced(epoch)
        if self.shards is None:
            drawn = chosen[rng.permutation(self.num_images)]
        else:
            drawn = chosen[shard_order(self.shards[chosen], rng, streams=self.streams, mixed=self.mixed)]
        return drawn if self.repeats == 1 else np.repeat(drawn, self.repeats)[: self.num_images]

    def in_rows(self) -> np.ndarray:
        """Return the images in the order in which `divided` gives each process a row, so that it reads few shards."""
        places = [np.arange(replica, self.num_images, self.num_processes) for replica in range(self.num_processes)]
        indices = np.empty(self.num_images, np.int64)
        indices[np.concatenate(places)] = np.arange(self.num_images)
        return indices

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the batches of `epoch` (from 0) from number `start` on: of each, this process's shares in turn."""
        yield from self.divided(self.indices(epoch), start)

    def copies(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield for each image of `batches` how often the epoch has had it before, so that each copy can differ."""
        yield from self.divided(times_before(self.indices(epoch)), start)

    @property
    def own_shares(self) -> tuple[Share, ...]:
        """What this process takes of each batch."""
        return self.shares or (Share(replica=self.rank),)

    def num_of_replica(self, batch: int) -> int:
        """Return the images of a replica in a batch of training."""
        return int(self.ends[batch + 1] - self.ends[batch]) // self.num_processes

    def divided(self, values: np.ndarray, start: int) -> Iterator[np.ndarray]:
        """Divide what belongs to the images of an epoch into batches, and yield this process's shares of them."""
        for batch in range(start, len(self)):
            whole = values[self.ends[batch] : self.ends[batch + 1]]
            for share in self.own_shares:
                of_replica = whole[share.replica :: self.num_processes]
                yield of_replica if share.parts == 1 else of_replica[share.places(len(of_replica), even=self.even)]

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
        if left_out and not self.has_copies:
            sentences.append(f"each epoch leaves out {left_out:,} of {self.num_images:,} images, others every time")
        if self.repeats > 1:
            fewer = -(-self.num_used // self.repeats)
            sentences.append(f"each epoch has {fewer:,} of {self.num_images:,} images, each {self.repeats} times")
        return "; ".join(sentences)
