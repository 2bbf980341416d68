"""A run that stands still says where, when it is asked and by itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drivers import command
from senet.cli.processes import stacks_on_request
from senet.training.stalls import Stalls
from stopping import wait_for

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")


def stand_still(until: threading.Event) -> None:
    """Stand still, under a name that can be found in a stack."""
    until.wait(30)


def test_a_signal_writes_the_stacks_of_all_threads(tmp_path: Path) -> None:
    end = threading.Event()
    thread = threading.Thread(target=stand_still, args=[end])
    thread.start()
    stalls = Stalls(tmp_path, 3, None, print)
    with stalls.watching():
        os.kill(os.getpid(), signal.SIGUSR1)
        text = stalls.path.read_text()
    end.set()
    thread.join()
    assert stalls.path == tmp_path / "stacks" / "process3.txt"
    assert f"`kill -USR1 {os.getpid()}`" in text
    assert "in stand_still" in text
    assert "in test_a_signal_writes_the_stacks_of_all_threads" in text
    assert stalls.path.read_text() == text  # it stays


def test_nothing_is_left_of_a_run_that_did_not_stand_still(tmp_path: Path) -> None:
    said: list[str] = []
    with Stalls(tmp_path, 0, 10, said.append).watching():
        assert (tmp_path / "stacks").is_dir()
    assert not (tmp_path / "stacks").exists()
    assert said == []
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_killed_process_leaves_its_file_to_the_next_one_unless_it_has_stacks(tmp_path: Path) -> None:
    stalls = Stalls(tmp_path, 0, None, print)
    stalls.path.parent.mkdir()
    heading = "`kill -USR1 1` on a machine writes the stacks of process 0 here:\n"
    stalls.path.write_text(2 * heading)
    with stalls.watching():
        assert "`kill -USR1 1`" not in stalls.path.read_text()
    assert not (tmp_path / "stacks").exists()
    stalls.path.parent.mkdir()
    stalls.path.write_text(f"{heading}Thread 0x1\n")
    with Stalls(tmp_path, 0, None, print).watching():
        pass
    assert stalls.path.read_text() == f"{heading}Thread 0x1\n"


@pytest.mark.parametrize("on_stderr", [False, True])
def test_the_handler_of_a_program_is_called_too_and_stays(tmp_path: Path, on_stderr: bool) -> None:
    seen: list[int] = []
    if on_stderr:
        stacks_on_request()  # as the command line, before the program's own
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        stalls = Stalls(tmp_path, 0, None, print)
        with stalls.watching():
            os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1] * 2
        assert "Current thread" in stalls.path.read_text()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's sigaltstack")
def test_two_handlers_have_room_for_the_registers_of_large_processors(tmp_path: Path) -> None:
    """A suite on a processor with AMX was ended by SIGUSR1: "overflowed sigaltstack" in the system's log."""
    code = """
import ctypes, os, signal, sys, torch
from senet.training.stalls import SignalStack, stacks_on_signal
a = torch.ones(1024, 1024, dtype=torch.bfloat16)
a @ a  # from here on signals save AMX's registers, where there are any
signal.signal(signal.SIGUSR1, lambda number, frame: print("called"))
with open(sys.argv[1], "w") as file, stacks_on_signal(file):
    found = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found))
    assert found.size >= 1 << 18, found.size
    os.kill(os.getpid(), signal.SIGUSR1)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "stacks.txt")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "called\n"), done.stderr
    assert "Current thread" in (tmp_path / "stacks.txt").read_text()


def test_a_long_time_without_a_step_is_told_once_with_what_the_run_is_at(tmp_path: Path) -> None:
    said: list[str] = []
    stalls = Stalls(tmp_path, 1, 0.3 / 60, said.append)
    with stalls.watching():
        stalls.beat("waiting for images")
        wait_for(lambda: said)
        stalls.beat("training")
        wait_for(lambda: len(said) == 2)
        time.sleep(0.7)  # as long again
    assert said[0].startswith("no step for 0 s in process 1, which is waiting for images; ")
    assert str(stalls.path) in said[0]
    assert said[1].startswith("goes on, after ")
    assert len(said) == 2
    text = stalls.path.read_text()
    assert "in test_a_long_time_without_a_step_is_told_once_with_what_the_run_is_at" in text


def test_a_run_that_gets_on_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    stalls = Stalls(tmp_path, 0, 2.0 / 60, said.append)
    with stalls.watching():
        for _ in range(30):
            stalls.beat("training")
            time.sleep(0.1)
    assert said == []


@pytest.mark.slow
def test_every_process_of_torchrun_answers_though_only_the_first_prints(tmp_path: Path) -> None:
    """The second one hangs in its data, the first one waits for it in the gradients' sum."""
    driver = command("stalling_in_two_processes.py", tmp_path)[1:]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *driver]
    with (tmp_path / "log.txt").open("w") as log:
        started = subprocess.Popen(torchrun, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        files = [tmp_path / "run" / "stacks" / f"process{rank}.txt" for rank in range(2)]
        # By themselves after three seconds without a step.
        wait_for(lambda: all(file.exists() and "no step for" in file.read_text() for file in files), 150)
        ids = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
        assert len(ids) == 2
        for each in ids:
            os.kill(int(each), signal.SIGUSR1)
        wait_for(
            lambda: all(
                file.read_text().count("hanging_batches" if i else "in agree") > 1 for i, file in enumerate(files)
            ),
            30,
        )
    finally:
        (tmp_path / "go").touch()
        code = started.wait(120)
    assert code == 0, (tmp_path / "log.txt").read_text()
    said = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "no step for" in line]
    assert len(said) == 1
    assert "process 0" in said[0]
