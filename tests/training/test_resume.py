"""A run that was stopped, killed or cut off goes on as if nothing had happened, bit for bit."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache, wraps
from pathlib import Path

import pytest
import torch

from drivers import command
from senet.data import loading
from senet.data.config import Augmentation
from senet.data.memory import MemoryLoader
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training import loop, scoring
from senet.training.budget import MEASURED
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig, RegularizationConfig, ScheduleConfig
from senet.training.stalls import HEADING

SIZES = {"train": 96, "eval": 60}
SIMPLE = replace(digits(), epochs=3, compute=ComputeConfig(cpu=True))  # three batches of 32 an epoch
EVERYTHING = replace(  # six batches of 16 an epoch, in windows of four and two
    SIMPLE,
    epochs=4,
    batch_size=16,
    model=replace(SIMPLE.model, options={"dropout": 0.3}),
    data=replace(SIMPLE.data, augmentation=Augmentation(flip=True, padding=1, cutout=2)),
    optimizer=replace(SIMPLE.optimizer, lr=1.0, clip_norm=1.0, decay_norm_and_bias=False),
    schedule=ScheduleConfig(name="plateau", patience=0, factor=0.5, warmup_epochs=0.5),
    regularization=RegularizationConfig(
        label_smoothing=0.1, mixup=0.4, cutmix=1.0, ema_decay=0.8, freeze_bn_epochs=1, drop_path=0.3
    ),
    compute=ComputeConfig(cpu=True, accumulate=4, precision="bf16"),
)
CONFIGS = {"simple": SIMPLE, "everything": EVERYTHING}
open_all = cache(loading.open_split)


@pytest.fixture(autouse=True)
def _few_digits_on_one_thread(monkeypatch):
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_all(data, split), size=SIZES[split]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the finished run of a configuration's name, trained once."""
    return cache(lambda name: train(CONFIGS[name], tmp_path_factory.mktemp("whole") / "run"))


def state_of(run):
    return torch.load(run / "last" / "training_state.pt", weights_only=True)


def timeless(row):
    return {
        key: value for key, value in row.items() if key not in ("images_per_s", "time_s", "data_wait_s", "evaluation_s")
    }


def assert_equal(actual, expected, path="state"):
    """Compare nested containers; tensors bit for bit."""
    assert type(actual) is type(expected), path
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected), path
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            assert_equal(actual[key], expected[key], f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), path
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_equal(a, b, f"{path}.{i}")
    else:
        assert actual == expected, path


def assert_same_run(actual: Path, expected: Path):
    """Compare all that two run folders hold, but for the time it took."""
    rows, expected_rows = ([timeless(row) for row in read_jsonl(run / "metrics.jsonl")] for run in (actual, expected))
    assert rows == expected_rows
    states = state_of(actual), state_of(expected)
    for state in states:
        del state["position"]["seconds"], state["position"]["data_wait_s"]
        for measured in ("spent", *MEASURED):
            del state["budget"][measured]
    assert_equal(*states)
    for kind in ("best", "last"):
        files = [(run / kind / "model.safetensors").read_bytes() for run in (actual, expected)]
        assert files[0] == files[1], kind
        noted = [json.loads((run / kind / "config.json").read_text()) for run in (actual, expected)]
        assert timeless(noted[0].pop("metrics")) == timeless(noted[1].pop("metrics")), kind
        assert noted[0] == noted[1]


def lines_of(run):
    """What steps.jsonl says but for the time it took, by step."""
    rows = read_jsonl(run / "steps.jsonl")
    return [{key: row[key] for key in ("step", "epoch", "batch", "steps", "loss", "lr")} for row in rows]


def send_at(monkeypatch, epoch, batch, signum):
    """Send a signal to this process when a training batch is asked for, or with "evaluation" after the last."""
    batches, scored = MemoryLoader.batches, loop.Trainer.evaluate_epoch

    def signaling(self, now_epoch, start=0):
        for number, items in enumerate(batches(self, now_epoch, start), start):
            if self.order.shuffle and (now_epoch, number) == (epoch, batch):
                os.kill(os.getpid(), signum)
            yield items

    def signaling_evaluation(self):
        if (self.position.epoch, batch) == (epoch, "evaluation"):
            os.kill(os.getpid(), signum)
        return scored(self)

    monkeypatch.setattr(MemoryLoader, "batches", signaling)
    monkeypatch.setattr(loop.Trainer, "evaluate_epoch", signaling_evaluation)


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("simple", [(0, 0)]),
        pytest.param("simple", [(1, 1)], marks=pytest.mark.slow),
        pytest.param("simple", [(1, "evaluation")], marks=pytest.mark.slow),
        pytest.param("everything", [(0, 1), (3, 0)], marks=pytest.mark.slow),
        ("everything", [(1, 2), (1, "evaluation"), (2, 3)]),
        ("everything", [(2, 5)]),  # in the epoch's last window: the epoch is ended first
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch, uninterrupted, name, stops):
    for i, (epoch, batch) in enumerate(stops):
        signum = (signal.SIGTERM, signal.SIGINT)[i % 2]
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        with monkeypatch.context() as patched:
            send_at(patched, epoch, batch, signum)
            with pytest.raises(TrainingInterrupted, match=r"`senet train --resume .*run` goes on") as caught:
                resume(tmp_path / "run") if i else train(CONFIGS[name], tmp_path / "run")
        assert caught.value.signum == signum
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
        position = state_of(tmp_path / "run")["position"]
        at_end = batch in (5, "evaluation")
        window_end = 0 if at_end else batch + 1 if name == "simple" else 4
        assert (position["epoch"], position["batch"]) == (epoch + at_end, window_end)
    assert_same_run(resume(tmp_path / "run"), uninterrupted(name))


