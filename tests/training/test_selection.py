"""The best epoch by each metric, and runs that end before their last epoch."""

import json
import math
import os
import signal
from dataclasses import replace

import pytest
import torch

from senet.analysis.runs import read_run
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training import loop
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.sections import ComputeConfig, ScheduleConfig, SelectionConfig
from senet.training.selection import Selection

SHORT = replace(digits(), epochs=8, batch_size=96, compute=ComputeConfig(cpu=True))  # one step an epoch
ROWS = [
    # Top-1 is highest where a single class is predicted for everything; the loss where it is sure and wrong.
    {"epoch": 1, "top1": 90.0, "balanced_accuracy": 10.0, "macro_f1": 9.5, "loss": 0.5},
    {"epoch": 2, "top1": 80.0, "balanced_accuracy": 60.0, "macro_f1": 55.0, "loss": 0.7},
    {"epoch": 3, "top1": 80.0, "balanced_accuracy": 60.0, "macro_f1": 58.0, "loss": 0.6},
    {"epoch": 4, "top1": 80.0, "balanced_accuracy": 60.0, "macro_f1": 58.0, "loss": 0.65},
]


@pytest.mark.parametrize(("metric", "best"), [("top1", 1), ("loss", 1), ("balanced_accuracy", 3), ("macro_f1", 3)])
def test_the_best_epoch_by_each_metric(metric, best):
    selection = Selection(SelectionConfig(metric=metric))
    taken = [selection.take(row) for row in ROWS]
    assert selection.epoch == best
    assert taken[best - 1]
    assert list(selection.row) == [name for name in ROWS[0] if name in (metric, "loss")]
    assert not any(taken[best:])
    again = Selection(SelectionConfig(metric=metric))
    again.load_state_dict(json.loads(json.dumps(selection.state_dict())))
    assert not any(again.take(row) for row in ROWS)


def test_the_first_epoch_is_the_best_so_far_whatever_it_is_and_numbers_beat_nan():
    selection = Selection(SelectionConfig(metric="loss"))
    assert selection.take({"epoch": 1, "loss": math.nan})
    assert not selection.take({"epoch": 2, "loss": math.nan})
    assert selection.take({"epoch": 3, "loss": 9.0})
    assert not selection.take({"epoch": 4, "loss": math.nan})
    assert selection.in_words() == "the best epoch is 3, with loss 9.0000"


def test_patience_counts_the_epochs_since_the_best():
    selection = Selection(SelectionConfig(metric="top1", patience=2))
    for epoch, top1, over in ((1, 1.0, False), (2, 1.0, False), (3, 2.0, False), (4, 1.0, False), (5, 0.0, True)):
        selection.take({"epoch": epoch, "top1": top1, "loss": 1.0})
        assert selection.is_over(epoch) == over


@pytest.fixture(autouse=True)
def _small(few_digits):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measured(monkeypatch, **columns):
    """Let the epochs of runs measure what is given, one value an epoch."""
    evaluate_epoch, evaluate = loop.Trainer.evaluate_epoch, loop.Trainer.evaluate

    def row(trainer):
        epoch = trainer.position.epoch
        return evaluate_epoch(trainer) | {name: values[epoch] for name, values in columns.items()}

    def evaluation(trainer):
        values = columns.get("loss", ())
        found = evaluate(trainer)
        return found | {"loss": values[trainer.position.epoch]} if values else found

    monkeypatch.setattr(loop.Trainer, "evaluate_epoch", row)
    monkeypatch.setattr(loop.Trainer, "evaluate", evaluation)


def stopped(monkeypatch, epoch, start):
    """Start a run that gets a signal in an epoch, which has one step and is ended first."""
    train_epoch = loop.Trainer.train_epoch

    def stopping(trainer, reporter):
        if trainer.position.epoch == epoch:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_epoch(trainer, reporter)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "train_epoch", stopping)
        with pytest.raises(TrainingInterrupted):
            start()


def trained(run):
    return [row["epoch"] for row in read_jsonl(run / "metrics.jsonl")]


def best_of(run):
    return json.loads((run / "best" / "config.json").read_text())["metrics"]["epoch"]


