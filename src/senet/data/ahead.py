"""Copying the shards of the coming batches to the cache while the network works on the present one."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from senet.data.images import ImageSplit
from senet.data.order import BatchOrder
from senet.data.readers import Shards, shards_read
from senet.shards.store import largest

MOST = 16
"""Most shards that are copied before they are needed."""


@contextmanager
def copying_ahead(split: ImageSplit, order: BatchOrder, epoch: int, start: int) -> Iterator[Callable[[int], None]]:
    """Copy shards in a thread while inside this; yield a function that is told the number of each batch.

    A shard that cannot be copied is left to the reader of its images, which says why.

    Args:
        split: the images; nothing is done where they are not in shards, or these are read in place.
        order: of the batches of this process.
        epoch: from 0.
        start: number of the first batch.
    """
    shards = shards_read(split.read_image)
    if shards is None or not any(map(shards.store.is_copied, range(len(shards.store.shards)))):
        yield lambda batch: None
        return
    copier = Copier(shards, order, epoch, start)
    copier.start()
    try:
        yield copier.at
    finally:
        copier.stop()


class Copier(threading.Thread):
    """Copies the shards that an epoch needs, in its order, a few of them ahead.

    Args:
        shards: the reader.
        order: see `copying_ahead`.
        epoch: see `copying_ahead`.
        start: see `copying_ahead`.
    """

    def __init__(self, shards: Shards, order: BatchOrder, epoch: int, start: int) -> None:
        super().__init__(daemon=True, name="shards ahead")
        self.shards, self.order, self.epoch = shards, order, epoch
        self.batch, self.first = start, start
        self.stopped = False
        self.changed = threading.Condition()
        half = shards.store.cache.limit // (2 * max(1, largest(shards.store.shards).size))
        self.most = max(1, min(MOST, half))

    def at(self, batch: int) -> None:
        """Note which batch the network is at."""
        with self.changed:
            self.batch = batch
            self.changed.notify()

    def stop(self) -> None:
        """End; a copy that is under way is completed first, so that it is not lost."""
        with self.changed:
            self.stopped = True
            self.changed.notify()

    def needed(self) -> tuple[list[int], list[int]]:
        """Return the shards of the epoch in the order in which they are needed, and the first batch that needs each."""
        seen: set[int] = set()
        shards, batches = [], []
        for place, indices in enumerate(self.order.batches(self.epoch, self.first)):
            number = self.first + place // len(self.order.own_shares)
            for shard in np.unique(self.shards.places[indices]).tolist():
                if shard not in seen:
                    seen.add(shard)
                    shards.append(shard)
                    batches.append(number)
        return shards, batches

    def run(self) -> None:
        """Copy until all are there, the pass ends, or one cannot be copied."""
        shards, batches = self.needed()
        for number, shard in enumerate(shards):
            with self.changed:
                while not self.stopped and number - bisect_right(batches, self.batch) >= self.most:
                    self.changed.wait()
                if self.stopped:
                    return
            try:
                self.shards.store.prepare(shard)
            except Exception:  # of any kind: the reader meets it again, and says it
                return
