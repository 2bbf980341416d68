"""A limit of time for a run, with a clock that the tests turn: a second a batch, two an evaluation."""

import math
import os
from dataclasses import replace

import pytest
import torch

from senet.analysis.runs import read_run
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training import budget, loop
from senet.training.budget import Budget
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.schedule import lr_factor
from senet.training.sections import ComputeConfig, ScheduleConfig
from stopping import stop_at

LIMITED = replace(digits(), epochs=20, max_seconds=22.0, compute=ComputeConfig(cpu=True))  # three batches an epoch


class Clock:
    """Seconds that pass only when batches and evaluations are done."""

    def __init__(self):
        self.now = 0.0
        self.batch = 1.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(few_digits, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clock, backward, evaluate = Clock(), loop.Trainer.backward, loop.Trainer.evaluate

    def slow_backward(trainer, *args, **options):
        clock.now += clock.batch
        return backward(trainer, *args, **options)

    def slow_evaluate(trainer):
        clock.now += 2.0
        return evaluate(trainer)

    monkeypatch.setattr(budget, "clock", clock)
    monkeypatch.setattr(loop.Trainer, "clock", lambda trainer: clock.now)
    monkeypatch.setattr(loop.Trainer, "backward", slow_backward)
    monkeypatch.setattr(loop.Trainer, "evaluate", slow_evaluate)
    yield clock
    torch.set_num_threads(threads)


MEASURED_HERE = ("images_per_s", "data_wait_s", "evaluation_s")  # by clocks that are not replaced


def rows(run):
    return [{k: v for k, v in row.items() if k not in MEASURED_HERE} for row in read_jsonl(run / "metrics.jsonl")]


def state_of(run):
    return torch.load(run / "last" / "training_state.pt", weights_only=True)


def test_as_many_epochs_are_trained_as_fit_and_the_schedule_ends_with_them(tmp_path, clock, caplog):
    """An epoch takes 3 + 2 seconds: four fit into 22, which is known after the first batch."""
    caplog.set_level("INFO")
    run = train(LIMITED, tmp_path / "run")
    assert clock.now == 20
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3, 4]
    lr = LIMITED.optimizer.lr
    expected = [lr * lr_factor(LIMITED.schedule, epoch + 2 / 3, 4) for epoch in range(1, 4)]
    assert [row["lr"] for row in rows(run)[1:]] == pytest.approx(expected)
    assert "run: 4 epochs fit into max_seconds, which is 22" in caplog.text
    assert "epoch 4/4 " in caplog.text
    assert "epoch 4 of at most 20 is trained, and no other fits into max_seconds, which is 22; the best " in caplog.text
    assert read_run(run).state == "early"
    os.truncate(run / "last" / "training_state.pt", 100)
    assert read_run(run).state != "early"  # nothing tells


@pytest.mark.parametrize(
    "stops",
    [
        [(0, 2), (2, 1)],
        *(pytest.param(each, marks=pytest.mark.slow) for each in ([(0, 1)], [(1, 0), (1, 2)], [(3, 1)])),
    ],
)
def test_interruptions_cost_none_of_the_time_that_is_left(tmp_path, clock, monkeypatch, stops):
    whole, run = train(LIMITED, tmp_path / "whole"), tmp_path / "run"
    for number, (epoch, batch) in enumerate(stops):
        clock.now += 1000  # between two processes
        with monkeypatch.context() as patched:
            stop_at(patched, epoch, batch)
            with pytest.raises(TrainingInterrupted):
                resume(run) if number else train(LIMITED, run)
    clock.now += 1000
    resume(run)
    assert rows(run) == rows(whole)
    states = state_of(run), state_of(whole)
    assert states[0]["budget"] == states[1]["budget"]
    assert states[0]["budget"]["spent"] == 20
    assert not [n for n, t in states[1]["model"].items() if not torch.equal(t, states[0]["model"][n])]


def test_more_time_goes_on_with_a_run_that_is_over(tmp_path, clock, caplog):
    run = train(LIMITED, tmp_path / "run")
    caplog.set_level("INFO")
    resume(run)
    said = f"{run} is finished: epoch 4 of at most 20 is trained, and no other fits into max_seconds, which is 22"
    assert f"{said}; set more max_seconds to go on" in caplog.text
    resume(run, max_seconds=31)
    assert [row["epoch"] for row in rows(run)] == [1, 2, 3, 4, 5, 6]
    assert state_of(run)["budget"]["spent"] == 30


