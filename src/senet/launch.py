"""What torchrun or `accelerate launch` tells each of the processes that it starts, and the store that all share."""

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

from senet.errors import SenetError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

FAILURES = "senet/failures"
"""A counter in the store."""
START: list[str] = []
"""The name of this start of the processes, once they have agreed on one: see `senet.restarts`."""
ANSWER_S = 20.0
"""Within which a store answers that can be reached."""


def told(name: str, default: int) -> int:
    """Return a number of the environment.

    Raises:
        SenetError: it is none.
    """
    value = os.environ.get(name)
    if value is not None and not value.isdecimal():
        raise SenetError(f"{name} is {value!r}; expected a whole number; unset it, or start by torchrun")
    return default if value is None else int(value)


def num_started() -> int:
    """Return the number of processes that were started together."""
    return told("WORLD_SIZE", 1)


def check_rank() -> None:
    """Raise a SenetError for a process whose number is none of those that were started."""
    rank, number = told("RANK", 0), num_started()
    if rank >= number > 1:
        raise SenetError(f"RANK is {rank}, but WORLD_SIZE is {number}; expected 0 to {number - 1}; start by torchrun")


def by_torchrun() -> bool:
    """Return whether torchrun watches over the processes, and keeps their store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def is_first() -> bool:
    """Return whether this process is the only one, or the first of several, which prints and writes for all."""
    return num_started() == 1 or os.environ.get("RANK", "0") == "0"


def local_rank() -> int:
    """Return the number of this process among those on its machine, from 0."""
    return told("LOCAL_RANK", 0)


def num_on_machine() -> int:
    """Return the number of processes that were started on this machine."""
    return told("LOCAL_WORLD_SIZE", num_started())


def job() -> str:
    """Return what all processes of one start of torchrun have in common, also those that it starts again later.

    That is the id of its rendezvous, or without one torchrun itself; empty for processes that torchrun did not start.
    """
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if run != "none":
        return run
    return f"{socket.gethostname()} {os.getppid()} {os.environ.get('MASTER_PORT')}"


def on_several_machines() -> bool:
    """Return whether other machines have processes of the same start."""
    return num_on_machine() < num_started()


# ---- the store that all processes share ------------------------------------------------------------------------------


def store_address() -> tuple[str, int] | None:
    """Return host and port of the store, which torchrun keeps on the first machine; None where nothing names it."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    return (address, int(port)) if address and port.isdecimal() else None


def connected_store(address: tuple[str, int], seconds: float = ANSWER_S) -> "Store":
    """Return the store over a connection of its own; after a restart by torchrun it is as if empty.

    Args:
        address: host and port.
        seconds: in which it must answer.

    Raises:
        RuntimeError: it cannot be reached.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import PrefixStore

    store = TCPStore(*address, is_master=False, timeout=timedelta(seconds=seconds))
    return PrefixStore(START[-1] if START else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def first_to_fail() -> bool:
    """Count this process's failure; return whether it is the first one, which is reported.

    Where no store can be reached, the first process of each machine reports its failure; and the second of all, if the
    store was in the first, which is gone then.
    """
    try:
        return num_started() == 1 or count_failure() == 1
    except SenetError:  # of the environment
        return True
    except RuntimeError:  # there is no store, or no longer, or this machine is cut off
        from torch.distributed import is_initialized

        stands_in = is_initialized() and not by_torchrun() and told("RANK", 0) == local_rank() == 1
        return local_rank() == 0 or stands_in


def count_failure() -> int:
    """Count a failure in the store: torchrun's, else that of the process group.

    Raises:
        RuntimeError: there is no store, or it cannot be reached.
    """
    from torch.distributed import is_initialized
    from torch.distributed.distributed_c10d import _get_default_store

    address = store_address()
    if address and by_torchrun():
        return int(connected_store(address).add(FAILURES, 1))
    if not is_initialized():
        raise RuntimeError("there is no store yet")
    return int(_get_default_store().add(FAILURES, 1))
