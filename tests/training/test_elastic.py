"""A run in another number of processes: the same images in the same batches, weights that are equal but for rounding.

The tolerance is that of float32 after 14 steps: 2e-5, for weights of a size of about 1. With one seed, image or weight
of the losses wrong they differ by 1e-2 and more.
"""

import json
import subprocess
import sys
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._pytree import tree_leaves

from drivers import ENVIRONMENT, command
from drivers.any_number_of_processes import few_images, register, run
from senet.data import loading
from senet.data.config import Augmentation
from senet.data.division import Division, Share
from senet.data.memory import MemoryLoader
from senet.data.order import BatchOrder
from senet.data.preprocessing import Preprocessing
from senet.data.sharding import write_shards
from senet.errors import SenetError
from senet.files import read_jsonl
from senet.models.catalog import CARDS
from senet.nn.drop_path import DropPath
from senet.training.draws import WholeDraws

CPU = torch.device("cpu")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
DRIVER = "any_number_of_processes.py"


def divisions(replicas, processes):
    return [Division(num_replicas=replicas, num_processes=processes, process=place) for place in range(processes)]


# ---- which images each process computes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "processes"), product(range(1, 6), range(1, 8)))
@pytest.mark.parametrize("even", [False, True])
def test_the_shares_of_all_processes_are_the_batch_once(replicas, processes, even):
    size, found = 14, defaultdict(list)
    parts = divisions(replicas, processes)
    for division in parts:
        assert division.shares
        for share in division.shares:
            places = share.places(size, even=even).tolist()
            found[share.replica] += places
            if even:  # mixup flips the batch: an image and its partner are in one part, as far from its ends
                assert [size - 1 - place for place in reversed(places)] == places
    assert {replica: sorted(places) for replica, places in found.items()} == {
        r: [*range(size)] for r in range(replicas)
    }
    assert parts[0].shares[0].replica == parts[0].shares[0].part == 0
    # Means over shares, weighted and averaged over the processes, are the mean over the replicas.
    ones = [sum(d.weight(len(s.places(size, even=even)), size) for s in d.shares) for d in parts]
    assert sum(ones) / processes == pytest.approx(1)
    if replicas == processes:
        assert {sum(ones)} == {processes}
        assert not parts[0].in_words()


def test_what_each_process_does_is_said():
    said = {(r, p): divisions(r, p)[0].in_words() for r, p in ((4, 2), (4, 1), (4, 3), (1, 2), (2, 4), (4, 6))}
    assert said == {
        (4, 2): "goes on with 2 processes, each of which computes 2 of the run's 4 shares of a batch",
        (4, 1): "goes on with 1 process, which computes 4 of the run's 4 shares of a batch",
        (4, 3): "goes on with 3 processes, each of which computes 1 or 2 of the run's 4 shares of a batch",
        (1, 2): "goes on with 2 processes, 2 of which divide the run's one share of a batch among them",
        (2, 4): "goes on with 4 processes, 2 of which divide each of the run's 2 shares of a batch among them",
        (4, 6): "goes on with 6 processes, 1 or 2 of which divide each of the run's 4 shares of a batch among them",
    }


def test_too_few_images_to_divide_are_refused_with_a_number_that_works():
    with pytest.raises(SenetError, match=r"batches have 12 images, too few for 8 processes.*start at most 6"):
        divisions(2, 8)[0].check_images(6)
    divisions(2, 6)[0].check_images(6)
    divisions(2, 1)[0].check_images(1)


@pytest.mark.parametrize("options", [{}, {"even": True}, {"repeats": 3}, {"labels": np.arange(100) % 3}])
@pytest.mark.parametrize("processes", [1, 3, 4])
def test_batches_have_the_same_images_in_any_number_of_processes(options, processes):
    """Two replicas of 8 images; of each the images, and how often they came before."""
    settings = {"num_images": 100, "batch_size": 8, "shuffle": True, "seed": 4, "num_processes": 2, **options}
    replicas = [BatchOrder(**settings, rank=rank) for rank in range(2)]
    parts = [BatchOrder(**settings, shares=division.shares) for division in divisions(2, processes)]
    for method in ("batches", "copies"):
        expected = [[sorted(batch.tolist()) for batch in getattr(order, method)(1, 2)] for order in replicas]
        found = [defaultdict(list) for _ in replicas]
        for order in parts:
            for place, indices in enumerate(getattr(order, method)(1, 2)):
                batch, share = divmod(place, len(order.own_shares))
                found[order.own_shares[share].replica][batch] += indices.tolist()
        assert [[sorted(of[batch]) for batch in sorted(of)] for of in found] == expected


