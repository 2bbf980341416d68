"""The comparison with another checkout, and what docs/speed.md says of it."""

import json
import subprocess
from pathlib import Path

import pytest

import before_after
from before_after import CASES, ROOT, Arguments, Case, measure
from pages.speed_before import before_section
from report import KEEPING
from seats import SeatError

TAIL = Case(what="tail", shape=(2, 4, 2, 2), precision="fp32", calls=1)
KINDS = ("plain", "SE", "fused", "as built")


def arguments(**given):
    return Arguments(**{"other": ROOT, **given})


def test_the_page_has_both_versions_and_what_se_costs_in_each():
    times = {
        **{"before plain": [1.0, 1.0, 1.0], "before fused": [4.0, 4.0, 8.0]},
        **{"after plain": [1.0, 1.02, 1.1], "after fused": [1.0, 2.0, 3.0]},
    }
    case = {"case": "tail", "milliseconds": times, "errors": {"after SE": "failed"}}
    commits = {"before": "b" * 40, "after": "a" * 40}
    text = before_section({"cases": [case], "commits": commits})
    assert "commit `aaaaaaa`) beside commit `bbbbbbb`," in text
    assert "Without SE, after / before is 1.02 to 1.02 in these cases." in text
    *_, heading, _, row = text.splitlines()
    assert heading == "|  | before | after | after / before | SE / plain before | SE / plain after |"
    assert row == "| tail, fused | 4.00 | 2.00 | 0.38 (0.31 to 0.44) | 4.00 | 1.96 |"


def test_the_makefile_keeps_memory_as_the_benchmark_does():
    line = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("KEEPING"))
    assert dict(word.split("=") for word in line.split()[2:]) == KEEPING


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("what", "shape"), [("tail", (2, 4, 2, 2)), ("cifar_se_resnet20 step", (2, 1, 8, 8))])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_contestant_runs(what, shape, precision, kind):
    case = Case(what=what, shape=shape, precision=precision, calls=1)
    (before_after.tail if what == "tail" else before_after.step)(case, kind)()


def test_cases_are_chosen_by_parts_of_their_names():
    assert len({case.name for case in CASES}) == len(CASES)
    assert before_after.chosen(arguments()) == [case for case in CASES if not case.large]
    assert before_after.chosen(arguments(large=True)) == list(CASES)
    assert {case.what for case in before_after.chosen(arguments(cases=("tail",)))} == {"tail"}
    with pytest.raises(SystemExit, match="also need --large"):
        before_after.chosen(arguments(cases=("224",)))


def test_what_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="has no src/senet"):
        before_after.commit(tmp_path)
    (tmp_path / "src" / "senet").mkdir(parents=True)
    with pytest.raises(SystemExit, match="no checkout of git"):
        before_after.commit(tmp_path)


def test_a_version_from_elsewhere_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)  # undoes the change of sys.path
    with pytest.raises(RuntimeError, match="not from"):
        before_after.use(tmp_path)


def test_rounds_go_forth_and_back_the_first_is_not_counted_and_failures_have_no_times(monkeypatch):
    asked = []

    def turn(seat, root, case, kind):
        asked.append(f"{root} {kind}")
        if asked[-1] == "after SE" and asked.count("after SE") == 2:
            raise SeatError("broken")
        return float(len(asked))

    monkeypatch.setattr(before_after, "turn", turn)
    found = measure(TAIL, {"before": "before", "after": "after"}, rounds=2, processes=1)
    names = [f"{version} {kind}" for kind in KINDS for version in ("before", "after")]
    assert asked[:8] == names
    assert asked[8:16] == names[::-1]
    assert asked[16:] == [name for name in names if name != "after SE"]
    assert found["errors"] == {"after SE": "broken"}
    assert found["milliseconds"].keys() == set(names) - {"after SE"}
    assert found["milliseconds"]["before plain"] == [16_000.0, 17_000.0]


@pytest.mark.slow
def test_versions_take_turns_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(before_after, "CASES", (TAIL,))
    for name in KEEPING:
        monkeypatch.setenv(name, KEEPING[name])  # which `main` sets
    other = other_checkout(tmp_path / "other")
    path = tmp_path / "results.json"
    before_after.main(arguments(other=other, rounds=1, processes=1, results=path))
    found = json.loads(path.read_text())
    assert found["settings"] == {"rounds": 1, "processes": 1, "cases": [], "large": False}
    assert found["commits"]["before"] == before_after.commit(other) != found["commits"]["after"]
    (case,) = found["cases"]
    assert case["errors"] == {"before fused": "ValueError: none here"}
    names = [f"{version} {kind}" for kind in KINDS for version in ("before", "after")]
    assert list(case["milliseconds"]) == [name for name in names if name != "before fused"]
    assert all(len(times) == 1 and times[0] > 0 for times in case["milliseconds"].values())
    assert "tail, 2x4x2x2, fp32, as built" in before_section(found)


def other_checkout(root: Path) -> Path:
    """Make a checkout of a library with the same public names, whose fused tail fails."""
    package = root / "src" / "senet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from torch import nn\n"
        "SEBlock = lambda channels: nn.Conv2d(channels, channels, 1)\n"
        "class ResidualTail(nn.Module):\n"
        "    def __init__(self, norm, se=None, fused=None):\n"
        "        super().__init__()\n"
        "        self.layers = nn.Sequential(norm, nn.Identity() if se is None else se)\n"
        "        if fused:\n"
        "            raise ValueError('none here')\n"
        "    def forward(self, u, shortcut):\n"
        "        return (self.layers(u) + shortcut).relu()\n"
    )
    for command in (["init"], ["add", "."], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-m", "x"]):
        subprocess.run(["git", "-C", root, *command], check=True, capture_output=True)
    return root
