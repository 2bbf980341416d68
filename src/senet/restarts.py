"""A store that is empty each time that torchrun starts the processes, though torchrun keeps one through all restarts.

PyTorch takes torchrun's store for a new one at each restart (torch/distributed/rendezvous.py, "We create a new TCPStore
for every retry"), which it is no longer since torchrun shares it between rounds of a rendezvous: a process may then
read where a dead one has listened, and cannot connect. Counts of former processes would be wrong as well. The number
of restarts tells the rounds apart on one machine only: each machine counts its own, and none those by which the number
of machines changes. So the first process makes up a name, and answers each of the others that asks for it.
"""

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from senet.launch import START, by_torchrun, num_started

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PAUSE_S = 0.01
"""Between two looks at the store."""


def fresh_store(seconds: float) -> "Store | None":
    """Return the store of this start; None where PyTorch makes a new one by itself.

    Args:
        seconds: to wait for the other processes.

    Raises:
        RuntimeError: torchrun's store cannot be reached, or the other processes do not come.
    """
    if not by_torchrun():
        return None
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import PrefixStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
    name = agreed_name(PrefixStore("senet/starts", store), int(os.environ["RANK"]), num_started(), seconds)
    START.append(name)
    return PrefixStore(f"senet/{name}", store)


def agreed_name(store: Any, rank: int, size: int, seconds: float) -> str:
    """Return a name that the processes of this start have in common, and those of no other.

    What former processes have left in the store is told from what is new by numbers that nobody has drawn before.

    Args:
        store: that of all starts.
        rank: of this process.
        size: number of processes.
        seconds: to wait for the others.

    Raises:
        RuntimeError: they do not come.
    """
    own, name, deadline = uuid4().hex, "", time.monotonic() + seconds
    missing = set(range(1, size))
    answered: dict[int, str] = {}
    if rank:
        store.set(f"question of {rank}", own)
    while not name:
        if rank:
            question, _, answer = read(store, f"answer to {rank}").partition(" ")
            name = answer if question == own else ""
        else:
            for other in sorted(missing):
                question = read(store, f"question of {other}")
                if question and answered.get(other) != question:
                    answered[other] = question
                    store.set(f"answer to {other}", f"{question} {own}")
                if read(store, f"name of {other}") == own:
                    missing.remove(other)
            name = "" if missing else own
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all {size} processes have come within {seconds:g} s")
        time.sleep(0.0 if name else PAUSE_S)
    store.set(f"name of {rank}", name)
    return name


def read(store: Any, key: str) -> str:
    """Return what stands in a store; empty if nothing does."""
    return str(store.get(key).decode()) if store.check([key]) else ""
