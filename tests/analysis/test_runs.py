"""Comparing runs, as their folders tell, and the page of their curves."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from browsers import assert_named
from senet import terminal
from senet.analysis.curves import write_curves
from senet.analysis.runs import differing, find_runs, grouped, read_run, read_runs, run_names, short_name
from senet.cli import main
from senet.cli import runs as cli_runs
from senet.configs import to_dict
from senet.errors import SenetError
from senet.recipes.digits import digits
from senet.training.config import TrainConfig
from senet.training.sections import SelectionConfig

LONG_AGO = 1_000_000_000


def write_run(
    folder: Path,
    config: TrainConfig,
    top1: list[float],
    *,
    changed: int = LONG_AGO,
    balanced: bool = True,
    change: dict[str, Any] | None = None,
) -> Path:
    """Write a run folder as training does, with these accuracies of its epochs."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config) | (change or {})))
    rows = []
    for epoch, value in enumerate(top1, 1):
        row = {"epoch": epoch, "step": epoch, "lr": 0.1 / epoch, "train_loss": 2 / epoch, "loss": 1 / epoch}
        row |= {"top1": value, "top5": 100.0, "images_per_s": 100.0 * epoch, "time_s": 30.0}
        rows.append(row | ({"balanced_accuracy": 100 - value, "macro_f1": value} if balanced else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "best").mkdir()
    (folder / "best" / "config.json").write_text(json.dumps({"format": 3, "model": {"name": "x"}}))
    for file in folder.iterdir():
        os.utime(file, (changed, changed))
    return folder


BASE = replace(digits(), epochs=3)
FASTER = replace(BASE, optimizer=replace(BASE.optimizer, lr=0.5))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    write_run(root / "slow", BASE, [50.0, 70.0, 60.0])
    write_run(root / "fast", FASTER, [40.0, 80.0])
    return root


def test_runs_are_found_at_any_depth_and_models_are_none(runs: Path) -> None:
    assert find_runs([runs]) == [runs / "fast", runs / "slow"]
    assert find_runs([runs / "slow", runs]) == [runs / "slow", runs / "fast"]
    with pytest.raises(SenetError, match="there is no folder"):
        find_runs([runs / "none"])
    with pytest.raises(SenetError, match=r"best holds no runs; `senet train` writes one"):
        find_runs([runs / "slow" / "best"])


def test_the_best_epoch_is_chosen_by_the_metric_of_the_run(runs: Path) -> None:
    fast, slow = read_runs([runs])
    assert (fast.path.name, fast.best and fast.best["epoch"], fast.epochs, fast.all_epochs) == ("fast", 2, 2, 3)
    assert (slow.state, fast.state, slow.seconds, slow.images_per_s) == ("finished", "stopped", 90.0, 200.0)
    assert slow.best is not None
    assert (slow.best["epoch"], slow.best["top1"]) == (2, 70.0)
    by_loss = read_runs([runs], "loss")
    assert [run.path.name for run in by_loss] == ["slow", "fast"]
    assert [run.best and run.best["epoch"] for run in by_loss] == [3, 2]
    balanced = replace(BASE, selection=SelectionConfig(metric="balanced_accuracy"))
    best = read_run(write_run(runs / "balanced", balanced, [50.0, 70.0])).best
    assert best is not None
    assert best["epoch"] == 1
    with pytest.raises(SenetError, match="by is 'top2'; expected one of top1"):
        read_runs([runs], "top2")  # type: ignore[arg-type]


def test_of_epochs_with_the_same_metric_the_one_with_the_lower_loss_is_the_best_as_in_the_run(runs: Path) -> None:
    best = read_run(write_run(runs / "equal", BASE, [70.0, 70.0, 50.0])).best
    assert best is not None
    assert best["epoch"] == 2


def test_how_far_a_run_is(tmp_path: Path) -> None:
    patient = replace(BASE, epochs=9, selection=SelectionConfig(patience=2))
    early = write_run(tmp_path / "early", patient, [60.0, 50.0, 55.0])
    assert read_run(early).state == "early"
    assert read_run(write_run(tmp_path / "now", BASE, [50.0], changed=2 * LONG_AGO * 10)).state == "running"
    assert read_run(write_run(tmp_path / "new", BASE, [])).state == "not started"


def test_damaged_runs_and_those_of_other_versions_are_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(runs / "former", BASE, [10.0], balanced=False)
    write_run(runs / "later", BASE, [20.0], change={"invented": {"x": 1}})
    write_run(runs / "cut", BASE, [30.0])
    (runs / "cut" / "config.json").write_text('{"mod')
    with (runs / "slow" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "to')
    found = {run.path.name: run for run in read_runs([runs], "balanced_accuracy")}
    assert found["former"].best is None
    assert found["slow"].epochs == 3  # the line that a crash cut short does not count
    assert (found["cut"].state, found["cut"].epochs) == ("damaged", 1)
    assert "invented is unknown" in found["later"].problem
    assert found["later"].settings["invented.x"] == 1
    assert [run.path.name for run in read_runs([runs], "balanced_accuracy")][-1] == "former"
    assert main(["runs", str(runs)]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 6
    assert "later/config.json is read as it is: invented is unknown" in printed.err
    assert "cut/config.json cannot be read" in printed.err


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('{"epoch": 1, "top1": "97 %"}', "top1 is '97 %', not a number"),
        ('{"step": 1, "top1": 97.0}', "a line is {'step': 1, 'top1': 97.0}, not an object with an epoch"),
        ("5", "a line is 5, not an object with an epoch"),
    ],
)
def test_folders_of_other_programs_are_told_from_runs(runs: Path, lines: str, said: str) -> None:
    """They add nothing to what differs: every setting would."""
    for name, values in (("theirs", {"data": "flowers", "lr": 1}), ("hub", {"model_type": "vit", "data": {}})):
        (runs / name).mkdir()
        (runs / name / "config.json").write_text(json.dumps(values))
    (runs / "other").mkdir()
    (runs / "other" / "metrics.jsonl").write_text(lines)
    write_run(runs / "later", BASE, [20.0], change={"invented": {"x": 1}})
    found = read_runs([runs])
    assert {run.path.name for run in found} == {"slow", "fast", "later", "other"}
    assert f"metrics.jsonl cannot be read ({said})" in next(run.problem for run in found if run.path.name == "other")
    assert differing(found) == {"optimizer.lr": "lr"}


def test_only_what_differs_is_named_and_shortly(runs: Path) -> None:
    found = read_runs([runs])
    assert differing(found) == {"optimizer.lr": "lr"}
    assert differing(found[:1]) == {}
    assert short_name("a.b.lr", ["a.b.lr", "c.lr", "d.b.lr"]) == "a.b.lr"
    assert short_name("a.b.lr", ["a.b.lr", "c.lr"]) == "b.lr"
    assert short_name("model.name", ["model.name", "seed"]) == "model.name"
    assert run_names(found) == ["fast", "slow"]
    moved = replace(BASE, data=replace(BASE.data, num_workers=7), trackers=("wandb",))
    write_run(runs / "moved", moved, [1.0])
    assert differing(read_runs([runs])) == {"optimizer.lr": "lr"}  # where data are and metrics go changes no result


def test_runs_on_other_data_or_in_more_processes_are_told_apart(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the same name and with as many images, they count as the same data."""
    other = replace(BASE, data=replace(BASE.data, dataset="mine.csv"))
    write_run(runs / "other", other, [75.0], change={"num_processes": 2})
    more = write_run(runs / "more", BASE, [72.0])
    for run, images in (("slow", 80), ("fast", 80), ("more", 90)):
        (runs / run / "data.json").write_text(json.dumps({"num_train_images": images, "num_eval_images": 20}))
    found = read_runs([runs])
    names = {"data.dataset": "dataset", "data.images": "images", "num_processes": "num_processes"}
    assert differing(found, without=["optimizer.lr"]) == names
    assert len(grouped(found)) == 4
    assert main(["runs", str(runs)]) == 0
    said = "digits (80 + 20 images), mine.csv (? images), digits (90 + 20 images). `senet evaluate RUN RUN --data DATA`"
    assert said in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(runs / "other")
    shutil.rmtree(more)
    assert main(["runs", str(runs)]) == 0
    assert "different data" not in capsys.readouterr().out


def test_seeds_are_grouped(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for variant, config, values in (("b", BASE, [60.0, 64.0, 65.0]), ("a", FASTER, [70.0, 71.0])):
        for seed, value in enumerate(values):
            write_run(runs / "ablation" / variant / f"seed{seed}", replace(config, seed=seed), [10.0, value])
    first, second = grouped(read_runs([runs / "ablation"]))
    assert (first.mean, len(first.runs)) == (70.5, 2)
    assert second.mean == 63.0
    assert second.deviation == pytest.approx(7**0.5)  # (9 + 1 + 4) / 2
    assert main(["runs", str(runs / "ablation"), "--group"]) == 0
    heading, *rows = (re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines())
    assert heading == ["runs", "lr", "seeds", "mean best top1", "deviation", "finished", "time"]
    assert [row[:5] for row in rows] == [["a", "0.5", "2", "70.50", "0.71"], ["b", "0.1", "3", "63.00", "2.65"]]
    assert main(["runs", str(runs / "ablation"), "--group", "--json"]) == 0
    assert [group["group"] for group in json.loads(capsys.readouterr().out)] == ["a", "b"]


def test_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", str(runs)]) == 0
    heading, *rows = (re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines())
    assert heading == ["run", "lr", "state", "epochs", "best top1", "at", "last", "time", "images/s"]
    assert rows == [
        ["fast", "0.5", "stopped", "2/3", "80.00", "2", "80.00", "60 s", "150"],
        ["slow", "0.1", "finished", "3/3", "70.00", "2", "60.00", "90 s", "200"],
    ]
    assert main(["runs", str(runs), "--json"]) == 0
    fast, _ = json.loads(capsys.readouterr().out)
    assert (fast["best"], fast["best_epoch"], fast["settings"]["optimizer.lr"]) == (80.0, 2, 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no folder is given"),
        (["nowhere"], "there is no folder nowhere; check the path"),
        (["RUNS", "--curves", "RUNS"], "cannot be written (it is a folder)"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", *(word.replace("RUNS", str(runs)) for word in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(runs: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    write_run(runs / "<b>x", replace(BASE, epochs=5), [])
    assert main(["runs", str(runs), "--curves", str(runs / "curves.html")]) == 0
    assert "curves.html has the curves" in capsys.readouterr().out
    return runs / "curves.html"


def test_the_page_is_one_file_that_holds_the_curves(page: Path) -> None:
    text = page.read_text()
    own = text[: text.index("<script>")] + text[text.rindex("<script>") :]
    assert not re.findall(r"(?:src|href)=\"(?!data:)", own)  # nothing from elsewhere
    assert "without epochs: &lt;b&gt;x" in own
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert [run["name"] for run in data["runs"]] == ["fast", "slow"]
    assert data["runs"][1]["curves"]["top1"] == [50.0, 70.0, 60.0]
    assert data["runs"][0]["curves"]["lr"] == [0.1, 0.05]
    assert [key for key, _ in data["figures"]] == ["loss", "top1", "lr"]
    with pytest.raises(SenetError, match="no run has finished an epoch"):
        write_curves([], page)


@pytest.mark.slow
def test_runs_are_chosen_by_keyboard_and_by_mouse(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.drawn") == "true"

    def drawn(figure: str) -> list[Any]:
        script = "return document.getElementById(arguments[0]).data.map(t => [t.name, Array.from(t.y)])"
        found: list[Any] = browser.execute_script(script, figure)
        return found

    assert drawn("top1-curve") == [["fast", [40.0, 80.0]], ["slow", [50.0, 70.0, 60.0]]]
    assert [name for name, _ in drawn("loss-curve")] == ["fast", "slow", "fast, training", "slow, training"]
    boxes = browser.find_elements(By.CSS_SELECTOR, "input[name=run]")
    boxes[0].send_keys(Keys.SPACE)
    assert drawn("top1-curve") == [["slow", [50.0, 70.0, 60.0]]]
    boxes[0].click()
    assert len(drawn("lr-curve")) == 2
    table = browser.find_element(By.ID, "top1-table").get_attribute("textContent")
    assert table == "epochfastslow" + "140.0050.00" + "280.0070.00" + "360.00"
    names = assert_named(browser, ("checkbox", "image", "DisclosureTriangle", "heading"))
    assert names["checkbox"][0].startswith("fast stopped; best top1 80 in epoch 2; lr 0.5")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_a_run_that_keeps_its_last_epoch_is_compared_by_its_balanced_accuracy(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = replace(BASE, selection=SelectionConfig(metric="epoch"))
    run = read_run(write_run(runs / "last", last, [50.0, 70.0, 60.0]))
    assert run.best is not None
    assert run.best["epoch"] == 3
    assert main(["runs", str(runs / "last"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["best"]) == ("balanced_accuracy", run.rows[2]["balanced_accuracy"])


def test_where_the_terminal_is_narrow_what_differs_is_in_lines_below_the_table(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(runs / "other", replace(FASTER, epochs=9, seed=1), [30.0])
    narrow = terminal.console()
    narrow.width = 68
    monkeypatch.setattr(cli_runs, "console", lambda **options: narrow)
    assert main(["runs", str(runs)]) == 0
    heading, *rows = map(str.rstrip, capsys.readouterr().out.splitlines())
    assert heading.split() == ["run", "state", "epochs", "best", "top1", "at", "last", "time", "images/s"]
    assert rows[3:] == [
        "most runs: lr 0.5, epochs 3, seed 0",
        "fast: as most",
        "slow: lr 0.1",
        "other: epochs 9, seed 1",
    ]
    assert main(["runs", str(runs), "--group"]) == 0
    assert "other: epochs 9" in capsys.readouterr().out.splitlines()