@pytest.mark.parametrize("stops", [(0, 3), *(pytest.param(stops, marks=pytest.mark.slow) for stops in ((), (1,)))])
def test_a_run_ends_when_no_epoch_is_better_also_if_it_was_stopped(tmp_path, monkeypatch, caplog, stops):
    """By balanced accuracy, the first epoch, which is best by top-1, is not kept."""
    config = replace(SHORT, selection=SelectionConfig(metric="balanced_accuracy", patience=2))
    measured(monkeypatch, balanced_accuracy=[10.0, 50.0, 60.0, 55.0, 60.0, 99.0, 1.0, 1.0], loss=[1.0] * 8)
    caplog.set_level("INFO")
    run = tmp_path / "run"
    for number, epoch in enumerate(stops):
        stopped(monkeypatch, epoch, lambda number=number: resume(run) if number else train(config, run))
    run = resume(run) if stops else train(config, run)
    assert (trained(run), best_of(run)) == ([1, 2, 3, 4, 5], 3)
    said = "epoch 5 of at most 8 is trained, and none since epoch 3 had a better balanced accuracy (selection.patience)"
    assert f"run: {said}; the best epoch is 3, with balanced accuracy 60.00 %, kept in best/" in caplog.text

    caplog.clear()
    resume(run)
    assert f"{run} is finished: {said}; set selection.patience to more than 2 to go on" in caplog.text
    assert trained(run) == [1, 2, 3, 4, 5]
    resume(run, patience=3)
    assert (trained(run), best_of(run)) == ([1, 2, 3, 4, 5, 6, 7, 8], 6)


def test_plateau_ends_a_run_after_its_drops_and_once_more(tmp_path, monkeypatch, caplog):
    """The loss falls in epoch 1 and 2 alone; each drop needs one epoch without (patience 0), the end a third."""
    config = replace(SHORT, schedule=ScheduleConfig(name="plateau", patience=0, factor=0.5, max_drops=2))
    measured(monkeypatch, loss=[3.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0])
    caplog.set_level("INFO")
    whole = train(config, tmp_path / "whole")
    said = "epoch 5 of at most 8 is trained, and the loss has stopped falling after 2 reductions of the learning rate"
    assert said in caplog.text
    rates = [row["lr"] for row in read_jsonl(whole / "metrics.jsonl")]
    assert rates == pytest.approx([rates[0]] * 3 + [rates[0] / 2, rates[0] / 4])
    run = tmp_path / "run"
    stopped(monkeypatch, 3, lambda: train(config, run))
    assert trained(resume(run)) == trained(whole) == [1, 2, 3, 4, 5]
    caplog.clear()
    resume(run)
    assert f"{run} is finished: {said}; set schedule.max_drops to more than 2 to go on" in caplog.text
    assert read_run(run).state == "early"
    assert trained(resume(run, max_drops=3)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_metrics_and_lines_have_what_classes_of_few_images_need(tmp_path, caplog):
    caplog.set_level("INFO")
    run = train(replace(SHORT, epochs=1), tmp_path / "run")
    (row,) = read_jsonl(run / "metrics.jsonl")
    assert 0 <= row["macro_f1"] <= row["balanced_accuracy"] <= 100
    assert f"balanced {row['balanced_accuracy']:.2f} %  macro F1 {row['macro_f1']:.2f} %" in caplog.text
    assert "epoch 1 of 1 is trained; the best epoch is 1, with top-1" in caplog.text


def test_a_run_of_the_version_before_goes_on_with_the_best_it_had(tmp_path, monkeypatch):
    """Its state has the best top-1, its configuration none of the new fields."""
    measured(monkeypatch, top1=[70.0, 70.0, 60.0, 70.0, 1.0, 1.0, 1.0, 1.0], loss=[2.0, 1.5, 1.0, 1.8] + [9.0] * 4)
    run = tmp_path / "run"
    stopped(monkeypatch, 3, lambda: train(SHORT, run))
    file = run / "last" / "training_state.pt"
    state = torch.load(file, weights_only=True)
    del state["selection"], state["budget"], state["schedule"]["drops"]
    state["position"]["best_top1"] = 70.0
    torch.save(state, file)
    file.with_name(f"{file.name}.sha256").unlink()
    values = json.loads((run / "config.json").read_text())
    for name in ("objective", "selection", "freeze", "head_epochs", "max_seconds", "trackers"):
        del values[name]
    for section, names in {
        "optimizer": ("name", "layer_decay", "options"),
        "schedule": ("max_drops",),
        "regularization": ("drop_path", "ema_warmup"),
        "compute": ("grad_checkpointing",),
    }.items():
        for name in names:
            del values[section][name]
    (run / "config.json").write_text(json.dumps(values))
    resume(run)
    assert trained(run) == list(range(1, 9))
    kept = torch.load(file, weights_only=True)["selection"]  # the former version kept the first of the best
    assert kept == {"epoch": 1, "row": {"top1": 70.0, "loss": 2.0}}


@pytest.mark.parametrize("values", [{"metric": "accuracy"}, {"patience": 0}])
def test_a_selection_that_cannot_be_is_refused(values):
    with pytest.raises(SenetError, match=r"^selection\.(metric|patience) is "):
        SelectionConfig(**values)
