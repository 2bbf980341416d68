"""One process at a time, also while a lock is given back; and a kill gives it back."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from senet import locks
from senet.errors import SenetError
from senet.locks import acquired, held

pytest.importorskip("fcntl")
HOLD = """
import sys
from pathlib import Path
from senet.locks import held
with held(Path(sys.argv[1]), "refused"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(path):
    """Return a process that holds a lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_process_is_refused_and_a_kill_gives_the_lock_back(tmp_path):
    path = tmp_path / "lock"
    with holder(path) as other:
        with pytest.raises(SenetError, match="taken"), held(path, "taken"):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert path.exists()
        with held(path, "taken"):
            pass
    assert not path.exists()


def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    """Opened while another holds it, locked after that one has removed it and a third has made and locked a new one."""
    path, real = tmp_path / "lock", locks.locked
    others = []

    def slow(file):
        if not others:
            path.unlink()  # as its holder does at its end
            others.append(holder(path))
        return real(file)

    monkeypatch.setattr(locks, "locked", slow)
    assert acquired(path) is None
    others[0].communicate()


def count(path, number, inside, most):
    for _ in range(number):
        while True:
            try:
                with held(path, "taken"):
                    with inside.get_lock():
                        inside.value += 1
                        most.value = max(most.value, inside.value)
                    with inside.get_lock():
                        inside.value -= 1
                break
            except SenetError:
                continue


def test_there_are_never_two_inside(tmp_path):
    context = multiprocessing.get_context("fork")
    inside, most = context.Value("i", 0), context.Value("i", 0)
    processes = [context.Process(target=count, args=(tmp_path / "lock", 200, inside, most)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert most.value == 1


def test_a_system_without_locks_locks_nothing(tmp_path, monkeypatch):
    import errno
    import fcntl

    def without(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", without)
    with held(tmp_path / "lock", "taken"), held(tmp_path / "lock", "taken"):
        pass


def test_threads_of_a_process_are_not_told_apart(tmp_path):
    """As POSIX's locks are; those that train in one folder do so in processes of their own."""
    seen = []

    def enter():
        with held(tmp_path / "lock", "taken"):
            seen.append(True)

    with held(tmp_path / "lock", "taken"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert seen == [True]
