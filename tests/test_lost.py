"""Processes on other machines that are lost: what is noticed, who says it, and what is waited for.

The whole of it, with two hosts and a cable, is in tests/training/test_two_hosts.py.
"""

import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.distributed as dist

from drivers import ENVIRONMENT
from senet import launch, lost
from senet.errors import SenetError
from senet.lost import Watch, watching_others
from senet.processes import PATIENCE, Team, be_patient, shared_work
from stopping import wait_for

NOWHERE = ("127.0.0.1", 9)


class EndedError(Exception):
    """What ends a process here, with what is said and whether this process says it."""


def end(said: str, speaks: bool) -> None:
    raise EndedError(said, speaks)


@pytest.fixture
def team(monkeypatch):
    """Three watches that are looked through by hand, in a store of this process, one second apart."""
    monkeypatch.setattr(lost, "USES", iter([0, 0, 0]))
    monkeypatch.setattr(lost, "first_to_fail", lambda: True)
    monkeypatch.setattr(Watch, "passed", lambda watch: 1.0)
    return dist.HashStore(), [Watch(NOWHERE, rank, 3, 10, "resume", end) for rank in range(3)]


def test_those_that_give_signs_of_life_are_waited_for(team):
    store, watches = team
    for _ in range(50):
        for watch in watches:
            watch.look(store)


def sentence_of(watch, store):
    """Return what a process says that ends in one of the next looks."""
    for _ in range(3):
        try:
            watch.look(store)
        except EndedError as ended:
            return ended.args[0]
    return None


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_one_that_is_silent_is_named_to_all(team, silent):
    """The first is missed by the others, and others by the first, who tells them."""
    store, watches = team
    for watch in watches:
        watch.look(store)
    watches.pop(silent)
    for _ in range(9):
        for watch in watches:
            watch.look(store)
    said = {sentence_of(watch, store) for watch in watches}
    assert len(said) == 1
    assert f"process {silent} on {os.uname().nodename} has given no sign of life for 10 s: " in said.pop()


def test_one_that_has_left_is_not_missed(team):
    store, watches = team
    for watch in watches:
        watch.look(store)
    for watch in (watches.pop(), watches.pop(0)):
        store.add(watch.key(watch.rank), lost.LEFT)
    for _ in range(50):
        watches[0].look(store)


def test_the_time_in_which_a_process_was_stopped_does_not_count(monkeypatch):
    """Else one that goes on after a pause of the machine would take the others for lost."""
    watch = Watch(NOWHERE, 0, 2, 10, "resume", end)
    now = watch.looked
    monkeypatch.setattr(lost.time, "monotonic", lambda: now + 3600)
    assert watch.passed() == 2 * watch.interval == 2


def test_a_store_that_does_not_answer_is_a_machine_cut_off(monkeypatch):
    """It takes the connection and says nothing, as one does whose cable is cut."""
    monkeypatch.setattr(lost, "ANSWER_S", 2.0)
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch = Watch(server.getsockname(), 1, 2, 1, "resume", lambda *words: heard.append(words))
        watch.thread.start()
        wait_for(lambda: heard)
        watch.leave()
    assert "has not answered for 1 s: this machine is cut off from the others" in heard[0][0]
    assert heard[0][1]  # nobody can be asked whether it has been said: the first process of each machine says it


def test_a_store_that_is_gone_is_looked_for_again_before_it_counts(monkeypatch):
    heard, times = [], []
    monkeypatch.setattr(lost, "connected_store", lambda *arguments: times.append(1) or refuse())
    watch = Watch(NOWHERE, 1, 2, 1, "resume", lambda *words: heard.append(words))
    watch.thread.start()
    wait_for(lambda: heard)
    watch.leave()
    assert len(times) > 5
    assert "has not answered for 1 s" in heard[0][0]


def refuse():
    raise dist.DistNetworkError("connection refused")


def test_a_process_that_leaves_tells_the_store(monkeypatch):
    store = dist.HashStore()
    monkeypatch.setattr(lost, "connected_store", lambda *arguments: store)
    watch = Watch(NOWHERE, 1, 2, 10, "resume", end)
    watch.thread.start()
    wait_for(lambda: store.add(watch.key(1), 0) > 0)
    watch.leave()
    assert store.add(watch.key(1), 0) > lost.LEFT
    assert not watch.thread.is_alive()
    watch.decide("too late")


def test_a_process_waits_for_others_on_its_own_machine_without_a_watch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "9")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # torchrun ends it when another one ends
    before = threading.active_count()
    with watching_others(2, 5, "resume"):
        assert threading.active_count() == before


@pytest.mark.parametrize("error", [RuntimeError("[/gloo/transport/tcp/pair.cc:1] Connection closed"), dist.DistError()])
def test_a_broken_connection_is_one_sentence(error):
    with (
        pytest.raises(SenetError, match=r"connection to another process has broken.*; resume"),
        watching_others(2, None, "resume"),
    ):
        raise error


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes") as found, watching_others(2, None, "resume"):
        raise RuntimeError("shapes do not fit")
    assert not isinstance(found.value, SenetError)


# ---- two processes ---------------------------------------------------------------------------------------------------


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    be_patient()
    team = Team(2)
    for group in (dist.group.WORLD, team.group):
        assert group._get_backend(torch.device("cpu")).options._timeout == PATIENCE
    try:
        with shared_work() as shared:
            shared.meet()
            if rank == 1:
                os._exit(0)  # as killed
            dist.all_reduce(torch.ones(10))
    except SenetError as error:
        (folder / "said").write_text(str(error))
    os._exit(0)


def test_a_killed_process_is_noticed_by_one_that_waits_for_it(tmp_path):
    torch.multiprocessing.start_processes(one_of_two, (tmp_path,), nprocs=2, start_method="fork")
    said = (tmp_path / "said").read_text()
    assert said.endswith("has broken, so that process or its machine has failed; start all processes again")


@pytest.mark.slow
def test_where_the_first_process_is_killed_the_second_says_so(tmp_path):
    """Without torchrun the store is the first process's, and is gone with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    words = ["train", "digits", "--output", str(tmp_path / "run"), "--compute.cpu", "--epochs", "500"]
    both = []
    for rank in "01":
        told = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
            "RANK": rank,
            "LOCAL_RANK": rank,
        }
        options = {"env": ENVIRONMENT | told, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        both.append(subprocess.Popen([sys.executable, "-m", "senet", *words], **options))
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert [each.poll() for each in both] == [None, None]
            time.sleep(0.1)
        both[0].kill()
        said = both[1].communicate(timeout=120)[1]
    finally:
        for each in both:
            each.kill()
            each.wait()
    assert both[1].returncode == 2
    sentences = [line for line in said.splitlines() if line.startswith("senet: ")]
    assert len(sentences) == 1, said
    assert "start all processes again with `senet train --resume " in sentences[0]
    assert "frame #" not in said


@pytest.mark.parametrize(("rank", "local_rank", "speaks"), [(1, 1, True), (2, 2, False), (4, 0, True), (5, 1, False)])
def test_who_speaks_when_the_store_is_gone_with_the_first_process(rank, local_rank, speaks, monkeypatch):
    for name, value in {"WORLD_SIZE": 8, "RANK": rank, "LOCAL_RANK": local_rank}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)

    def gone():
        raise RuntimeError("the store is gone")

    monkeypatch.setattr(launch, "count_failure", gone)
    assert launch.first_to_fail() == speaks
