"""Classes of different size: equally often in an epoch, or weighted in the loss."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from senet.data import loading
from senet.data.balance import balance_note, class_offsets, class_weights, resolve_balance
from senet.data.config import Augmentation, DataConfig
from senet.data.images import ImageSplit
from senet.data.loading import load_data
from senet.data.order import BatchOrder
from senet.data.preprocessing import Preprocessing
from senet.data.readers import Arrays
from senet.errors import SenetError

CPU = torch.device("cpu")
COUNTS = np.array([104, 30, 20, 16, 12, 10, 8, 6, 4, 3, 1])


def order(counts, batch_size=16, **options):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return BatchOrder(num_images=len(labels), batch_size=batch_size, shuffle=True, labels=labels, **options)


def drawn(balanced, epoch):
    return np.concatenate(list(balanced.batches(epoch)))


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_all_classes_come_equally_often(epoch):
    balanced = order(COUNTS, batch_size=107)
    images = drawn(balanced, epoch)
    assert len(images) == balanced.num_images == COUNTS.sum()
    by_class = np.bincount(balanced.labels[images], minlength=len(COUNTS))
    assert set(by_class) <= {19, 20}  # 214 / 11 = 19.45


@pytest.mark.parametrize("epochs", [range(1), range(5), range(3, 9)])
def test_no_image_comes_more_often_than_it_must(epochs):
    """Neither in one epoch nor over several: two images of a class differ by one at most."""
    balanced = order(COUNTS, batch_size=107)
    times = sum(np.bincount(drawn(balanced, epoch), minlength=214) for epoch in epochs)
    for label in range(len(COUNTS)):
        own = times[balanced.labels == label]
        assert own.max() - own.min() <= 1


def test_epochs_and_seeds_have_other_orders_and_repeat():
    epochs = {(seed, e): tuple(drawn(order(COUNTS, seed=seed), e)) for seed in range(3) for e in range(3)}
    assert len(set(epochs.values())) == 9
    assert tuple(drawn(order(COUNTS, seed=2), 1)) == epochs[2, 1]
    small = [set(drawn(order([2, 60], seed=seed), 0)) for seed in range(4)]
    assert len(set(map(frozenset, small))) == 4, "the images of a large class that come first depend on the seed"


@pytest.mark.parametrize("start", range(0, 15, 4))
def test_starting_later_is_the_tail(start):
    balanced = order(COUNTS, batch_size=16)
    for number, batch in enumerate(balanced.batches(4, start), start):
        np.testing.assert_array_equal(batch, list(balanced.batches(4))[number])


def test_processes_share_an_epoch():
    whole = drawn(order(COUNTS, batch_size=16), 2)[: 26 * 8]
    shares = [list(order(COUNTS, batch_size=8, num_processes=2, rank=rank).batches(2)) for rank in range(2)]
    joined = np.concatenate([np.stack(pair, axis=1).reshape(-1) for pair in zip(*shares, strict=True)])
    np.testing.assert_array_equal(joined[: len(whole)], whole)


@pytest.mark.parametrize("counts", [[1, 1], [5, 5, 5], [1, 1000], [3, 2, 2]])
def test_every_epoch_is_as_long_as_the_images(counts):
    balanced = order(counts, batch_size=4096)
    for epoch in (0, 1, 2, 10**6):
        assert len(balanced.indices(epoch)) == sum(counts)


def test_copies_are_numbered():
    balanced = order([2, 50], batch_size=52)
    (images,), (copies,) = balanced.batches(0), balanced.copies(0)
    seen: Counter[int] = Counter()
    for image, copy in zip(images.tolist(), copies.tolist(), strict=True):
        assert copy == seen[image]
        seen[image] += 1
    assert max(seen.values()) == 13


# ---- the choice


def test_weights_make_classes_equal_and_images_one():
    weights = class_weights(COUNTS)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights * COUNTS, 214 / 11, rtol=1e-6)
    assert np.average(weights, weights=COUNTS) == pytest.approx(1)


def test_with_its_offsets_a_network_that_prefers_no_class_has_nothing_to_learn_from_how_often_they_come():
    labels = torch.from_numpy(np.repeat(np.arange(len(COUNTS)), COUNTS))
    logits = torch.zeros(1, len(COUNTS), requires_grad=True)
    offsets = class_offsets(COUNTS)
    assert offsets.dtype == np.float32
    F.cross_entropy((logits + torch.from_numpy(offsets)).expand(len(labels), -1), labels).backward()
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-6, rtol=0)
    assert class_offsets(np.array([7, 7])).tolist() == [0, 0]


def test_what_auto_chooses():
    assert resolve_balance("auto", np.array([20, 20, 20])) == "off"
    assert resolve_balance("auto", np.array([21, 20, 20])) == "off"
    assert resolve_balance("auto", COUNTS) == "logits"
    assert resolve_balance("auto", COUNTS, softmax=False) == "sampler"
    for balance in ("off", "sampler", "weights", "logits"):
        assert resolve_balance(balance, COUNTS) == balance


@pytest.mark.parametrize("balance", ["sampler", "weights", "logits"])
def test_balancing_equal_classes_is_refused(balance):
    with pytest.raises(SenetError, match=rf"objective\.balance {balance} has no effect on classes of equal size"):
        resolve_balance(balance, np.array([7, 7]))


def test_what_the_log_says():
    assert balance_note("off", COUNTS) == ""
    assert "the largest class has 104 training images and the smallest 1" in balance_note("auto", COUNTS)
    sampler = balance_note("sampler", COUNTS)
    assert "an image of the smallest comes 19.5 times, and one of the largest 0.19 times" in sampler
    assert "each class's share of the images is added to its logits" in balance_note("logits", COUNTS)
    assert "an image of the smallest counts 104 times one of the largest" in balance_note("weights", COUNTS)


# ---- the loaders


@pytest.fixture
def _lopsided(monkeypatch):
    labels = np.repeat(np.arange(3), (40, 8, 2))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    split = ImageSplit(source="noise", size=50, class_names=("a", "b", "c"), read_image=Arrays(pixels, labels))
    monkeypatch.setattr(loading, "open_split", lambda config, which: split)


@pytest.mark.usefixtures("_lopsided")
@pytest.mark.parametrize("in_memory", [True, False])
def test_both_loaders_balance_training_alone_and_change_each_copy(in_memory):
    gray = Preprocessing(image_size=8, resize=8, mean=(0.3,), std=(0.4,))
    augmentation = Augmentation(padding=4) if in_memory else Augmentation(pixel_shift=100)
    config = DataConfig(
        dataset="noise", preprocessing=gray, augmentation=augmentation, in_memory=in_memory, num_workers=0
    )
    data = load_data(config, batch_size=50, device=CPU, balance="auto", softmax=False)
    assert data.balance == "sampler"
    assert data.counts.tolist() == [40, 8, 2]
    assert len(data.notes) == 1
    ((x, y),) = data.train.batches(0)
    assert np.bincount(y).tolist() == [16, 17, 17]
    assert len({image.numpy().tobytes() for image in x[y == 2]}) > 10, "two images, 17 times"
    ((_, y),) = data.evaluation.batches(0)
    assert np.bincount(y).tolist() == [40, 8, 2]
