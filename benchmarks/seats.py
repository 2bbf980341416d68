"""Contestants in processes of their own, prepared side by side and timed in turn.

A contestant that raises, hangs, or breaks its GPU context is recorded and leaves the others alone; compilers of several
contestants run at the same time, on as many cores.

A contestant is built in its seat, a process, by a function that can be pickled and returns a `Ready`.
"""

import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

Build = Callable[[], "Ready"]


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A contestant that can be timed.

    Args:
        run: what is timed; None where building it was all that is to be done.
        facts: what else is known of it, for JSON.
    """

    run: Callable[[], object] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class SeatError(Exception):
    """A contestant failed; the message says how in one line."""


def wait_for_device() -> None:
    """Wait until the GPU has done its work, where there is one in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], object], calls: int) -> float:
    """Return the seconds of a call."""
    wait_for_device()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    wait_for_device()
    return (time.perf_counter() - start) / calls


def build(make: Build) -> Ready:
    """Build a contestant, and note how long it took."""
    start = time.perf_counter()
    ready = make()
    wait_for_device()
    return Ready(run=ready.run, facts={**ready.facts, "prepared_s": round(time.perf_counter() - start, 2)})


def serve(pipe: Connection) -> None:
    """Do what the parent asks until it hangs up or something fails: an error may have broken the GPU's context."""
    ready = Ready()
    while True:
        try:
            command, value = pipe.recv()
        except EOFError:
            return
        try:
            if command == "build":
                ready = Ready()
                gc.collect()
                ready = build(value)
                answer: Any = ready.facts
            else:
                assert ready.run is not None
                answer = seconds_of(ready.run, value)
        except Exception as error:
            answer = SeatError(f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:300])
        try:
            pipe.send(answer)
        except OSError:  # the parent waits no longer
            return
        if isinstance(answer, SeatError):
            return


class Seat:
    """A process in which one contestant after another is built and timed; it is started again after a failure."""

    def __init__(self) -> None:
        self.process: Any = None
        self.pipe: Connection | None = None
        self.asked = 0.0

    def start(self) -> None:
        """Start the process, if there is none."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")  # a forked process could not use CUDA
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other,))
            self.process.start()
            other.close()

    def ask(self, command: str, value: object) -> None:
        """Begin something; `answer` waits for it."""
        self.start()
        assert self.pipe is not None
        self.asked = time.monotonic()
        try:
            self.pipe.send((command, value))
        except OSError:
            self.stop()
            raise SeatError("the process ended") from None

    def answer(self, deadline: float) -> Any:
        """Return the answer.

        Args:
            deadline: by time.monotonic(); a process that has not answered by then is killed.

        Raises:
            SeatError: the contestant failed.
        """
        assert self.pipe is not None
        try:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                self.stop()
                raise SeatError(f"no answer within {time.monotonic() - self.asked:.0f} s; the process was killed")
            found = self.pipe.recv()
        except (EOFError, OSError):
            status = self.stop()
            raise SeatError(f"the process ended with status {status}") from None
        if isinstance(found, SeatError):
            self.stop()
            raise found
        return found

    def stop(self) -> int | None:
        """End the process and return its exit status."""
        if self.process is None:
            return None
        assert self.pipe is not None
        self.pipe.close()
        self.process.join(timeout=2)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        status: int | None = self.process.exitcode
        self.process = self.pipe = None
        return status


class Group:
    """Contestants that are compared with one another.

    Args:
        seats: by name, one for each contestant.
        builds: the contestants by name.

    Attributes:
        facts: of each contestant that was built.
        errors: why others failed.
        seconds: of a call in each round, by name.
    """

    def __init__(self, seats: Mapping[str, Seat], builds: Mapping[str, Build]) -> None:
        self.seats, self.builds = seats, builds
        self.facts: dict[str, Any] = {}
        self.errors: dict[str, str] = {}
        self.seconds: dict[str, list[float]] = {}

    def ask(self) -> None:
        """Begin to build all contestants."""
        for name, make in self.builds.items():
            with Failures(self.errors, name):
                self.seats[name].ask("build", make)

    def collect(self, deadline: float) -> None:
        """Wait until all are built."""
        for name in self.builds:
            if name not in self.errors:
                with Failures(self.errors, name):
                    self.facts[name] = self.seats[name].answer(deadline)

    def take_turns(self, rounds: int, calls: int, deadline: float) -> None:
        """Time every contestant once a round, every other round backwards; the first round is not counted.

        Args:
            rounds: at least 1; fewer if the deadline comes first.
            calls: of a contestant in a round.
            deadline: by time.monotonic().
        """
        order = [name for name in self.builds if name in self.facts]
        for number in range(rounds + 1):
            if number > 1 and time.monotonic() > deadline - 1:
                break
            for name in order if number % 2 == 0 else reversed(order):
                if name not in self.errors:
                    with Failures(self.errors, name):
                        self.seats[name].ask("time", calls)
                        seconds = self.seats[name].answer(deadline)
                        if number:
                            self.seconds.setdefault(name, []).append(seconds)


class Failures:
    """Notes the failure of a contestant and goes on."""

    def __init__(self, errors: dict[str, str], name: str) -> None:
        self.errors, self.name = errors, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, SeatError):
            return False
        self.errors[self.name] = str(error)
        print(f"{self.name}: {error}", flush=True)
        return True
