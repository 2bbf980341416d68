"""What torchrun or `accelerate launch` tells each of the processes that it starts."""

import os


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
