"""Processes on other machines that are lost, for which the others would wait without an end.

PyTorch gives up after ten or thirty minutes, whether a process is dead or only slow, and torchrun does nothing when a
machine falls silent (pytorch/pytorch, issue 111646). So each process says every few seconds, from a thread of its own,
that it lives: a slow one does too, and is waited for as long as it takes; one that is silent ends the run.

A process that waits for another one inside of Gloo or NCCL cannot be woken: it is ended by the thread, as NCCL's own
watchdog does, after one sentence. So nothing of what it holds is saved, as after a kill.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import torch.distributed as dist

from senet.errors import SenetError
from senet.launch import (
    ANSWER_S,
    by_torchrun,
    connected_store,
    first_to_fail,
    local_rank,
    on_several_machines,
    store_address,
)

LOST_MINUTES = 5.0
"""Of silence after which a process is lost, where nobody says otherwise."""
LOST = "lost"
"""The key in the store of what the first process that knows of a lost one says."""
LEFT = 1 << 40
"""What a process that leaves adds to its number, so that nobody misses it."""
STATUS = 2
"""The command line's exit status for what is said in one sentence."""
USES = count()
"""Number the uses, which all processes have in the same order, so that none sees the signs of life of another."""


class Watch:
    """Says that this process lives, and ends it when another process, or the way to it, is lost.

    Every process counts its signs of life in the store. The first looks at all of them, the others at the first's, so
    that the store's work grows with the number of processes and not with its square.

    Args:
        address: of the store.
        rank: of this process.
        size: number of processes.
        seconds: of silence after which a process is lost.
        remedy: the end of what is said.
        end: takes what is said and whether this process is to say it, and does not return.
    """

    def __init__(
        self,
        address: tuple[str, int],
        rank: int,
        size: int,
        seconds: float,
        remedy: str,
        end: Callable[[str, bool], None],
    ) -> None:
        self.address, self.rank, self.seconds, self.remedy, self.end = address, rank, seconds, remedy, end
        self.place, self.interval = f"senet/lives/{next(USES)}", min(seconds / 10, 5.0)
        self.seen = dict.fromkeys(range(1, size) if rank == 0 else [0], 0)
        self.silent = dict.fromkeys(self.seen, 0.0)
        self.left, self.deciding = threading.Event(), threading.Lock()
        self.looked = time.monotonic()
        self.thread = threading.Thread(target=self.look_on, name="senet-lost", daemon=True)

    def key(self, name: object) -> str:
        """Return a key of the store."""
        return f"{self.place}/{name}"

    def look_on(self) -> None:
        """Give signs of life and look for those of others, until this process leaves."""
        store: Any = None
        unanswered = 0.0
        while True:
            try:
                with self.answered():
                    store = store or connected_store(self.address, min(self.seconds, ANSWER_S))
                    self.look(store)
                unanswered = 0.0
            except RuntimeError:  # the store's process is gone, or the way to it
                store, unanswered = None, unanswered + self.passed()
                if unanswered > self.seconds:
                    self.decide(self.cut_off(), by_machine=True)
            if self.left.wait(self.interval):
                break
        with self.answered(), suppress(RuntimeError):
            (store or connected_store(self.address, ANSWER_S)).add(self.key(self.rank), LEFT)

    @contextmanager
    def answered(self) -> Iterator[None]:
        """End this process if what is inside does not return in time: a cut connection gives no error."""
        timer = threading.Timer(self.seconds, self.decide, [self.cut_off()], {"by_machine": True})
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def passed(self) -> float:
        """Return the seconds since the last look; little after this process was stopped, as others may have been."""
        before, self.looked = self.looked, time.monotonic()
        return min(self.looked - before, 2 * self.interval)

    def look(self, store: Any) -> None:
        """Give a sign of life and look for those of others."""
        passed = self.passed()
        if store.add(self.key(self.rank), 1) == 1:
            store.set(self.key(f"host of {self.rank}"), os.uname().nodename if hasattr(os, "uname") else "")
        if store.check([self.key(LOST)]):
            self.decide(store.get(self.key(LOST)).decode())
        for other, before in self.seen.items():
            number = store.add(self.key(other), 0)
            if number == before and number < LEFT:
                self.silent[other] += passed
            else:
                self.seen[other], self.silent[other] = number, 0.0
            if self.silent[other] > self.seconds:
                self.miss(store, other)

    def miss(self, store: Any, other: int) -> None:
        """End the run because of a process that is silent."""
        key = self.key(f"host of {other}")
        host = store.get(key).decode() if store.check([key]) else ""
        said = (
            f"process {other}{f' on {host}' if host else ''} has given no sign of life for {self.seconds:g} s: it was "
            f"killed or stopped, or its machine is off or cut off from the others; {self.remedy}"
        )
        store.set(self.key(LOST), said)
        self.decide(said)

    def cut_off(self) -> str:
        """Return what a process says that does not reach the others."""
        return (
            f"{self.address[0]}:{self.address[1]}, where the processes meet, has not answered for {self.seconds:g} s: "
            f"this machine is cut off from the others, or the first one is off; {self.remedy}"
        )

    def decide(self, said: str, *, by_machine: bool = False) -> None:
        """End this process, unless it is leaving.

        Args:
            said: why.
            by_machine: whether the first process of each machine says it, for they cannot ask who is the first of all.
        """
        with self.deciding:
            if not self.left.is_set():
                self.end(said, local_rank() == 0 if by_machine else first_to_fail())

    def leave(self) -> None:
        """Stop watching, and tell the others; wait for it no longer than a store needs that can be reached."""
        with self.deciding:
            self.left.set()
        self.thread.join(ANSWER_S)


def end_process(said: str, speaks: bool) -> None:
    """End this process at once, for its main thread waits inside of Gloo or NCCL."""
    if speaks and sys.__stderr__ is not None:
        print(f"senet: {said}", file=sys.__stderr__, flush=True)
    os._exit(STATUS)


@contextmanager
def watching_others(num_processes: int, minutes: float | None, remedy: str) -> Iterator[None]:
    """End this process, in one sentence, when another one that works with it is lost.

    A connection that breaks, as that to a killed process does, raises an error. Silence counts too on several machines,
    and where no torchrun ends the others when one ends. For that all processes come here at about the same time, and in
    the same order if they come again.

    Args:
        num_processes: that work together; nothing is done for one.
        minutes: of silence; None to wait for a silent process too.
        remedy: what can be done, the end of the sentence.

    Raises:
        SenetError: the connection to another process has broken.
    """
    if num_processes == 1:
        yield
        return
    address, watch = store_address(), None
    if minutes is not None and address and (on_several_machines() or not by_torchrun()):
        watch = Watch(address, dist.get_rank(), num_processes, minutes * 60, remedy, end_process)
        watch.thread.start()
    try:
        yield
    except RuntimeError as error:
        if not is_broken(error):
            raise
        raise SenetError(
            f"the connection to another process has broken, so that process or its machine has failed; {remedy}"
        ) from error
    finally:
        if watch is not None:
            watch.leave()


def is_broken(error: RuntimeError) -> bool:
    """Return whether an error says that another process, or the way to it, is gone."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)