def test_a_signal_in_the_last_epoch_s_evaluation_has_nothing_left_to_stop(tmp_path, monkeypatch, uninterrupted):
    send_at(monkeypatch, 2, "evaluation", signal.SIGTERM)
    assert_same_run(train(SIMPLE, tmp_path / "run"), uninterrupted("simple"))


def test_a_run_killed_in_an_evaluation_that_outlasts_a_signal_loses_nothing(tmp_path, monkeypatch, uninterrupted):
    """Batch systems send SIGTERM, and SIGKILL soon after; the epoch's training must not be done again."""

    class Killed(BaseException):
        pass

    def killed(model, batches, **options):
        if trainers[-1].position.epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            next(iter(batches))
            raise Killed
        return score(model, batches, **options)

    score, evaluate, trainers = scoring.score, loop.Trainer.evaluate, []
    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "evaluate", lambda self: (trainers.append(self), evaluate(self))[1])
        patched.setattr(scoring, "score", killed)
        with pytest.raises(Killed):
            train(SIMPLE, tmp_path / "run")
    position = state_of(tmp_path / "run")["position"]
    assert (position["epoch"], position["batch"]) == (1, 3)
    assert_same_run(resume(tmp_path / "run"), uninterrupted("simple"))


def test_a_model_is_no_run(tmp_path, uninterrupted):
    with pytest.raises(SenetError, match="holds a model, not a run; name the folder of the run"):
        resume(uninterrupted("simple") / "best")


def test_a_finished_run_is_left_as_it_is(tmp_path, uninterrupted):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run = train(SIMPLE, tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    before = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    assert_same_run(resume(run), uninterrupted("simple"))
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == before


def test_a_second_ctrl_c_does_not_wait_for_the_first(tmp_path, monkeypatch, uninterrupted):
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    try:
        with monkeypatch.context() as patched:
            for _ in range(2):
                send_at(patched, 1, 1, signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                train(SIMPLE, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, usual)
    assert state_of(tmp_path / "run")["position"]["epoch"] == 1
    assert_same_run(resume(tmp_path / "run"), uninterrupted("simple"))


@pytest.mark.slow
def test_a_killed_program_s_run_goes_on(tmp_path, uninterrupted):
    """The program is killed at a random moment after its first epoch."""
    run = tmp_path / "run"
    program = subprocess.Popen(command("digits_to_be_killed.py", run), stderr=subprocess.DEVNULL)
    started = time.monotonic()
    while not (run / "metrics.jsonl").exists() and time.monotonic() - started < 60:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.2))
    program.kill()
    program.wait()
    assert_same_run(resume(run), uninterrupted("simple"))


def in_child(function, *args, **options):
    """Call a function in a forked process and return the exit status, -9 for SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args, kwargs=options)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def forks(test):
    """Run a test that forks in a pytest of its own: once autograd has started threads, its process cannot be forked."""

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the process that is killed is a fork of this one")
    @wraps(test)
    def alone(*args, **options):
        if "SENET_TEST_ALONE" in os.environ:
            return test(*args, **options)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", f"{__file__}::{test.__name__}"],
            env={**environment, "SENET_TEST_ALONE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return None

    return alone


@pytest.mark.slow
@forks
def test_a_run_killed_again_and_again_goes_on(tmp_path, uninterrupted):
    config, run = replace(EVERYTHING, checkpoint_every=1), tmp_path / "run"

    def killed_after(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM ends the process as it stands, like SIGKILL
        resume(run)

    RunFolder(run).start(config)
    codes = [in_child(killed_after, random.uniform(0.05, 0.4)) for _ in range(5)]
    assert -signal.SIGALRM in codes, codes
    assert_same_run(resume(run), uninterrupted("everything"))
    rates = [row["lr"] for row in read_jsonl(run / "metrics.jsonl")]
    assert rates[-1] < rates[0]  # the plateau, and with it the state of the schedule, has played its part


@pytest.mark.slow
@forks
def test_a_kill_between_any_two_files_of_a_save_loses_nothing(tmp_path, monkeypatch):
    """The first epoch's model stays the best, so that nothing later repairs a best/ that a killed run has left."""
    config = replace(SIMPLE, epochs=2, batch_size=96)
    evaluate_epoch, top1 = loop.Trainer.evaluate_epoch, {1: 50.0, 2: 40.0}
    monkeypatch.setattr(
        loop.Trainer,
        "evaluate_epoch",
        lambda self: {**evaluate_epoch(self), "top1": top1[self.position.epoch + 1]},
    )
    whole = train(config, tmp_path / "whole")
    replaced, real_replace = [], Path.replace

    def train_until(num_replaced, run):
        def dying_replace(self, target):
            if len(replaced) == num_replaced:
                os.kill(os.getpid(), signal.SIGKILL)
            replaced.append(target)
            return real_replace(self, target)

        Path.replace = dying_replace  # in the child alone
        train(config, run)

    # Each run dies one file later than the one before, from three files of the start on: ten are of the first epoch
    # (weights, configuration and card of best/ and last/, and the training state, with three checksums), eight of the
    # second (those of last/ alone, and the state before).
    killed = []
    for n in range(3, 30):
        run = tmp_path / f"run{n}"
        if in_child(train_until, n, run) == 0:
            break
        killed.append({str(path.relative_to(run)) for path in run.rglob("*") if not path.name.startswith(".")})
        assert_same_run(resume(run), whole)
    assert len(killed) == 10 + 8
    assert "metrics.jsonl" in killed[0]
    assert [name for name in killed[0] if name.startswith("last/")] in ([], ["last/model.safetensors.sha256"])


