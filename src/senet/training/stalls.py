"""Where a run stands still: the stacks of all its threads, on a signal, and by itself after a long time without a step.

Each process has a file, for under torchrun only the first one prints: stacks/processN.txt in the run folder.
"""

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

STACKS_FOLDER = "stacks"
HEADING = "`kill -USR1 "
"""How the first line of a process begins, before there are stacks."""
SIGNAL = getattr(signal, "SIGUSR1", None)
"""Which Windows has not; there stacks are written by themselves only."""


class Stalls:
    """Writes the stacks of one process of a run.

    Args:
        folder: of the run.
        process: from 0.
        minutes: without a step after which they are written by themselves, once; None for never.
        say: takes the sentences about it.

    Attributes:
        doing: what the process is at, in words.
    """

    def __init__(self, folder: Path, process: int, minutes: float | None, say: Callable[[str], None]) -> None:
        self.path, self.process = folder / STACKS_FOLDER / f"process{process}.txt", process
        self.seconds, self.say = None if minutes is None else minutes * 60, say
        self.last, self.doing = time.monotonic(), "starting"
        self.ended = threading.Event()

    def beat(self, doing: str) -> None:
        """Note that the process gets on.

        Args:
            doing: what it is at from now on.
        """
        self.last, self.doing = time.monotonic(), doing

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Write stacks inside, into a file that is removed at the end if there are none; nothing where it cannot be."""
        file = None
        try:
            self.path.parent.mkdir(exist_ok=True)
            mode = "a" if has_stacks(self.path) else "w"
            file = self.path.open(mode, buffering=1)  # no text is left to a full disk at the end
            before = file.tell()
            print(
                f"{HEADING}{os.getpid()}` on {os.uname().nodename if hasattr(os, 'uname') else 'this machine'} "
                f"writes the stacks of process {self.process} here:",
                file=file,
            )
            empty = file.tell()
        except OSError:
            if file is not None:
                with suppress(OSError):  # it tries to write again
                    file.close()
            yield
            return
        self.beat("starting")
        watch = threading.Thread(target=self.watch, args=[file], name="senet-stalls", daemon=True)
        with file, stacks_on_signal(file):
            watch.start()
            try:
                yield
            finally:
                self.ended.set()
                watch.join()
                if os.fstat(file.fileno()).st_size == empty:
                    file.truncate(before)
        with suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()
                self.path.parent.rmdir()

    def watch(self, file: IO[str]) -> None:
        """Write the stacks when there has been no step for too long; once, for they would say the same again."""
        if self.seconds is None:
            return
        while not self.ended.wait(min(self.seconds / 10, 10.0)):
            started, doing = self.last, self.doing
            if time.monotonic() - started < self.seconds:
                continue
            what = f"no step for {time.monotonic() - started:.0f} s in process {self.process}, which is {doing}"
            with suppress(OSError):  # a full disk
                print(f"{what}:", file=file)
                faulthandler.dump_traceback(file, all_threads=True)
            self.say(f"{what}; {self.path} has the stacks of its threads")
            while self.last == started and not self.ended.wait(min(self.seconds / 10, 10.0)):
                pass
            if self.last != started:
                self.say(f"goes on, after {self.last - started:.0f} s without a step")
            return


def has_stacks(path: Path) -> bool:
    """Return whether a file holds more than the headings that killed processes have left."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return any(not line.startswith(HEADING) for line in lines)


@contextmanager
def stacks_on_signal(file: IO[str]) -> Iterator[None]:
    """Let SIGUSR1 write the stacks of all threads into a file; a handler of the program is called too.

    faulthandler does it in C, so that a process answers that hangs in a library.
    """
    if SIGNAL is None:
        yield
        return
    handler = signal.getsignal(SIGNAL)
    is_handled = handler not in (signal.SIG_DFL, signal.SIG_IGN, None)
    on_stderr = faulthandler.unregister(SIGNAL)  # type: ignore[func-returns-value]  # as the command line has it
    if on_stderr and is_handled:  # the program's came later, and has just been replaced by what was before both
        with suppress(ValueError):  # not the main thread
            signal.signal(SIGNAL, handler)
    faulthandler.register(SIGNAL, file=file, all_threads=True, chain=is_handled)
    enlarge_signal_stack()
    try:
        yield
    finally:
        faulthandler.unregister(SIGNAL)
        if on_stderr and not is_handled and sys.__stderr__ is not None:
            faulthandler.register(SIGNAL, file=sys.__stderr__, all_threads=True)


class SignalStack(ctypes.Structure):
    """Linux's stack_t: where the handlers of signals have their stack."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


SIGNAL_STACK = ctypes.create_string_buffer(1 << 18)
"""For two handlers, of which one calls the other, with all registers of the largest processors (AMX: 11 kB each)."""


def enlarge_signal_stack() -> None:
    """Give the handlers of signals in this thread more room, on Linux: one that overflows its stack ends the process.

    faulthandler's stack is 8 kB larger than what the registers take, and other libraries set smaller ones.
    """
    if sys.platform != "linux":
        return
    place = ctypes.cast(SIGNAL_STACK, ctypes.c_void_p).value
    ctypes.CDLL(None).sigaltstack(ctypes.byref(SignalStack(place, 0, len(SIGNAL_STACK))), None)
