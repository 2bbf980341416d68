"""Damaged files and files that are bad on purpose, through every reader; `make fuzz` has more of them."""

import os

import pytest

from fuzz import guard
from fuzz.damaged import tried
from fuzz.readers import READERS
from fuzz.worker import seeds_of
from senet.errors import SenetError

SLOW_TO_OPEN = ("torch.export", "OpenVINO", "ONNX")
"""Readers that take seconds to be ready; tests/deployment has damaged files for them."""
QUICK = ("checkpoint", "model folder", "tar file", "image")
"""Readers that meet files of anyone most often; each takes some seconds to be ready."""


def findings(readers, first, end):
    return [line for _, tally in tried(readers, 0, range(first, end)) for line in tally.findings]


def test_no_damaged_file_ends_otherwise_than_documented():
    """The first ones are valid, then come those that are bad on purpose, then damaged ones."""
    assert set(QUICK) <= set(READERS)
    assert findings(QUICK, 0, 4) == []


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_no_damaged_file_of_many_ends_otherwise_than_documented(reader):
    assert findings([reader], 0, 200) == []


# ---- what notices --------------------------------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path):
    """Return what is noticed while something is done beside a folder that may be written into."""
    (tmp_path / "input").mkdir()
    (tmp_path / "out").mkdir()

    def watched(action):
        with guard.watching(tmp_path / "input", (tmp_path / "out",)) as watch:
            action(tmp_path)
        return watch.found

    return watched


def run_code_of(folder):
    exec(compile("1", str(folder / "input" / "evil.py"), "exec"))


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda folder: (folder / "up").write_text("x"), "for writing"),
        (lambda folder: os.close(os.open(folder / "up", os.O_CREAT | os.O_WRONLY)), "for writing"),
        (lambda folder: (folder / "input" / "up").mkdir(), "os.mkdir"),
        (lambda folder: (folder / "out").rename(folder / "up"), "os.rename"),
        (lambda folder: (folder / "out" / ".." / "up").write_text("x"), "for writing"),
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: __import__("pickle").loads(b"cos\nmkdir\n."), "pickle.find_class"),
        (run_code_of, "ran code of"),
    ],
)
def test_what_a_reader_may_not_do_is_noticed(watched, action, said):
    (found,) = watched(action)[:1]
    assert said in found


def test_what_a_reader_may_do_is_no_finding(watched):
    assert watched(lambda folder: (folder / "out" / "made").write_text((folder / "out").name)) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError"),
        (SenetError("file.pth cannot be read ([Errno 2]); get it again"), "programmer"),
        (SenetError("something cannot be read"), "names no file"),
        (SenetError("file.pth cannot be read; get it again"), ""),
    ],
)
def test_what_may_not_be_said_is_noticed(error, said):
    try:
        raise error
    except Exception as raised:
        found = guard.fault_of(raised, ("file.pth",))
    assert said in found if said else found == ""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hangs", "takes more than 2 GiB", "ended the process with status"])
def test_a_reader_that_hangs_takes_memory_or_ends_the_process_is_a_finding(fault, monkeypatch, tmp_path):
    """A reader of a module of the test's own, in place of that of mappings of classes."""
    action = {
        "hangs": "while True: pass",
        "takes more than 2 GiB": "kept = [bytes(2**28 * (n > -1)) .replace(b'\\0', b'\\1') for n in range(16)]",
        "ended the process with status": "import os; os._exit(3)",
    }[fault]
    (tmp_path / "faulty.py").write_text(
        "from fuzz import readers\n"
        f"def read(folder, out):\n    if (folder / 'bad').exists():\n        {action}\n"
        "reader = readers.Reader(main='classes.json', seeds=lambda: [{'classes.json': b'{}'}], read=read,\n"
        "    bad=lambda canary: {'bad': {'bad': b''}})\n"
        "readers.READERS = {'mapping of classes': reader}\n"
        "from fuzz import worker\n"
        "worker.main()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("fuzz.damaged.MODULE", "faulty")
    monkeypatch.setattr("fuzz.damaged.MOST_SECONDS", 2.0 if fault == "hangs" else 20.0)
    (found,) = findings(["mapping of classes"], 1, 2)
    assert fault in found


def test_every_reader_has_a_valid_input_of_its_main_file():
    for name, reader in READERS.items():
        if name not in SLOW_TO_OPEN:
            assert all(reader.main in files for files in seeds_of(name))