def test_a_first_epoch_that_is_too_long_is_cut_evaluated_and_saved(tmp_path, clock, caplog):
    """Of six batches of four seconds, three fit before the evaluation, estimated at a third of its four."""
    clock.batch = 4.0
    caplog.set_level("INFO")
    config = replace(LIMITED, batch_size=16, max_seconds=17.0)
    run = train(config, tmp_path / "run")
    (row,) = rows(run)
    said = "max_seconds, which is 17, leaves no time for more of epoch 1: it ends after batch 3 of 6, is evaluated and"
    assert said in caplog.text
    assert (row["epoch"], row["step"], row["time_s"]) == (1, 3, 12.0)
    assert 0 < row["train_loss"] < 5  # the mean of three batches
    assert row["lr"] < 0.4 * LIMITED.optimizer.lr  # the schedule has followed
    assert (run / "best" / "model.safetensors").exists()
    assert state_of(run)["position"]["epoch"] == 1
    resume(run)
    assert len(rows(run)) == 1


def test_a_cut_epoch_resumes_where_it_was_stopped(tmp_path, clock, monkeypatch):
    config = replace(LIMITED, batch_size=16, max_seconds=17.0)
    clock.batch = 4.0
    whole, run = train(config, tmp_path / "whole"), tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, 0, 2)
        with pytest.raises(TrainingInterrupted):
            train(config, run)
    clock.now += 1000
    assert rows(resume(run)) == rows(whole)


def test_slower_batches_later_do_not_break_the_limit(tmp_path, clock, monkeypatch):
    """The second epoch is three times as slow, and cut."""
    end_epoch = loop.Trainer.end_epoch

    def slower(trainer, reporter, row):
        clock.batch = 6.0
        end_epoch(trainer, reporter, row)

    monkeypatch.setattr(loop.Trainer, "end_epoch", slower)
    run = train(LIMITED, tmp_path / "run")
    assert [row["step"] for row in rows(run)] == [3, 6]
    assert clock.now <= 22 + 6


def test_a_limit_that_is_never_reached_changes_nothing(tmp_path, clock):
    config = replace(LIMITED, epochs=2)
    runs = [train(replace(config, max_seconds=limit), tmp_path / str(limit)) for limit in (None, 1000.0)]
    assert rows(runs[0]) == rows(runs[1])


class Shown:
    def __init__(self):
        self.totals = []

    def start(self, name, num_batches, done):
        self.totals.append(num_batches)

    def advance(self, batches, now):
        pass

    def plan(self, num_batches):
        self.totals.append(num_batches)

    def stop(self):
        pass


def test_the_progress_display_follows_the_plan(tmp_path, clock):
    shown = Shown()
    train(LIMITED, tmp_path / "run", progress=shown)
    assert shown.totals[0] == 60
    assert shown.totals[-1] == 12


@pytest.mark.parametrize(
    ("seconds", "epoch", "batch", "spent", "expected"),
    [
        (None, 3, 0, 99.0, 20),
        (100.0, 1, 0, 10.0, 10),  # 90 seconds, of ten an epoch
        (100.0, 1, 0, 95.0, 1),
        (1e6, 1, 0, 10.0, 20),
        (100.0, 0, 4, 80.0, 2),  # six of an epoch, ten of another; four are left over
        (10.0, 0, 4, 5.0, 7 / 8),  # three seconds of one each, and two for the evaluation
        (10.0, 0, 4, 9.0, 4 / 8),
        (10.0, 2, 4, 5.0, 2 + 7 / 8),
    ],
)
def test_what_fits(monkeypatch, seconds, epoch, batch, spent, expected):
    monkeypatch.setattr(budget, "clock", lambda: spent)
    limit = Budget(seconds, 20, 0.0)
    limit.num_batches, limit.batch_seconds, limit.evaluation_seconds = 8, 1.0, 2.0
    limit.note(epoch, batch, float(batch))
    assert limit.fitting() == expected
    assert not math.isnan(limit.after_training())


def test_the_schedules_follow_a_plan_of_fewer_epochs():
    step = ScheduleConfig(name="step", milestones=(30, 60))
    assert [lr_factor(step, epoch, 90, 9.0) for epoch in (0, 2.9, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])
    cosine = ScheduleConfig(name="cosine", warmup_epochs=5.0, warmup_start=0.0)
    found = [lr_factor(cosine, epoch, 100, 10.0) for epoch in (1, 2, 6, 10)]  # a warm-up of a fifth
    assert found == pytest.approx([0.5, 1, 0.5, 0])
    assert lr_factor(cosine, 2.5, 100, 100.0) == lr_factor(cosine, 2.5, 100)
    one_cycle = ScheduleConfig(name="one_cycle", peak=0.2)
    assert lr_factor(one_cycle, 2, 100, 10.0) == 1


def test_a_limit_must_be_positive():
    with pytest.raises(SenetError, match="max_seconds is 0; expected a positive number of seconds"):
        replace(LIMITED, max_seconds=0)
