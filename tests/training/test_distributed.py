"""Two processes on the CPU, as torchrun starts them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from drivers import run_in_two_processes
from senet.data.order import BatchOrder
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.recipes.digits import digits
from senet.training.loop import train
from senet.training.sections import ComputeConfig

NUM_EVAL = 37  # two batches of 32 in all; of the last, one process gets 3 images and the other 2


def assert_same_tensors(actual, expected):
    assert actual.keys() == expected.keys()
    assert not [key for key, tensor in expected.items() if not torch.equal(actual[key], tensor)]


def test_two_processes_train_one_network_stop_together_and_go_on(tmp_path: Path):
    """One of them is sent a signal, first in an evaluation, then within an epoch."""
    run_in_two_processes("training_of_two_processes.py", tmp_path, NUM_EVAL)

    for rank in range(2):
        assert (tmp_path / f"joined{rank}").read_text() == "False"
        counts, said = json.loads((tmp_path / f"told{rank}.json").read_text())
        assert counts == [NUM_EVAL] * 4  # every image once in both epochs of both runs
        assert len(said) == 2
        assert "in epoch 2 of 2, after 0 of 4 batches" in said[0]
        assert "in epoch 2 of 2, after 2 of 4 batches" in said[1]

    (model0, ema0), (model1, ema1) = (torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2))
    assert_same_tensors(ema1, ema0)
    statistics = {key for key in model0 if "running" in key}  # each process's own, of the images that it has seen
    assert_same_tensors(*({k: t for k, t in model.items() if k not in statistics} for model in (model1, model0)))

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rows = [read_jsonl(run / "metrics.jsonl") for run in (whole, parts)]
    for ours in rows:
        assert [row["epoch"] for row in ours] == [1, 2]
    for name in ("train_loss", "loss"):  # also of an epoch in which the run was stopped
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]]
    states = [torch.load(run / "last" / "training_state.pt") for run in (parts, whole)]
    for part in ("model", "ema"):
        assert_same_tensors(*(state[part] for state in states))


@pytest.mark.slow
def test_compressed_gradients_are_the_mean_rounded_to_16_bits(tmp_path: Path):
    """Bit for bit what the two processes' own gradients give when they are rounded, halved and added in 16 bits."""
    kinds = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    run_in_two_processes("gradients_of_two_processes.py", tmp_path, *kinds)
    found = [torch.load(tmp_path / f"gradients{rank}.pt") for rank in range(2)]
    for kind, dtype in kinds.items():
        one, other = (each[kind] for each in found)
        assert_same_tensors(one["summed"], other["summed"])
        assert_same_tensors(one["weights"], other["weights"])
        for name, summed in one["summed"].items():
            parts = [each["bf16"]["own"][name].double() for each in found]  # the same in all runs, which begin alike
            exact, size = sum(parts) / 2, sum(part.abs() for part in parts) / 2
            ulps = {None: 2**-23, torch.bfloat16: 2**-7, torch.float16: 2**-10}  # half of one, twice
            relative = 1.01 * ulps[dtype]
            assert ((summed - exact).abs() <= relative * size + 1e-7 * (dtype == torch.float16)).all(), (kind, name)
            if dtype is not None:
                halves = [each[kind]["own"][name].to(dtype) / 2 for each in found]
                assert torch.equal(summed, (halves[0] + halves[1]).float())
        assert kind == "none" or not torch.equal(one["summed"][name], found[0]["none"]["summed"][name])


@pytest.mark.slow
def test_two_processes_with_compressed_gradients_stop_and_go_on_bit_for_bit(tmp_path: Path):
    run_in_two_processes("training_of_two_processes.py", tmp_path, NUM_EVAL, "bf16")
    states = [torch.load(tmp_path / run / "last" / "training_state.pt") for run in ("parts", "whole")]
    assert_same_tensors(*(state["model"] for state in states))
    (model0, _), (model1, _) = (torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2))
    assert_same_tensors(*({k: t for k, t in model.items() if "running" not in k} for model in (model1, model0)))


@pytest.mark.parametrize(("option", "value"), [("gradient_compression", "bf16"), ("bucket_mb", 50)])
def test_options_of_the_gradients_sum_need_several_processes(tmp_path: Path, option, value):
    config = replace(digits(), compute=ComputeConfig(cpu=True, **{option: value}))
    with pytest.raises(SenetError, match=f"compute.{option} has no effect on a run of one process.*start several by"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SenetError, match="is 'int8'; expected one of none, bf16, fp16"):
        ComputeConfig(gradient_compression="int8")