@pytest.mark.parametrize("even", [False, True])
def test_images_in_memory_are_augmented_as_in_one_process(even):
    pixels = torch.randint(0, 256, (60, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(image_size=6, resize=6, mean=(0.5,) * 3, std=(0.5,) * 3)

    def batches(shares):
        order = BatchOrder(num_images=60, batch_size=12, shuffle=True, even=even, shares=shares)
        augmentation = Augmentation(padding=2, cutout=3)
        return list(MemoryLoader(pixels, torch.arange(60), order, preprocessing, augmentation, CPU).batches(1, 1))

    whole = batches(())
    for part in range(3):
        share = Share(part=part, parts=3)
        for (images, labels), (expected, expected_labels) in zip(batches((share,)), whole, strict=True):
            places = share.places(12, even=even)
            assert torch.equal(images, expected[places])
            assert torch.equal(labels, expected_labels[places])


def test_numbers_are_drawn_for_the_whole_batch():
    """By layers in both memory formats, and for the batch as a whole."""

    class Drawing(nn.Module):
        def forward(self, x):
            return x + torch.rand(3, 1, 1) + torch.rand_like(x[:, :1, :1, :1]) + torch.randn(len(x), 1, 1, 1)

    layers = [nn.Dropout2d(0.5), nn.Dropout(0.5), DropPath(0.5), Drawing(), nn.Flatten(), nn.Dropout(0.5)]
    network, images = nn.Sequential(*layers), torch.rand(8, 3, 4, 4)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = images.contiguous(memory_format=memory_format)
        torch.manual_seed(1)
        whole = network(x)
        for part in range(2):
            places = Share(part=part, parts=2).places(8)
            torch.manual_seed(1)
            with WholeDraws(places, 8):
                assert torch.equal(network(x[places].contiguous(memory_format=memory_format)), whole[places])
    torch.manual_seed(1)
    assert not torch.equal(network(x[:4]), whole[:4])


# ---- runs ------------------------------------------------------------------------------------------------------------


def go(number, folder, kind, *runs):
    """Train runs, or go on with them, in a number of processes; `runs` are names, and where each is stopped."""
    words = command(DRIVER, folder, kind, *runs)
    if number > 1:
        words = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(number),
            *words[1:],
        ]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stderr


def images_of(folder, name):
    """The images of each batch and replica of a run, as numbers made of their augmented pixels."""
    found = defaultdict(list)
    for epoch, batch, replica, numbers in read_jsonl(folder / f"{name}.images.jsonl"):
        found[epoch, batch, replica] += numbers
    return {place: sorted(numbers) for place, numbers in found.items()}


def assert_same_runs(folder, name, expected, tolerance=2e-5):
    """Compare weights, statistics, averages, momentum, losses and images of two runs; exactly with a tolerance of 0."""
    states = [torch.load(folder / each / "last/training_state.pt") for each in (name, expected)]
    for part in ("model", "ema"):
        found, wanted = (state[part] or {} for state in states)
        assert found.keys() == wanted.keys()
        for key in wanted:
            torch.testing.assert_close(found[key], wanted[key], rtol=tolerance, atol=tolerance, msg=key)
    momenta = [[leaf for leaf in tree_leaves(state["optimizer"]) if isinstance(leaf, torch.Tensor)] for state in states]
    assert len(momenta[0]) > 10
    torch.testing.assert_close(*momenta, rtol=tolerance, atol=tolerance)
    assert states[0]["num_processes"] == states[1]["num_processes"]
    rows, others = (read_jsonl(folder / each / "metrics.jsonl") for each in (name, expected))
    for row, other in zip(rows, others, strict=True):
        for key in ("epoch", "step", "lr", "train_loss", "loss", "top1"):
            assert row[key] == pytest.approx(other[key], rel=max(tolerance, 1e-9)), key
    assert images_of(folder, name) == images_of(folder, expected)
    for each in (name, expected):
        assert json.loads((folder / each / "config.json").read_text())["num_processes"] == states[0]["num_processes"]


@pytest.fixture
def here(monkeypatch):
    """Train in this process what `go` trains in others."""
    monkeypatch.setattr(CARDS, "_entries", dict(CARDS._entries))
    monkeypatch.setattr(CARDS, "_modules", dict(CARDS._modules))
    register()
    monkeypatch.setattr(loading, "open_split", few_images(loading.open_split))
    monkeypatch.delenv("RANK", raising=False)
    return run


def test_runs_of_one_and_two_processes_go_on_in_the_other_number(tmp_path, here):
    """Stopped within an epoch, and within the average of two batches' gradients being the step."""
    here(tmp_path, "plain", "one", "end")
    here(tmp_path, "plain", "one_then_two", "0.5")
    said = go(2, tmp_path, "plain", "two", "end", "two_then_one", "0.5", "one_then_two", "end")
    assert "goes on with 2 processes, 2 of which divide the run's one share" in said
    here(tmp_path, "plain", "two_then_one", "end")
    assert_same_runs(tmp_path, "one_then_two", "one")
    assert_same_runs(tmp_path, "two_then_one", "two")
    with pytest.raises(AssertionError):
        assert_same_runs(tmp_path, "one", "two")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "mixed", "streamed", "shards"])
