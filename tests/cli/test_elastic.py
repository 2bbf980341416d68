"""Processes that torchrun starts again after one was killed, and what signals to torchrun save and say."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drivers import ENVIRONMENT
from senet.data import loading
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.finetuning import run as finetuning
from senet.launch import job
from senet.recipes.digits import digits
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import train
from senet.training.run import RunFolder
from senet.training.sections import ComputeConfig
from stopping import stop_at, wait_for

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [  # with --cpu it would start one process
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
]
ENV = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true"}


@pytest.fixture
def few(monkeypatch):
    """Digits of which there are few."""
    open_split = loading.open_split
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_split(data, split), size=64))


CONFIG = replace(digits(), epochs=2, batch_size=16, compute=ComputeConfig(cpu=True, compile="off"))


def test_the_same_start_of_torchrun_goes_on_with_its_run_and_with_no_other(tmp_path, few, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    with monkeypatch.context() as patched:
        stop_at(patched, 1, 1)
        with pytest.raises(TrainingInterrupted):
            train(CONFIG, run)
    for variable, config in (("second", CONFIG), ("first", replace(CONFIG, seed=1))):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", variable)
        with pytest.raises(SenetError, match="holds a run already"):
            train(config, run)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(SenetError, match="holds a run already"):
        train(CONFIG, run)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    assert train(CONFIG, run) == run
    assert [row["epoch"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2]
    whole = torch.load(train(CONFIG, tmp_path / "whole") / "last/training_state.pt")["model"]
    found = torch.load(run / "last/training_state.pt")["model"]
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())


def test_without_an_id_a_start_is_known_by_its_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert job().split()[1:] == [str(os.getppid()), "29500"]
    assert job() == job()


def test_finetuning_that_is_started_again_plans_nothing(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    RunFolder(run).start(CONFIG)
    monkeypatch.setattr(finetuning, "resume", lambda output, **options: output)
    assert finetuning.finetune(tmp_path / "gone", run, model="no such network") == run
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    with pytest.raises(SenetError, match="holds a run already"):
        finetuning.finetune(tmp_path / "gone", run, model="no such network")


# ---- real processes --------------------------------------------------------------------------------------------------


def start(launcher, *words, command="train", **variables):
    """Start a run of digits in two processes, or what `words` say, in a process group of its own, as a shell does."""
    argv = [*launcher, "-m", "senet", command, *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(argv, **streams, text=True, env={**ENVIRONMENT, **variables}, start_new_session=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of small pictures: 40 to train on, 4 to evaluate on."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 2)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def on(images, run):
    """Return the words for a run of 3 epochs of 10 batches."""
    words = ["digits", "--data", images, "--output", run, "--epochs", 3, "--batch-size", 2, "--checkpoint-every", 2]
    words += ["--model.name", "cifar_resnet20", "--model.in-channels", 3, "--compute.cpu"]
    return [*words, "--data.preprocessing.mean", *"000", "--data.preprocessing.std", *"111"]


def worker(run, rank):
    """Return the id of the process of a rank that trains a run."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words, variables = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:  # it has ended, or is somebody else's
            continue
        if str(run).encode() in words and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    return None


def batches_saved(run):
    """Return how many batches are done in what a run has saved."""
    try:
        position = torch.load(run / "last/training_state.pt")["position"]
    except (OSError, RuntimeError, EOFError):
        return 0
    return 1000 * position["epoch"] + position["batch"]


def weights(run):
    return torch.load(run / "last/training_state.pt")["model"]


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(TORCHRUN, *on(images, run))
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    return weights(run)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")


