"""Commands in several processes that torchrun started: one prints, and only the first failure is reported."""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from senet.errors import warn
from senet.launch import is_first, num_on_machine, num_started, on_several_machines

if TYPE_CHECKING:
    from senet.cli.parsing import Command

SIGNALED = 128
"""Statuses above it are those of signals, after which nobody waits for anybody."""


def run_together(command: "Command", name: str) -> None:
    """Run a command in this process, in the way in which it works in several.

    Args:
        command: with its arguments.
        name: as it is typed.
    """
    if num_started() == 1 or command.in_processes == "train":
        command.run()
    elif command.in_processes == "share":
        from senet.processes import shared_work

        ending: SystemExit | None = None
        with shared_work():
            try:
                command.run()
            except SystemExit as stop:
                if not isinstance(stop.code, int) or stop.code > SIGNALED:
                    raise
                ending = stop  # the first one's status 1 after inputs were skipped: the others leave together with it
        if ending is not None:
            raise ending
    elif is_first():
        warn(f"`senet {name}` works in one process: the first of {num_started()} does all, and the others nothing")
        command.run()


def launcher() -> str:
    """Return the torchrun command that starts as many processes; empty for one process.

    Of several machines, where each has its own number, the dots stand for what says where they meet.
    """
    machines = f"--nnodes {num_started() // num_on_machine()} ... " if on_several_machines() else ""
    return "" if num_started() == 1 else f"torchrun {machines}--nproc-per-node {num_on_machine()} -m "


@contextlib.contextmanager
def only_first_prints() -> Iterator[None]:
    """Suppress output and warnings of all processes but the first."""
    if is_first():
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def without_frames() -> None:
    """Let PyTorch's C++ part leave out its warnings, each with a stack, of a store that is gone with its process.

    What has happened is said in a sentence. Only before PyTorch is imported this has an effect; a level that the
    environment has stays.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def stacks_on_request() -> None:
    """Let SIGUSR1 print the stacks of all threads, in every process: a run writes them into its folder instead.

    The file descriptor is that of the process, which `only_first_prints` leaves as it is.
    """
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows; a standard error that is closed
        if sys.__stderr__ is not None and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