def test_any_number_of_processes_may_follow_another(tmp_path, kind):
    """Two, four, one; four, two; two, three: runs of four processes have other batches than runs of two."""
    if kind == "shards":
        random = np.random.default_rng(0)
        for split, count in (("train", 112), ("val", 37)):
            for i in range(count):
                file = tmp_path / "pictures" / split / str(i % 10) / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
        write_shards(tmp_path / "pictures", tmp_path / "shards", megabytes=0.002)
    go(2, tmp_path, kind, "two", "end", "two_four_one", "0.3", "two_three", "0.1")
    go(4, tmp_path, kind, "four", "end", "four_two", "0.1", "two_four_one", "1.1")
    go(3, tmp_path, kind, "two_three", "end")
    go(2, tmp_path, kind, "four_two", "end")
    go(1, tmp_path, kind, "two_four_one", "end")
    for name, expected in (("two_four_one", "two"), ("two_three", "two"), ("four_two", "four")):
        assert_same_runs(tmp_path, name, expected)


@pytest.mark.slow
def test_a_run_is_the_same_bit_for_bit_if_another_number_only_evaluated_and_saved(tmp_path):
    go(2, tmp_path, "plain", "two", "end", "back", "0.evaluation")
    go(1, tmp_path, "plain", "back", "0.evaluation")
    state = torch.load(tmp_path / "back/last/training_state.pt")
    assert (len(state["position"]["loss_sums"]), state["num_processes"]) == (1, 2)
    go(2, tmp_path, "plain", "back", "end")
    assert_same_runs(tmp_path, "back", "two", tolerance=0)


# ---- BatchNorm over all processes ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_synchronized_processes_train_as_one_with_all_their_images(tmp_path):
    go(1, tmp_path, "whole", "whole", "end")
    go(2, tmp_path, "synchronized", "two", "end", "two_four", "0.3", "two_one", "0.1")
    go(4, tmp_path, "synchronized", "two_four", "end")
    assert_same_runs(tmp_path, "two_four", "two")
    states = [torch.load(tmp_path / name / "last/training_state.pt") for name in ("two", "whole")]
    for part in ("model", "ema"):
        for key, expected in states[1][part].items():
            torch.testing.assert_close(states[0][part][key], expected, rtol=2e-5, atol=2e-5, msg=key)
    with pytest.raises(AssertionError, match=r"compute.sync_batch_norm takes statistics over .* start at least 2"):
        go(1, tmp_path, "synchronized", "two_one", "end")
