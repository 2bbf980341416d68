"""`senet shard`, and the commands that take what it writes."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch

from faulty_server import serving
from senet.cli import main
from senet.shards.index import INDEX
from small_pictures import write_pictures
from stopping import stop_at


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    top = tmp_path_factory.mktemp("cli") / "pictures"
    write_pictures(top / "train")
    write_pictures(top / "val", sizes={"cat": 3, "dog": 2, "fox": 2})
    return top


@pytest.fixture(scope="module")
def shards(pictures):
    out = pictures.parent / "shards"
    assert main(["shard", str(pictures), str(out), "--megabytes", "0.02"]) == 0
    return out


def trained(data, run, *options):
    """Return the command that trains a small network on data for two epochs."""
    words = ["train", "digits", "--data", data, "--output", run, "--epochs", 2, "--batch-size", 4]
    words += ["--model.name", "cifar_resnet20", "--model.in-channels", 3, "--data.augmentation.padding", 0]
    words += ["--data.preprocessing.mean", *"000", "--data.preprocessing.std", *"111", "--compute.cpu"]
    return [str(word) for word in (*words, "--data.no-in-memory", "--data.num-workers", 0, *options)]


def weights(run):
    return torch.load(run / "last" / "training_state.pt", weights_only=True)["model"]


def assert_same(first, second):
    assert not [name for name, tensor in weights(first).items() if not torch.equal(tensor, weights(second)[name])]


def test_shards_are_written_and_said(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["shard", str(pictures), str(out), "--format", "parquet", "--no-shuffle", "--megabytes", "0.05"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"out holds 32 images of 3 classes in \d shards \(\d train, 1 val; 0.1 MB\), all read back", said)
    assert f"senet finetune {out}" in said
    assert json.loads((out / INDEX).read_text())["shards"][0]["names"][0] == "cat/0.png"
    assert main(["shard", str(pictures), str(out), "--megabytes", "0.05"]) == 2
    assert "written in another way; name another output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "OUT"], "an existing folder or CSV file, shards, or hf:OWNER/NAME"),
        (["PICTURES", "OUT", "--megabytes", "0"], "--megabytes is 0.0; expected 0.001"),
        (["PICTURES", "OUT", "--seed", "-1"], "--seed is -1; expected 0"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_sentence(pictures, tmp_path, capsys, words, said):
    names = {"PICTURES": str(pictures), "OUT": str(tmp_path / "out")}
    assert main(["shard", *(names.get(word, word) for word in words)]) == 2
    assert said in capsys.readouterr().err


def test_options_of_the_cache_are_named_as_they_are_typed(shards, tmp_path, capsys):
    with serving(shards) as server:
        words = trained(server.address, tmp_path / "run", "--data.shards.cache", tmp_path / "c")
        assert main([*words, "--data.shards.cache-gb", "0.00001"]) == 2
        assert "set --data.shards.cache-gb to more than" in capsys.readouterr().err
        assert main([*words, "--data.shards.streams", "0"]) == 2
        assert "--data.shards.streams is 0; expected 1 to" in capsys.readouterr().err


def test_a_run_on_shards_of_a_server_that_is_stopped_ends_as_one_on_local_ones(shards, tmp_path, monkeypatch, capsys):
    assert main(trained(shards, tmp_path / "whole")) == 0
    with serving(shards) as server:
        words = trained(server.address, tmp_path / "parts", "--data.shards.cache", tmp_path / "c")
        with monkeypatch.context() as patched:
            stop_at(patched, 1, 2)
            assert main(words) == 143
        assert main(["train", "--resume", str(tmp_path / "parts")]) == 0
        assert_same(tmp_path / "whole", tmp_path / "parts")
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "parts"), "--json"]) == 0
        far = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(tmp_path / "whole"), "--json"]) == 0
    near = json.loads(capsys.readouterr().out)
    assert near["num_images"] == far["num_images"] == 7
    assert near["loss"] == far["loss"]
    gates = str(tmp_path / "gates.safetensors")
    assert main(["record", "cifar_se_resnet20", "--data", str(shards), "--output", gates]) in (0, 2)


@pytest.mark.slow
def test_fine_tuning_takes_shards(shards, tmp_path, capsys):
    words = ["--model", "cifar_se_resnet20", "--output", tmp_path / "run", "--epochs", 1, "--compute.cpu"]
    assert main(["finetune", str(shards), *map(str, words), "--data.num-workers", "0"]) == 0


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_and_two_processes_share_the_shards(shards, tmp_path):
    """SIGKILL in the second epoch; then the same global batch in two processes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-m"]
    options = ["--checkpoint-every", "1", "--data.shards.streams", "2", "--data.shards.mixed", "1"]
    subprocess.run([*python, "senet", *trained(shards, tmp_path / "whole", *options)], check=True, env=env, timeout=180)
    process = subprocess.Popen([*python, "senet", *trained(shards, tmp_path / "killed", *options)], env=env)
    metrics, state = tmp_path / "killed" / "metrics.jsonl", tmp_path / "killed" / "last" / "training_state.pt"
    while not (metrics.exists() and metrics.read_text().count("\n") and state.exists()):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    subprocess.run([*python, "senet", "train", "--resume", tmp_path / "killed"], check=True, env=env, timeout=180)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    launch = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "senet"]
    words = trained(shards, tmp_path / "two", *options)
    words[words.index("--batch-size") + 1] = "2"
    done = subprocess.run([*launch, *words], env=env, timeout=180, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "two")]
    assert len(rows[1]) == len(rows[0]) == 2
    assert done.stdout.count("The run is in") == 1
