"""What torchrun or `accelerate launch` tells each of the processes that it starts."""

import os
import socket


def num_started() -> int:
    """Return the number of processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Return whether this process is the only one, or the first of several, which prints and writes for all."""
    return num_started() == 1 or os.environ.get("RANK", "0") == "0"


def local_rank() -> int:
    """Return the number of this process among those on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def num_on_machine() -> int:
    """Return the number of processes that were started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", num_started()))


def job() -> str:
    """Return what all processes of one start of torchrun have in common, also those that it starts again later.

    That is the id of its rendezvous, or without one torchrun itself; empty for processes that torchrun did not start.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if run != "none":
        return run
    return f"{socket.gethostname()} {os.getppid()} {os.environ.get('MASTER_PORT')}"
