"""A run that reads images by worker processes saves whoever dies beside it: real signals to real processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senet.cli import main

NUM_TRAIN = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of small pictures of noise."""
    folder, random = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    for split, count in (("train", NUM_TRAIN), ("val", 4)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count // 2):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def command(images, output, *more):
    options = {
        "--data": images,
        "--output": output,
        "--epochs": 20,
        "--batch-size": 4,
        "--model.name": "cifar_resnet20",
        "--model.in-channels": 3,
        "--data.num-workers": 2,
    }
    words = [str(word) for pair in options.items() for word in pair]
    words += [
        "--data.preprocessing.mean",
        *"000",
        "--data.preprocessing.std",
        *"111",
        "--data.augmentation.padding",
        "0",
    ]
    return [sys.executable, "-m", "senet", "train", "digits", *words, "--data.no-in-memory", "--compute.cpu", *more]


def start(*argv):
    """Start a run in a process group of its own, as a shell does."""
    return subprocess.Popen(
        command(*argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def epochs_of(run):
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def children(process):
    """Return the ids of the processes that a process has started: its workers."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def finish(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    said = [line for line in err.splitlines() if line.startswith("senet: ")]
    assert len(said) == 1, err
    return process.returncode, said[0], out + err


def weights(run):
    return torch.load(run / "last" / "training_state.pt")["model"]


def run_here(*argv):
    """Run the command to its end in this process, without workers, which must not change what comes out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main([*map(str, argv), "--data.num-workers", "0"]) == 0
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    run_here(*command(images, run)[3:])
    return weights(run)


def assert_goes_on(run, whole):
    run_here("train", "--resume", run)
    resumed = weights(run)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")


@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([signal.SIGTERM], 143),
        pytest.param([signal.SIGTERM, signal.SIGTERM], 143, marks=pytest.mark.slow),
        pytest.param([signal.SIGINT], 130, marks=pytest.mark.slow),
    ],
    ids=["SIGTERM", "SIGTERM twice, as of `timeout`", "Ctrl-C"],
)
def test_a_signal_to_all_processes_saves_the_run(images, tmp_path, whole, signals, status):
    run = tmp_path / "run"
    process = start(images, run)
    wait_until(lambda: epochs_of(run) >= 2, process)
    assert len(children(process)) >= 2
    for number in signals:
        os.killpg(process.pid, number)
        time.sleep(0.01)
    code, said, everything = finish(process)
    assert code == status, everything
    assert "stopped in epoch" in said
    assert "saved in" in said
    assert f"senet train --resume {run}" in everything
    assert_goes_on(run, whole)


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_a_saved_run(images, tmp_path, whole):
    run = tmp_path / "run"
    process = start(images, run)
    wait_until(lambda: epochs_of(run) >= 2, process)
    os.kill(children(process)[0], signal.SIGKILL)
    code, said, everything = finish(process)
    assert code == 2, everything
    assert "a process that reads images failed" in said
    assert "lower --data.num-workers" in said
    assert "saved in" in said
    assert_goes_on(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", pytest.param("val", marks=pytest.mark.slow)])
def test_an_image_that_cannot_be_read_leaves_a_saved_run(images, tmp_path, whole, split):
    run, copy = tmp_path / "run", tmp_path / "images"
    shutil.copytree(images, copy)
    bad = copy / split / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:40])
    code, said, everything = finish(start(copy, run))
    assert code == 2, everything
    assert f"{bad} cannot be read" in said
    assert "replace or remove it" in said
    assert "stopped in epoch 1 of 20" in said
    assert ("after 3 of 3 batches" in said) == (split == "val")
    shutil.copy(images / split / "dog" / "1.png", bad)
    assert_goes_on(run, whole)
