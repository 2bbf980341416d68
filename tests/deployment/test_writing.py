"""An export of several files is there whole or not at all: after a kill, beside another process, after an error."""

import itertools
import multiprocessing
import os
import signal

import pytest

from senet.deployment import writing
from senet.deployment.writing import remove_unfinished, written_whole
from senet.errors import SenetError
from senet.locks import held

NAMES = ("network.bin", "network.xml", "network.xml.parity.json")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


def export(output):
    """Write what an export to OpenVINO writes."""
    companions = [output.with_suffix(".bin"), output.with_name(f"{output.name}.parity.json")]
    remove_unfinished(output, companions)
    for path in (output, *companions):
        if path.exists():
            raise SenetError(f"{path} exists already")
    with written_whole(output) as folder:
        for name in NAMES:
            (folder / name).write_text(f"new {name}")


def killed_at(number, output):
    """Export in a process that dies before one of its calls that change names or synchronize; return whether it did."""

    def run():
        calls = []
        for name in ("replace", "rename", "fsync", "mkdir", "rmdir", "unlink"):
            real = getattr(os, name)

            def dying(*args, real=real, **options):
                calls.append(args)
                if len(calls) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            setattr(os, name, dying)
        export(output)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@forks
def test_a_kill_at_any_moment_leaves_nothing_that_the_next_export_stumbles_over(tmp_path):
    whole = []
    for number in itertools.count(1):
        output = tmp_path / str(number) / "network.xml"
        output.parent.mkdir()
        if not killed_at(number, output):
            break
        if output.exists():  # complete, though the process did not live to say so
            with pytest.raises(SenetError, match="exists already"):
                export(output)
            whole.append(number)
        else:
            export(output)
        assert {path.name: path.read_text() for path in output.parent.iterdir()} == {n: f"new {n}" for n in NAMES}
    assert number > 15
    assert whole


def test_files_of_others_stay(tmp_path):
    output = tmp_path / "network.xml"
    (tmp_path / "network.bin").write_text("of somebody")
    (tmp_path / ".network.xml.part").mkdir()
    (tmp_path / ".network.xml.part" / "network.xml").write_text("half")
    with pytest.raises(SenetError, match=r"network.bin exists already"):
        export(output)
    assert (tmp_path / "network.bin").read_text() == "of somebody"


@forks
def test_a_second_process_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    output = tmp_path / "network.xml"

    def hold(entered, leave):
        with held(writing.beside(output, "lock"), ""):
            entered.set()
            leave.wait(30)

    context = multiprocessing.get_context("fork")
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(entered, leave))
    process.start()
    assert entered.wait(30)
    with pytest.raises(SenetError, match=r"another process writes .*network.xml; wait for it, or name another output"):
        export(output)
    leave.set()
    process.join()
    export(output)


def test_an_error_while_files_move_takes_them_back(tmp_path, monkeypatch):
    output, real = tmp_path / "network.xml", writing.put

    def failing(made, path):
        if path == output:
            raise OSError(30, "Read-only file system")
        real(made, path)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "put", failing)
        with pytest.raises(SenetError, match=r"network.xml cannot be written \(Read-only file system\); "):
            export(output)
    assert list(tmp_path.iterdir()) == []
    export(output)
