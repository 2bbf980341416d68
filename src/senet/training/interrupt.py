"""Stopping a run by a signal, at a moment when it can be saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class TrainingInterrupted(KeyboardInterrupt):
    """A signal, such as that of Ctrl-C, stopped the run; its state is saved, and `senet.resume` goes on.

    Args:
        signum: the signal's number.
        message: where the run stands and how it goes on.
    """

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of letting them end the process.

    A second Ctrl-C acts as usual. A second SIGTERM does not: `timeout` sends two, and so do batch systems that signal
    every process besides torchrun, which passes its own on.
    """
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def catch(signum: int, frame: FrameType | None) -> None:
        caught.append(signum)
        signal.signal(signal.SIGINT, previous[signal.SIGINT])

    try:
        for number in map(int, (signal.SIGINT, signal.SIGTERM)):
            previous[number] = signal.signal(number, catch)
    except ValueError:  # not the main thread: signals are somebody else's
        previous.clear()
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