def stopped(monkeypatch, run, config=SIMPLE, epoch=1, batch=0):
    with monkeypatch.context() as patched:
        send_at(patched, epoch, batch, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught:  # in a notebook, it is what Ctrl-C gives
            train(config, run)
    assert isinstance(caught.value, TrainingInterrupted)
    return run


def test_more_epochs_go_on_with_a_finished_run_and_are_kept(tmp_path, monkeypatch, capsys):
    run = train(replace(SIMPLE, epochs=1), tmp_path / "run")
    capsys.readouterr()
    resume(run)
    assert f"{run} is finished: epoch 1 of 1 is trained; set more epochs to go on" in capsys.readouterr().err
    before = sorted(run.rglob("*"))
    (run / "stacks").mkdir()
    (run / "stacks" / "process0.txt").write_text(f"{HEADING}1` writes the stacks here:\n")
    (run / "last" / ".model.safetensors.1.part").touch()
    resume(run)
    assert sorted(run.rglob("*")) == before, "what a process has left that was killed at the end"
    stopped_at = []
    monkeypatch.setattr(loop.Trainer, "evaluate_epoch", stopping_after(1, loop.Trainer.evaluate_epoch, stopped_at))
    with pytest.raises(TrainingInterrupted):
        resume(run, epochs=3, num_workers=0)
    resume(run)
    assert [row["epoch"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    stored = json.loads((run / "config.json").read_text())
    assert (stored["epochs"], stored["data"]["num_workers"]) == (3, 0)
    with pytest.raises(SenetError, match=r"epochs is 2, but .* has trained 3 already; give more"):
        resume(run, epochs=2)


def stopping_after(epoch, evaluate, stopped_at):
    """Return an evaluation that ends in a signal, once, after so many epochs."""

    def evaluate_and_stop(trainer):
        if trainer.position.epoch == epoch and not stopped_at:
            stopped_at.append(epoch)
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(trainer)

    return evaluate_and_stop


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 95}, "num_train_images was 96 and is 95"),
        ({"class_names": tuple("abcdefghij")}, "class_names was [0, 1, 2, 3, 4 and 5 more] and is [a, "),
    ],
)
def test_a_run_whose_data_have_changed_says_so(tmp_path, monkeypatch, changes, said):
    run = stopped(monkeypatch, tmp_path / "run")
    few = loading.open_split
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(few(data, split), **changes))
    with pytest.raises(SenetError) as caught:
        resume(run)
    assert str(caught.value).startswith(f"the data of {run} have changed: {said}")
    assert "; restore them, or start another run" in str(caught.value)


def test_a_run_of_the_version_before_the_first_release_goes_on(tmp_path, monkeypatch, uninterrupted):
    run = stopped(monkeypatch, tmp_path / "run")
    values = json.loads((run / "config.json").read_text())
    values["regularisation"] = values.pop("regularization")
    values["compute"]["fused"] = None
    values["model"] |= {"inserted": [], "inserted_se": values["model"]["se"], "removed": []}
    (run / "config.json").write_text(json.dumps(values))
    (run / "data.json").unlink()
    assert_same_run(resume(run), uninterrupted("simple"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "text", "list"])
def test_a_damaged_training_state_is_refused_in_one_sentence(tmp_path, monkeypatch, damage):
    send_at(monkeypatch, 0, 0, signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        train(SIMPLE, tmp_path / "run")
    file = tmp_path / "run" / "last" / "training_state.pt"
    whole = file.read_bytes()
    if damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, file)
    elif damage == "list":
        torch.save([1, 2], file)
    else:
        file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no training state"}[damage])
    with pytest.raises(SenetError) as caught:
        resume(tmp_path / "run")
    said = str(caught.value)
    assert str(file) in said
    assert "start again elsewhere" in said
    assert "\n" not in said