@pytest.mark.slow
@linux
def test_a_run_goes_on_by_itself_after_either_process_was_killed(images, tmp_path, whole):
    """The second in the first epoch, then the first, which holds the folder's lock and writes, in the second epoch."""
    run = tmp_path / "run"
    process = start([*TORCHRUN, "--max-restarts", "3"], *on(images, run))
    for rank, batches in ((1, 2), (0, 1004)):
        wait_for(lambda batches=batches: batches_saved(run) >= batches, seconds=200)
        os.kill(worker(run, rank), signal.SIGKILL)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert "holds a run" not in said
    assert "another process trains" not in said
    found = weights(run)
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())
    assert [row["epoch"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    steps = [row["step"] for row in read_jsonl(run / "steps.jsonl")]
    assert steps == sorted(set(steps))


@pytest.mark.slow
@linux
def test_a_fine_tuning_goes_on_by_itself_after_a_process_was_killed(images, tmp_path):
    """The same command finds its run, whose length and batches it does not choose again."""
    found = []
    for name, killed in (("run", True), ("whole", False)):
        run = tmp_path / name
        words = [images, "--model", "cifar_se_resnet20", "--output", run, "--epochs", 8, "--batch-size", 4]
        words += ["--compute.cpu", "--checkpoint-every", 2]
        process = start([*TORCHRUN, "--max-restarts", "3"], *words, command="finetune")
        if killed:
            wait_for(lambda run=run: batches_saved(run) >= 1002, seconds=200)
            os.kill(worker(run, 1), signal.SIGKILL)
        said = process.communicate(timeout=400)[0]
        assert process.returncode == 0, said
        assert read_jsonl(run / "metrics.jsonl")[-1]["epoch"] == 8
        found.append(weights(run))
    assert all(torch.equal(found[0][key], tensor) for key, tensor in found[1].items())


@pytest.mark.slow
@linux
@pytest.mark.parametrize("launcher", [TORCHRUN, [*TORCHRUN, "--max-restarts", "3"], ACCELERATE])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_launcher_saves_the_run_and_says_how_it_goes_on(images, tmp_path, whole, launcher, number):
    run = tmp_path / "run"
    process = start(launcher, *on(images, run))
    wait_for(lambda: batches_saved(run) >= 4, seconds=200)
    os.killpg(process.pid, number)  # as a terminal does; torchrun's processes have groups of their own
    said = process.communicate(timeout=200)[0]
    assert process.returncode != 0
    sentences = [line for line in said.splitlines() if line.startswith("senet: ")]
    assert len(sentences) == 1, said
    assert re.search(r"stopped in epoch \d of 3, after \d+ of \d+ batches; saved in", sentences[0])
    assert f"-m senet train --resume {shlex.quote(str(run))}" in said
    process = start(TORCHRUN, "--resume", run)
    assert process.wait(400) == 0, process.communicate()[0]
    assert all(torch.equal(weights(run)[key], tensor) for key, tensor in whole.items())
    assert json.loads((run / "config.json").read_text())["num_processes"] == 2


@pytest.mark.slow
@linux
def test_a_machine_that_joins_takes_its_part_and_the_run_goes_on(images, tmp_path):
    """torchrun ends the one process of the first machine, and starts one on each; the run keeps its batches.

    Where torchrun shares its own store with the processes, as it does by default, a machine that joins waits for an
    address that is told only once (PyTorch 2.14, torch/distributed/elastic/rendezvous/dynamic_rendezvous.py).
    """
    variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    run = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"127.0.0.1:{server.getsockname()[1]}"
    machines = ["--nnodes", "1:2", "--nproc-per-node", "1", "--rdzv-id", "joining", "--max-restarts", "3"]
    launcher = [*TORCHRUN[:3], *machines, "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    words = [*on(images, run), "--epochs", 60, "--batch-size", 8]
    first = start(launcher, *words, **variables)
    wait_for(lambda: batches_saved(run) >= 2, seconds=200)
    second = start(launcher, *words, **variables)
    said, other = (machine.communicate(timeout=400)[0] for machine in (first, second))
    assert first.returncode == 0, said + other
    assert second.returncode == 0, other
    assert "goes on with 2 processes, 2 of which divide the run's one share of a batch among them" in said
    assert json.loads((run / "config.json").read_text())["num_processes"] == 1
    assert [row["epoch"] for row in read_jsonl(run / "metrics.jsonl")] == [*range(1, 61)]
    steps = [row["step"] for row in read_jsonl(run / "steps.jsonl")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 60 * 5