@pytest.mark.slow
def test_two_processes_train_compiled_what_they_train_otherwise(tmp_path: Path):
    """With accumulated gradients, stopped and resumed as above."""
    folders = [tmp_path / kind for kind in ("compiled", "uncompiled")]
    for folder in folders:
        folder.mkdir()
        run_in_two_processes("training_of_two_processes.py", folder, NUM_EVAL, folder.name)
    losses = [[row["loss"] for row in read_jsonl(folder / "whole" / "metrics.jsonl")] for folder in folders]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    (model0, _), (model1, _) = (torch.load(folders[0] / f"weights{rank}.pt") for rank in range(2))
    weights = [{k: t for k, t in model.items() if "running" not in k} for model in (model0, model1)]
    assert_same_tensors(*weights)
    states = [torch.load(folders[0] / run / "last" / "training_state.pt") for run in ("parts", "whole")]
    assert_same_tensors(*(state["model"] for state in states))


def images_of_two_classes(folder):
    """Eight small pictures to train on, four to evaluate on."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


def torchrun(*argv):
    """Run a command of senet's in two processes; return what torchrun and they print, and how long it took."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "senet", *map(str, argv)]
    started = time.monotonic()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=180, env=env)
    return done, time.monotonic() - started


def on_disk(images, run):
    words = ["train", "digits", "--data", images, "--output", run, "--epochs", 2, "--batch-size", 2]
    words += ["--model.name", "cifar_resnet20", "--model.in-channels", 3, "--data.augmentation.padding", 0]
    words += ["--data.preprocessing.mean", *"000", "--data.preprocessing.std", *"111", "--compute.cpu"]
    return [*words, "--data.no-in-memory", "--data.num-workers", 1]


def assert_one_sentence(done, *said):
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    sentences = [line for line in lines if line.startswith("senet: ")]
    assert len(sentences) == 1, done.stderr
    for part in said:
        assert part in sentences[0]
    assert "/senet/" not in "".join(line for line in lines if line.lstrip().startswith("File ")), done.stderr
    assert "exitcode  : 2" in done.stderr or "exitcode: 2" in done.stderr


@pytest.mark.slow
def test_an_image_that_one_process_cannot_read_ends_both_with_one_sentence(tmp_path):
    """First one to evaluate on, which is the second process's; then one to train on; then none, and the run goes on."""
    images, run = tmp_path / "images", tmp_path / "run"
    images_of_two_classes(images)
    assert 3 in next(BatchOrder(num_images=4, batch_size=2, shuffle=False, num_processes=2, rank=1).batches(0))
    command = on_disk(images, run)
    for split, epoch in (("val", 1), ("train", 2)):
        bad = images / split / "dog" / "1.png"
        whole = bad.read_bytes()
        bad.write_bytes(whole[:40])
        done, seconds = torchrun(*command)
        assert_one_sentence(done, f"{bad} cannot be read", f"stopped in epoch {epoch} of 2", f"saved in {run}")
        assert seconds < 120  # not what processes wait for each other
        bad.write_bytes(whole)
        command = ["train", "--resume", run]
    done, _ = torchrun(*command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 2/2") == 1
    assert done.stdout.count("The run is in") == 1


@pytest.mark.slow
def test_a_mistake_that_all_processes_notice_is_told_once(tmp_path):
    done, _ = torchrun("train", "digits", "--output", tmp_path / "run", "--epochs", 0)
    assert_one_sentence(done, "epochs is 0")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-seconds", 8), "no other fits into max_seconds"),
        (("--selection.metric", "macro_f1", "--selection.patience", 1), "had a better macro F1"),
    ],
)
def test_two_processes_end_in_the_same_epoch(tmp_path, options, said):
    """One that went on alone would wait for the other until the test's time is over."""
    images, run = tmp_path / "images", tmp_path / "run"
    images_of_two_classes(images)
    words = [*on_disk(images, run), "--epochs", 2000, *options]
    done, _ = torchrun(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(said) == 1
    assert len(read_jsonl(run / "metrics.jsonl")) < 2000
