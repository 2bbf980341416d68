"""Which images of a run's batches each process computes, whatever the number of processes that go on with it.

What defines the arithmetic of a run are its replicas: as many as the processes that it starts with, each with a batch
of its own, statistics of BatchNorm of its own, and seeds of its own. On fewer processes each computes several replicas
in turn. On more, several processes divide the images of a replica among them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from senet.errors import SenetError

MIN_IMAGES = 2
"""Of a part: with one image, what is drawn for the batch could not be told from what is drawn for its image."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process computes of a batch at once: the images of a replica, or a part of them.

    Args:
        replica: from 0.
        part: from 0.
        parts: into which the images of the replica are divided.
    """

    replica: int = 0
    part: int = 0
    parts: int = 1

    def places(self, num_images: int, *, even: bool = False) -> np.ndarray:
        """Return which of a replica's images these are, in their order.

        Args:
            num_images: of the replica.
            even: keep together the images that mixup and CutMix pair: the first and the last, and so on inwards.
        """
        if not even:
            return np.arange(self.part, num_images, self.parts)
        first = np.arange(self.part, num_images // 2, self.parts)
        return np.concatenate([first, num_images - 1 - first[::-1]])


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the batches of a run are divided among its processes.

    Args:
        num_replicas: of the run: the processes that it started with.
        num_processes: that compute it now.
        process: this one, from 0.
    """

    num_replicas: int = 1
    num_processes: int = 1
    process: int = 0

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What this process computes of each batch."""
        replicas, processes = self.num_replicas, self.num_processes
        if not self.is_split:
            first, end = (-(-place * replicas // processes) for place in (self.process, self.process + 1))
            return tuple(Share(replica=replica) for replica in range(first, end))
        replica = self.process * replicas // processes
        members = self.members(replica)
        return (Share(replica=replica, part=self.process - members[0], parts=len(members)),)

    @property
    def is_split(self) -> bool:
        """Whether there are more processes than replicas."""
        return self.num_processes > self.num_replicas

    def members(self, replica: int) -> list[int]:
        """Return the processes that divide a replica among them."""
        replicas, processes = self.num_replicas, self.num_processes
        first, end = (-(-place * processes // replicas) for place in (replica, replica + 1))
        return list(range(first, end))

    def one_share_each(self) -> "Division":
        """Return the division of what these processes start now, such as an evaluation: one share for each."""
        return Division(num_replicas=self.num_processes, num_processes=self.num_processes, process=self.process)

    def weight(self, num_images: int, of_replica: int) -> float:
        """Return what a mean over images counts in this process, so that the mean of all processes is the step's.

        Args:
            num_images: that the mean is over.
            of_replica: images of their replica.
        """
        weight = self.num_processes / self.num_replicas
        return weight if num_images == of_replica else weight * num_images / of_replica

    def check_images(self, fewest: int) -> None:
        """Raise a SenetError if the images of a replica are too few to be divided.

        Args:
            fewest: images of a replica in any batch.
        """
        parts = -(-self.num_processes // self.num_replicas)
        if self.is_split and fewest < MIN_IMAGES * parts:
            most = max(1, fewest // MIN_IMAGES) * self.num_replicas
            raise SenetError(
                f"the run's batches have {fewest * self.num_replicas} images, too few for {self.num_processes} "
                f"processes, each of which needs {MIN_IMAGES}; start at most {most}"
            )

    def in_words(self) -> str:
        """Return what each process computes, for the log; empty if the run has as many processes as it started with."""
        replicas, processes = self.num_replicas, self.num_processes
        if replicas == processes:
            return ""
        run = f"goes on with {processes} process{'es' if processes > 1 else ''}"
        if self.is_split:
            number = span(len(self.members(replica)) for replica in range(replicas))
            which = f"each of the run's {replicas} shares" if replicas > 1 else "the run's one share"
            return f"{run}, {number} of which divide {which} of a batch among them"
        number = span(len(replace(self, process=place).shares) for place in range(processes))
        each = "which computes" if processes == 1 else "each of which computes"
        return f"{run}, {each} {number} of the run's {replicas} shares of a batch"


def span(numbers: Iterable[int]) -> str:
    """Return the least and the largest of some numbers, in words."""
    ordered = sorted(numbers)
    return str(ordered[0]) if ordered[0] == ordered[-1] else f"{ordered[0]} or {ordered[-1]}"
