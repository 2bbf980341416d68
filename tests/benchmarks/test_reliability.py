"""The benchmark of reliability, in a short form: the same code kills, fills disks, starts twice and flips bits."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import reliability_disks
from pages import faults as page
from reliability_commands import differences
from reliability_long import least_squares
from reliability_results import Results, Stage, Trial, carry_out

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks are watched by Linux's means")


def measured(output, *options):
    """Run the benchmark, and return its results and what it printed."""
    words = [sys.executable, str(ROOT / "benchmarks" / "reliability.py"), "--output", str(output), *options]
    paths = os.pathsep.join(filter(None, (str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())["parts"], done.stdout


@LINUX
def test_killed_commands_end_as_untouched_ones(tmp_path):
    parts, _ = measured(tmp_path / "found.json", "--short", "--parts", "kills")
    trials = [trial for found in parts["kills"].values() for trial in found]
    assert set(parts["kills"]) == {"train", "predict"}
    assert len(trials) == 3
    assert all(trial["kills"] and trial["problems"] == [] for trial in trials)


@LINUX
@pytest.mark.slow
def test_every_part_finds_nothing_wrong(tmp_path):
    parts, _ = measured(tmp_path / "found.json", "--short", "--parts", "disks", "locks", "bits", "long")
    if not reliability_disks.cannot_mount():
        assert set(reliability_disks.COMMANDS) == set(parts["disks"])
    assert len(parts["bits"]) == 3
    assert all(len(found) == 1 for found in parts["long"].values())
    again, said = measured(tmp_path / "found.json", "--short", "--parts", "bits", "long")
    assert again == parts
    assert "good" not in said  # nothing is made again


# ---- that the harness sees what it is to see -------------------------------------------------------------------------

FORKS = """
import json, os, sys
from pathlib import Path
import reliability_processes as module
from reliability_processes import Fault, Process

def command(argv):
    for name in "abc":
        path = Path(name)
        path.write_text("x" * 1000)
        path.replace(name + ".txt")
    return 0

module.main, module.PHASES = command, {}
module.found = lambda place: (module, "path_of")
module.followed = lambda step, watch: step
found = []
for number, fault in enumerate([{}, {"operation": 3}, {"operation": 4, "is_before": True}, {"file_bytes": 300}]):
    folder = Path(sys.argv[1]) / str(number)
    folder.mkdir()
    with Process([], folder, Fault(**fault)) as process:
        process.wait()
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        found.append([process.status, process.watch.numbers[0], process.watch.phase, sizes])
print(json.dumps(found))
"""


@LINUX
def test_a_fault_ends_a_process_where_it_is_to(tmp_path):
    paths = os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT / "src")))
    words, environment = [sys.executable, "-c", FORKS, str(tmp_path)], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    whole, after, before, torn = json.loads(done.stdout)
    files = {"a.txt": 1000, "b.txt": 1000, "c.txt": 1000}
    assert whole == [0, 6, "starting", files]
    assert after[:2] == [-signal.SIGKILL, 3]
    assert after[3] == {"a.txt": 1000, "b": 0}  # opened, and nothing written
    assert before == [-signal.SIGKILL, 4, "starting: replace b", {"a.txt": 1000, "b": 1000}]
    assert torn[0] == -signal.SIGXFSZ
    assert torn[3] == {"a": 300}


def test_what_differs_is_named():
    expected = {"weights": 1, "files": ["a"]}
    assert differences(dict(expected), expected) == []
    assert differences({"weights": 2, "files": ["a"], "more": 0}, expected) == ["more", "weights"]


def test_the_slope_of_a_line_is_found_with_its_error():
    rng = random.Random(0)
    x = list(range(1000))
    slope, error = least_squares(x, [50 + 0.5 * step + rng.gauss(0, 10) for step in x])
    assert error == pytest.approx(10 / (1000**3 / 12) ** 0.5, rel=0.1)
    assert abs(slope - 0.5) < 4 * error


def test_trials_are_kept_and_not_made_again(tmp_path):
    made = []

    def trials(stage):
        for number in stage.missing("train", 3):
            made.append(number)
            yield Trial("train", number, {"kills": [], "problems": ["differs"] if number == 1 else []})

    for _ in range(2):
        stage = Stage("kills", None, Results(tmp_path / "found.json", 0), 0)
        wrong = carry_out(stage, trials(stage))
    assert (made, wrong) == ([0, 1, 2], 0)
    assert [trial["trial"] for trial in Results(tmp_path / "found.json", 0).of("kills", "train")] == [0, 1, 2]
    assert Results(tmp_path / "found.json", 1).parts == {}  # of another seed


# ---- the page --------------------------------------------------------------------------------------------------------

KILL = {"how": "operation", "phase": "saving", "operation": "before replace .config.json.1.part", "after_s": 0.1}
LONG = {
    "trial": 0,
    "steps": 10000,
    "slope_kb": 0.01,
    "error_kb": 0.02,
    "megabytes": [700, 701],
    "files": [9, 9],
    "threads": [3, 4],
    "problems": [],
}
FOUND = {
    "command": "python benchmarks/reliability.py",
    "machine": {"processor": "a processor"},
    "versions": {"torch": "2.14"},
    "date": "2026-11-27",
    "seed": 0,
    "facts": {},
    "parts": {
        "kills": {
            "train": [
                {
                    "trial": 0,
                    "kills": [KILL, {**KILL, "how": "moment", "phase": "step", "operation": ""}],
                    "problems": [],
                },
                {"trial": 1, "kills": [KILL], "problems": ["state"]},
            ],
            "record": [],
        },
        "long": {"in memory": [LONG]},
    },
}


def rows_of(text, heading):
    part = text.split(f"### {heading}\n")[1].split("###")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")
    ]


def test_the_page_tells_of_each_part_what_is_known(monkeypatch):
    monkeypatch.setattr(page, "read", lambda name: FOUND)
    text = page.fault_tables()
    rows = rows_of(text, "Killed processes")
    assert ["train", "2", "1", "2", "", "1", "1"] in rows
    assert ["saving: renaming a file", "2"] in rows
    assert ["step", "1"] in rows
    assert "1 of 2 trials went wrong:\n\n- train, trial 1: state\n" in text
    assert rows_of(text, "Ten thousand steps")[-1] == [
        *("in memory", "10,000", "+0.010 ± 0.020", "700 to 701", "9", "3 to 4")
    ]
    assert "Not measured yet: `python benchmarks/reliability.py --parts disks`" in text
    assert "a processor, one thread; torch 2.14; 2026-11-27; seed 0" in text


def test_a_page_without_results_says_so(monkeypatch):
    monkeypatch.setattr(page, "read", lambda name: None)
    assert "Not measured yet" in page.fault_tables()
    monkeypatch.setattr(page, "read", lambda name: {**FOUND, "facts": {"disks": "mounting a tmpfs needs root"}})
    assert "\nNot measured: mounting a tmpfs needs root.\n" in page.fault_tables()
