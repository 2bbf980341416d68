"""Commands in forks of this process, which has PyTorch and this library imported: each starts at once, and is killed.

A fork is killed by SIGKILL at a moment; by itself before or after its k-th operation on files; or by the system in the
middle of a write, when a file would grow beyond a size. What it was at is in memory that both share. Needs Linux.
"""

import builtins
import importlib
import io
import mmap
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from senet.cli import main

PHASES = {
    "senet.cli.run_together": "computing",
    "senet.training.run.RunFolder.load_state": "resuming",
    "senet.training.trainer.Trainer.restore": "resuming",
    "senet.training.trainer.Trainer.train_epoch": "step",
    "senet.training.trainer.Trainer.evaluate": "evaluation",
    "senet.training.run.RunFolder.append_metrics": "saving",
    "senet.training.run.RunFolder.save": "saving",
    "senet.data.sharding.check_shard": "comparing",
    "senet.deployment.exporting.prove": "comparing",
}
"""What a process is at while a function runs; the innermost counts. Before any of them it is "starting"."""
OPERATIONS = ("replace", "rename", "fsync", "unlink", "remove", "mkdir", "rmdir", "link", "symlink")
"""Functions of `os` that count as operations on files, besides opening a file to write it."""
NUMBERS, LETTERS = struct.Struct("qq"), 240
PATIENCE_S = 1800.0
"""After which a process is taken to hang; on a busy machine all takes long."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """How a process is killed; by none of these it is not.

    Args:
        seconds: after its start, by SIGKILL.
        operation: at which of its operations on files, from 1, by SIGKILL.
        is_before: before this operation is done, instead of after.
        file_bytes: in the write by which a file would grow beyond this size, of which the first part is written.
    """

    seconds: float | None = None
    operation: int | None = None
    is_before: bool = False
    file_bytes: int | None = None


class Watch:
    """What a process is at: memory that its parent shares, and reads also after it is dead."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, NUMBERS.size + LETTERS)

    @property
    def numbers(self) -> tuple[int, int]:
        """Operations on files, and steps of training, so far."""
        operations, steps = NUMBERS.unpack_from(self.memory)
        return operations, steps

    def count(self, *, operations: int = 0, steps: int = 0) -> int:
        """Add to the numbers, and return that of the operations."""
        before = self.numbers
        NUMBERS.pack_into(self.memory, 0, before[0] + operations, before[1] + steps)
        return before[0] + operations

    @property
    def phase(self) -> str:
        """What the process is at, or was when it was killed."""
        return self.memory[NUMBERS.size :].rstrip(b"\0").decode(errors="replace")

    @phase.setter
    def phase(self, text: str) -> None:
        self.memory[NUMBERS.size :] = text.encode()[:LETTERS].ljust(LETTERS, b"\0")

    def during(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        """Return a function that says, while it runs, what the process is at."""

        @wraps(function)
        def said(*args: Any, **options: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return function(*args, **options)
            finally:
                self.phase = before

        return said


class Process:
    """A command of `senet` in a fork of this process.

    Args:
        argv: its arguments.
        folder: in which it works.
        fault: how it is killed.
    """

    def __init__(self, argv: Sequence[str], folder: Path, fault: Fault | None = None) -> None:
        self.fault, self.watch, self.output = fault or Fault(), Watch(), b""
        self.watch.phase = "starting"
        self.status: int | None = None
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        sys.stdout.flush()
        sys.stderr.flush()
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self.be_command(argv, folder, writing)
        os.close(writing)
        self.pipe, self.handle = reading, os.pidfd_open(self.pid)

    def be_command(self, argv: Sequence[str], folder: Path, writing: int) -> None:
        """Run the command, in the fork, and end it."""
        status = 70
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.chdir(folder)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, file in enumerate((nothing, writing, writing)):
                os.dup2(file, number)
            sys.stdout, sys.stderr = (
                io.TextIOWrapper(io.FileIO(number, "w"), line_buffering=True) for number in (1, 2)
            )
            observe(self.watch, self.fault, f"{folder}{os.sep}")
            status = main(argv)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    @property
    def said(self) -> str:
        """What the command has printed so far."""
        with suppress(BlockingIOError):
            while more := os.read(self.pipe, 2**16):
                self.output += more
        return self.output.decode(errors="replace")

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Wait for its end, or kill it at the moment of its fault; return the exit status, -9 for SIGKILL.

        Raises:
            TimeoutError: it did not end in time.
        """
        at = self.fault.seconds
        if at is not None and not self.ends_within(at - self.seconds):
            self.kill()
        if not self.ends_within(seconds):
            self.kill()
            raise TimeoutError(f"no end after {seconds:.0f} s: {self.said[-300:]}")
        assert self.status is not None
        return self.status

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but not longer."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            ready, _, _ = select.select([self.handle, self.pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            if self.pipe in ready and not self.read_some():
                select.select([self.handle], [], [], max(0.0, deadline - time.monotonic()))
            if select.select([self.handle], [], [], 0)[0]:
                _, status = os.waitpid(self.pid, 0)
                self.status = os.waitstatus_to_exitcode(status)
        return True

    def read_some(self) -> bool:
        """Read what there is to read; return whether there may be more."""
        with suppress(BlockingIOError):
            more = os.read(self.pipe, 2**16)
            self.output += more
            return bool(more)
        return True

    def kill(self) -> None:
        """Kill it alone, by SIGKILL: processes that it has started live on."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.ends_within(60)

    def close(self) -> None:
        """End it, and what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ends_within(60)
        _ = self.said
        for file in (self.pipe, self.handle):
            os.close(file)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def was_killed(self) -> bool:
        """Whether a signal has ended it."""
        return self.status is not None and self.status < 0


# ---- in the fork -----------------------------------------------------------------------------------------------------


def observe(watch: Watch, fault: Fault, inside: str) -> None:
    """Let this process say what it is at, count its operations on files, and be killed.

    Args:
        watch: where it says so.
        fault: see `Fault`; a moment is left to the parent.
        inside: how the paths of the files begin whose operations count.
    """
    for place, phase in PHASES.items():
        owner, name = found(place)
        setattr(owner, name, watch.during(getattr(owner, name), phase))
    owner, name = found("senet.training.trainer.Trainer.take_step")
    setattr(owner, name, followed(getattr(owner, name), watch))
    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name), watch, fault, inside))
    opening = counted(io.open, watch, fault, inside)
    setattr(io, "open", opening)  # noqa: B010  # mypy knows it as a function
    setattr(builtins, "open", opening)  # noqa: B010
    if fault.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_bytes, fault.file_bytes))


def found(place: str) -> tuple[Any, str]:
    """Return the module or class in which a dotted name is, and its last part."""
    path, _, name = place.rpartition(".")
    try:
        return importlib.import_module(path), name
    except ModuleNotFoundError:
        module, _, kind = path.rpartition(".")
        return getattr(importlib.import_module(module), kind), name


def followed(step: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    """Return a training step that is counted."""

    @wraps(step)
    def run(*args: Any, **options: Any) -> Any:
        result = step(*args, **options)
        watch.count(steps=1)
        return result

    return run


def counted(operation: Callable[..., Any], watch: Watch, fault: Fault, inside: str) -> Callable[..., Any]:
    """Return an operation on files that is counted, and at which the process kills itself if it is the one."""
    name = operation.__name__

    @wraps(operation)
    def run(*args: Any, **options: Any) -> Any:
        mode = (args[1] if len(args) > 1 else options.get("mode", "r")) if name == "open" else "w"
        path = path_of(args[0]) if args else ""
        if not path.startswith(inside) or not set(str(mode)) & set("wax+"):
            return operation(*args, **options)
        number, before = watch.count(operations=1), watch.phase
        watch.phase = f"{before}: {name} {Path(path).name}"
        if number == fault.operation and fault.is_before:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return operation(*args, **options)
        finally:
            if number == fault.operation:
                os.kill(os.getpid(), signal.SIGKILL)
            watch.phase = before

    return run


def path_of(file: Any) -> str:
    """Return the whole path of a file that is given by its path or its number; empty if it has none."""
    try:
        found = (
            Path(f"/proc/self/fd/{file}").readlink() if isinstance(file, int) else Path(os.fsdecode(file)).absolute()
        )
        return str(found)
    except (OSError, TypeError):
        return ""
