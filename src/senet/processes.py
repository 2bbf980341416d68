"""Processes that torchrun started and that work together: joining them, sharing work among them, gathering results.

Everything goes through Gloo, on the CPU, so that NCCL is left to the gradients of a training, several processes may
use one GPU, and a machine without GPUs does the same.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache
from itertools import count, islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from senet.errors import SenetError, first_line
from senet.launch import check_rank, local_rank, num_started
from senet.lost import LOST_MINUTES, watching_others
from senet.restarts import fresh_store

Item = TypeVar("Item")
FAILED = 2
"""What a failed process sends to the others in place of a value, which is at most 1."""
FAILURE, ARRIVED, TAKEN = "failure", "arrived", "taken"
"""Keys of the store: what a process has failed for, how often one has come to a meeting, how many items are taken."""
PATIENCE = timedelta(days=7)
"""For which Gloo and NCCL wait; by themselves they would end runs in which a process is slow. See `senet.lost`."""
BUCKET_BYTES = 1 << 26
"""Of tensors that are added up at once."""
PAUSES_S, PAUSE_SHARE = (0.0005, 0.1), 0.05
"""Between two looks at the store: the shortest and the longest, and otherwise this share of the time waited so far."""


# ---- the group -------------------------------------------------------------------------------------------------------


def in_process_group() -> bool:
    """Whether this process works with others."""
    return dist.is_available() and dist.is_initialized()


def leave_process_group() -> None:
    """Leave the group; otherwise its background threads may abort this process when it exits."""
    if in_process_group():
        dist.destroy_process_group()


def join_process_group() -> None:
    """Join the processes that were started together, unless that is done, and take this one's GPU, if there is one.

    Raises:
        SenetError: they cannot be joined.
    """
    if in_process_group():
        return
    check_rank()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    try:
        # Gloo for what is on the CPU and, where there are GPUs, NCCL for what is on these.
        store = fresh_store(dist.default_pg_timeout.total_seconds())
        if store is None:
            dist.init_process_group()
        else:
            dist.init_process_group(store=store, rank=int(os.environ["RANK"]), world_size=num_started())
    except (RuntimeError, ValueError, OSError) as error:
        raise SenetError(
            f"the {num_started()} processes that WORLD_SIZE announces cannot be joined ({first_line(error)}); start "
            "them by torchrun, or unset WORLD_SIZE"
        ) from error
    be_patient()
    atexit.register(leave_process_group)


def be_patient() -> None:
    """Let the processes of the group wait for slow ones; joining has its own limit."""
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout  # before PyTorch 2.14
    set_timeout(PATIENCE)


class Team:
    """Processes that work together, and the messages between them.

    An error in one is an error in all. In a training all processes call `agree` at the same places, so that a failed
    process stops the others there. Elsewhere they come together by `meet` at the same places; one that has failed does
    not wait for the others to come, but leaves word by `tell`.

    Args:
        size: number of processes.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.rank = dist.get_rank() if size > 1 else 0
        self.group: Any = None
        self.failed = False
        self.meetings = 0
        self.uses = count()
        if size > 1:
            from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

            self.group = dist.new_group(backend="gloo", timeout=PATIENCE)
            self.store = PrefixStore(f"senet/{self.group.group_name}", _get_default_store())

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    # ---- in a training -----------------------------------------------------------------------------------------------

    def agree(self, flag: bool = False) -> bool:
        """Return whether the flag is set in any process.

        Raises:
            SenetError: another process has failed; the message is that process's.
        """
        if self.group is None:
            return flag
        return self.largest(float(flag)) > 0

    def least(self, value: float) -> float:
        """Return the smallest value of all processes.

        Args:
            value: not negative.

        Raises:
            SenetError: another process has failed; the message is that process's.
        """
        return value if self.group is None else -self.largest(-value)

    def each(self, value: float) -> list[float]:
        """Return the value of every process, that of process i at place i."""
        found = [torch.tensor(value, dtype=torch.float64) for _ in range(self.size)]
        if self.group is not None:
            dist.all_gather(found, found[0].clone(), group=self.group)
        return [float(each) for each in found]

    def largest(self, value: float) -> float:
        """Return the largest value of all processes, or raise the error of one that has failed."""
        largest = self.exchange(value)
        if largest == FAILED:
            self.failed = True
            raise SenetError(self.message(""))
        return largest

    def fail(self, error: SenetError) -> None:
        """Report this process's failure to the others, unless another failure has been reported."""
        if self.group is not None and not self.failed:
            self.failed = True
            self.exchange(FAILED)
            self.message(str(error))

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.group is not None:
            dist.barrier(self.group)

    def exchange(self, value: float) -> float:
        """Return the largest value of all processes."""
        largest = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return float(largest)

    def message(self, own: str) -> str:
        """Return the first message of all processes."""
        return next(filter(None, self.gathered(own)), "")

    def gathered(self, own: Any) -> list[Any]:
        """Return what every process has, that of process i at place i."""
        found: list[Any] = [own] * self.size
        if self.group is not None:
            dist.all_gather_object(found, own, group=self.group)
        return found

    # ---- meetings ----------------------------------------------------------------------------------------------------

    def meet(self) -> None:
        """Wait until all processes are here, for as long as it takes; unlike Gloo's waiting, a signal ends it.

        Raises:
            SenetError: another process has failed; the message is that process's.
        """
        if self.group is None:
            return
        self.meetings += 1
        started, (shortest, longest) = time.monotonic(), PAUSES_S
        self.store.add(ARRIVED, 1)
        while self.store.add(ARRIVED, 0) < self.meetings * self.size:
            self.check_others()
            time.sleep(min(longest, max(shortest, PAUSE_SHARE * (time.monotonic() - started))))

    def tell(self, error: SenetError) -> None:
        """Leave word of this process's failure, for those that come to the next meeting."""
        if self.group is not None and not self.store.check([FAILURE]):
            self.store.set(FAILURE, str(error))

    def check_others(self) -> None:
        """Raise the SenetError of another process that has failed, if one has."""
        if self.group is not None and self.store.check([FAILURE]):
            raise SenetError(self.store.get(FAILURE).decode())

    # ---- results -----------------------------------------------------------------------------------------------------

    def everyone(self, value: Item) -> list[Item]:
        """Return the values of all processes, that of process i at place i."""
        if self.group is None:
            return [value]
        self.meet()
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def to_first(self, value: Item) -> list[Item]:
        """Return to the first process the values of all, that of process i at place i; to the others nothing."""
        if self.group is None:
            return [value]
        self.meet()
        found: list[Any] | None = [None] * self.size if self.is_first else None
        dist.gather_object(value, found, group=self.group, group_dst=0)
        return found or []

    def from_first(self, make: Callable[[], Item]) -> Item:
        """Let the first process make a value, and return it to all."""
        made: list[Any] = [make() if self.is_first else None]
        if self.group is not None:
            self.meet()
            dist.broadcast_object_list(made, group=self.group, group_src=0)
        return made[0]  # type: ignore[no-any-return]

    def added(self, part: Tensor | None) -> Tensor:
        """Return the sum of a tensor over all processes, on the CPU; None of a process that has nothing to add.

        The order of the sum is that of the processes, so all have the same sum to the last bit.
        """
        parts = [each for each in self.everyone(None if part is None else part.cpu()) if each is not None]
        whole = parts[0].clone()
        for each in parts[1:]:
            whole += each
        return whole

    def add_up(self, *tensors: Tensor) -> None:
        """Add up large tensors over all processes in place, where a copy of each process's would take much memory."""
        if self.group is None:
            return
        self.meet()
        for bucket in buckets(tensors):
            whole = torch.cat([tensor.flatten() for tensor in bucket]).cpu()
            dist.all_reduce(whole, group=self.group)
            for tensor, part in zip(bucket, whole.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    # ---- shares ------------------------------------------------------------------------------------------------------

    def share(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield this process's share of items that come to all in the same order: every n-th."""
        return islice(items, self.rank, None, self.size)

    def in_turn(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield to the first process, in the order before `share`, what all have made of their shares.

        Args:
            items: of this process, one for each of its share. They are drawn while the first process takes what comes.
        """
        if self.group is None:
            yield from items
            return
        is_over = False
        while not is_over:
            own = next(items, None)
            yield from (each for each in self.to_first(own) if each is not None)
            is_over = self.agree(own is None)

    def taken(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items that this process takes: whoever is free takes the next, so no process waits for a slow one.

        Args:
            items: the same for all processes.
        """
        if self.group is None:
            yield from items
            return
        key = f"{TAKEN} {next(self.uses)}"
        following = self.store.add(key, 1) - 1
        for number, item in enumerate(items):
            if number == following:
                self.check_others()
                yield item
                following = self.store.add(key, 1) - 1


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in groups of one type and at most `BUCKET_BYTES`, or one tensor: each group is a message."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = by_type.setdefault(tensor.dtype, [])
        if bucket and sum(each.nbytes for each in bucket) + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            by_type[tensor.dtype] = bucket = []
        bucket.append(tensor)
    yield from by_type.values()


# ---- shared work -----------------------------------------------------------------------------------------------------

TEAM: ContextVar[Team | None] = ContextVar("TEAM", default=None)


@lru_cache(maxsize=1)
def team_of(group: Any) -> Team:
    """Return the team of all processes, one for the group's life: it is never left while others may still send."""
    return Team(group.size())


def current_team() -> Team:
    """Return the processes that share the present work: outside `shared_work` this process alone."""
    return TEAM.get() or Team()


@contextmanager
def shared_work() -> Iterator[Team]:
    """Share the work of this library's functions inside among the processes that torchrun started.

    All processes call the same functions in the same order. Each runs its share of the images, every image in one
    process, and all get the results of all images. The processes leave the block together. In a program that was
    started alone it changes nothing.

    Yields:
        The processes; `is_first` says which of them speaks and writes.

    Raises:
        SenetError: the processes cannot be joined, or another one has failed or is lost.
    """
    if TEAM.get() is not None:
        yield current_team()
        return
    if num_started() > 1:
        join_process_group()
    alone = not in_process_group() or dist.get_world_size() == 1
    team = Team() if alone else team_of(dist.group.WORLD)
    token = TEAM.set(team)
    with watching_others(team.size, LOST_MINUTES, "start all processes again"):
        try:
            yield team
            team.meet()
        except SenetError as error:
            team.tell(error)
            raise
        finally:
            TEAM.reset(token)
