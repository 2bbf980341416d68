"""The lines about the steps of a run: what they say, that none is lost or doubled, and where they are sent."""

import json
import mmap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import senet
from senet.analysis.runs import read_run, waiting_of
from senet.data.memory import MemoryLoader
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.processes import Team
from senet.recipes.digits import digits
from senet.training.interrupt import TrainingInterrupted
from senet.training.sections import ComputeConfig
from senet.training.state import Position
from senet.training.steplog import StepLog, memory_mb, waiting_in_words
from stopping import stop_at

CPU = ComputeConfig(cpu=True, compile="off")
RUN = replace(digits(), epochs=2, batch_size=16, trackers=(), compute=CPU, log_every=4)
TIMES = {"time_s", "step_s", "data_wait_s", "evaluation_s", "images_per_s", "memory_mb"}


def lines_of(run: Path) -> list[dict[str, float]]:
    return read_jsonl(run / "steps.jsonl")


def timeless(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def steps_of(run: Path) -> list[tuple[float, float, float]]:
    return [(row["step"], row["epoch"], row["steps"]) for row in lines_of(run)]


@pytest.mark.usefixtures("few_digits")
def test_there_is_a_line_each_so_many_steps_and_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    run = senet.train(RUN, tmp_path / "run")
    assert steps_of(run) == [(4, 1, 4), (6, 1, 2), (8, 2, 2), (12, 2, 4)]
    rows, epochs = lines_of(run), read_jsonl(run / "metrics.jsonl")
    for epoch, row in enumerate(epochs, 1):
        own = [line for line in rows if line["epoch"] == epoch]
        # All batches have 16 images, so that the mean of the epoch is that of its steps.
        mean = sum(line["loss"] * line["steps"] for line in own) / sum(line["steps"] for line in own)
        assert row["train_loss"] == pytest.approx(mean)
        assert row["time_s"] == pytest.approx(sum(line["time_s"] for line in own))
        assert row["data_wait_s"] == pytest.approx(sum(line["data_wait_s"] for line in own))
    for line in rows:
        assert line["step_s"] == pytest.approx(line["time_s"] / line["steps"])
        assert line["images_per_s"] == pytest.approx(16 * line["steps"] / line["time_s"])
        assert 0 <= line["data_wait_s"] <= line["time_s"]
        assert line["memory_mb"] > 50
        assert set(line) == {"step", "epoch", "batch", "steps", "loss", "lr", *TIMES}  # no GPU, and no clipping
    assert [line["evaluation_s"] > 0 for line in rows] == [False, False, True, False]
    assert 0 < rows[2]["evaluation_s"] <= epochs[0]["evaluation_s"]


@pytest.mark.usefixtures("few_digits")
def test_the_norm_of_the_gradient_is_told_where_it_is_computed(tmp_path: Path) -> None:
    config = replace(RUN, epochs=1, optimizer=replace(RUN.optimizer, clip_norm=0.01))
    rows = lines_of(senet.train(config, tmp_path / "run"))
    assert all(row["grad_norm"] > 0.01 for row in rows)  # before it is clipped


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("moment", [(0, 3), *(pytest.param(each, marks=pytest.mark.slow) for each in ((1, 0), (1, 4)))])
def test_a_run_that_goes_on_has_each_step_in_one_line(
    moment: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = senet.train(RUN, tmp_path / "whole")
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, *moment)
        with pytest.raises(TrainingInterrupted):
            senet.train(RUN, run)
    stopped = lines_of(run)
    assert sum(row["steps"] for row in stopped) == stopped[-1]["step"]  # up to what is saved
    with (run / "steps.jsonl").open("a") as file:  # what a killed run has written after its last save
        file.write(json.dumps(stopped[-1] | {"step": stopped[-1]["step"] + 1}) + '\n{"step": 7')
    senet.resume(run)
    rows = lines_of(run)
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert sum(row["steps"] for row in rows) == rows[-1]["step"] == 12
    # Where both have a line about the same steps, it is the same.
    own, expected = ({(row["step"], row["steps"]): row for row in timeless(each)} for each in (rows, lines_of(whole)))
    assert own.keys() & expected.keys()
    assert all(own[key] == expected[key] for key in own.keys() & expected.keys())


def test_a_line_is_about_the_steps_since_the_last_one(tmp_path: Path) -> None:
    log = StepLog(tmp_path, 10, Team(1), torch.device("cpu"), writes=True)
    log.losses += [1.0, 3.0]
    log.add(8, 2.0)
    first = log.line(Position(epoch=1, batch=2, step=2), 0.1)
    assert first is not None
    assert (first["loss"], first["steps"], first["images_per_s"], first["epoch"]) == (2.0, 2, 4.0, 2)
    assert log.line(Position(epoch=1, batch=2, step=2), 0.1) is None  # nothing since
    log.losses.append(7.0)
    log.add(4, 1.0)
    second = log.line(Position(epoch=1, batch=3, step=3), 0.1)
    assert second is not None
    assert (second["loss"], second["steps"], second["time_s"]) == (7.0, 1, 1.0)
    assert lines_of(tmp_path) == [first, second]


@pytest.mark.usefixtures("few_digits")
def test_a_slow_loader_is_told_from_slow_steps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    batches = MemoryLoader.batches

    def slow(self: MemoryLoader, *arguments: int) -> object:
        for batch in batches(self, *arguments):
            if self.augmentation is not None:
                time.sleep(0.5)
            yield batch

    monkeypatch.setattr(MemoryLoader, "batches", slow)
    run = senet.train(replace(RUN, batch_size=48, epochs=1), tmp_path / "run")
    (row,) = lines_of(run)
    assert row["data_wait_s"] >= 1
    assert caplog.text.count("the data loader is the bottleneck: ") == 1
    assert waiting_of(read_run(run)).startswith("the data loader is the bottleneck: ")
    from senet.cli import main

    capsys.readouterr()
    assert main(["runs", str(run)]) == 0
    assert "% of the time waiting; more --data.num-workers may help" in capsys.readouterr().out


def test_waiting_in_words() -> None:
    assert waiting_in_words(63, 100) == (
        "the data loader is the bottleneck: 63% of the time waiting; more data.num_workers may help"
    )
    assert waiting_in_words(10, 100) == waiting_in_words(0, 0) == ""


def test_memory_is_that_of_the_process() -> None:
    before = memory_mb()
    with mmap.mmap(-1, 160_000_000) as held:  # a large process has freed memory from which it would serve a tensor
        held.write(b"1" * len(held))
        assert 120 < memory_mb() - before < 400


def test_lines_need_steps_between_them() -> None:
    with pytest.raises(SenetError, match="log_every is 0; expected 1 to"):
        replace(RUN, log_every=0)
    with pytest.raises(SenetError, match="stall_minutes is 0; expected a positive number"):
        replace(RUN, stall_minutes=0)


@pytest.mark.usefixtures("few_digits")
def test_tensorboard_has_the_lines_in_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(RUN, trackers=("tensorboard",))
    with monkeypatch.context() as patched:
        stop_at(patched, 1, 1)
        with pytest.raises(TrainingInterrupted):
            senet.train(config, tmp_path / "run")
    senet.resume(tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "steps")).Reload()
    rows = lines_of(tmp_path / "run")
    assert [event.step for event in events.Scalars("steps/loss")] == [row["step"] for row in rows]
    assert [event.value for event in events.Scalars("steps/loss")] == pytest.approx([row["loss"] for row in rows])
