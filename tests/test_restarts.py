"""A name that the processes of one start agree on, in a store that former starts have left full."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from senet.restarts import agreed_name, fresh_store


def names(store, size):
    """Let the last processes come first, so that they find what former ones have left."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: agreed_name(store, rank, size, 20.0), reversed(range(size))))


def test_each_start_has_a_name_of_its_own_that_all_its_processes_know():
    """Three starts in one store, of other numbers of processes, one of which was left in the middle."""
    store, found = HashStore(), []
    for size in (4, 2, 3):
        of_start = names(store, size)
        assert len(set(of_start)) == 1
        found.append(of_start[0])
        with pytest.raises(RuntimeError, match="not all 2 processes have come"):
            agreed_name(store, 1, 2, 0.05)  # asks, and is killed before an answer
    assert len(set(found)) == 3


def test_a_process_waits_for_the_others_and_says_that_they_do_not_come():
    with pytest.raises(RuntimeError, match=r"not all 3 processes have come within 0\.05 s"):
        agreed_name(HashStore(), 0, 3, 0.05)


def test_without_torchruns_store_there_is_nothing_to_agree_on(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert fresh_store(1.0) is None
