"""Output of several processes that torchrun started: the first one prints, and only the first failure is reported."""

import contextlib
import faulthandler
import logging
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

FAILURES = "senet/failures"
"""A counter in the processes' store."""


def num_started() -> int:
    """Return the number of processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the only one, or the first of several, which prints for all."""
    return num_started() == 1 or os.environ.get("RANK", "0") == "0"


def launcher() -> str:
    """Return the torchrun command that starts as many processes on this machine; empty for one process."""
    if num_started() == 1:
        return ""
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', num_started())} -m "


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


def stacks_on_request() -> None:
    """Let SIGUSR1 print the stacks of all threads, in every process: a run writes them into its folder instead.

    The file descriptor is that of the process, which `only_first_prints` leaves as it is.
    """
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows; a standard error that is closed
        if sys.__stderr__ is not None and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)


def first_to_fail() -> bool:
    """Count this process's failure; return whether it is the first one, which is reported."""
    if num_started() == 1:
        return True
    try:
        return count_failure() == 1
    except RuntimeError:  # there is no store, or no longer
        return is_first()


def count_failure() -> int:
    """Count a failure in the store that all processes share: torchrun's, else that of the process group.

    Raises:
        RuntimeError: there is no store, or it cannot be reached.
    """
    from torch.distributed import TCPStore, is_initialized  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

    store: Store
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        shared = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=20))
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), shared)
    elif is_initialized():
        store = _get_default_store()
    else:
        raise RuntimeError("there is no store yet")
    return int(store.add(FAILURES, 1))
