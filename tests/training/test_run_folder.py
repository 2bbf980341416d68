"""The run folder: one process trains in it at a time, and a full disk is said."""

import errno
import subprocess
import sys

import pytest
import torch

import senet
from senet.errors import SenetError
from senet.training import run as module
from senet.training.run import RunFolder

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def test_only_one_process_trains_in_a_folder(run):
    pytest.importorskip("fcntl")
    run.path.mkdir()
    argv = [sys.executable, "-c", HOLD, str(run.path / module.LOCK_FILE)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(SenetError, match=r"another process trains in .*run; wait until it ends"), run.claimed():
            pass
        (run.path / "config.json").touch()
        with pytest.raises(SenetError, match="another process trains in"):  # rather than to go on with the run
            run.check_free()
        other.kill()
        other.wait()
        with pytest.raises(SenetError, match="holds a run already; go on with it by"):
            run.check_free()
        (run.path / "config.json").unlink()
    with run.claimed():
        RunFolder(run.path).check_free()  # the lock is no run
    assert list(run.path.iterdir()) == []


def test_a_folder_that_another_run_has_taken_since_is_refused(run):
    run.check_free()
    run.path.mkdir()
    (run.path / "config.json").touch()
    with pytest.raises(SenetError, match="holds a run already"), run.claimed():
        pass
    with RunFolder(run.path).claimed():  # to go on with it
        pass


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc]")]
)
def test_a_full_disk_is_said_with_how_to_go_on(run, monkeypatch, failure):
    def save(*_):
        raise failure

    model = senet.create_model("cifar_se_resnet20")
    run.path.mkdir()
    (run.path / "config.json").touch()
    run.save(model, {"epoch": 1}, {}, best=True)
    monkeypatch.setattr(module.torch, "save", save)
    with pytest.raises(SenetError, match=r"run cannot be written \(No space left on device\); make room .*--resume"):
        run.save(model, {"epoch": 2}, {}, best=True)
    assert torch.load(run.state_file) == {"epoch": 1}
    assert not list(run.path.rglob("*.part"))


def test_another_error_of_saving_is_not_taken_for_a_full_disk(run, monkeypatch):
    def save(*_):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(module.torch, "save", save)
    with pytest.raises(RuntimeError, match="CUDA error"):
        run.save(senet.create_model("cifar_se_resnet20"), {}, {}, best=False)
