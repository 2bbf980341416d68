"""From a configuration to batches, on digits."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from senet.data import loading
from senet.data.config import Augmentation, DataConfig
from senet.data.division import Division
from senet.data.loading import build_loader, load_data
from senet.data.memory import MemoryLoader
from senet.data.preprocessing import Preprocessing
from senet.data.streaming import StreamingLoader
from senet.errors import SenetError

CPU = torch.device("cpu")
DIGITS = DataConfig(
    dataset="digits", preprocessing=Preprocessing(image_size=8, resize=8, mean=(0.3,), std=(0.4,)), num_workers=0
)

open_once = cache(loading.open_split)


@pytest.fixture(autouse=True)
def _open_once(monkeypatch):
    monkeypatch.setattr(loading, "open_split", open_once)


def division(process, number):
    """Return that of a run that starts with a number of processes."""
    return Division(num_replicas=number, num_processes=number, process=process)


def load(config=DIGITS, batch_size=100, **options):
    return load_data(config, batch_size=batch_size, device=CPU, **options)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_of_both_splits(in_memory):
    data = load(replace(DIGITS, in_memory=in_memory))
    kind = MemoryLoader if in_memory else StreamingLoader
    assert isinstance(data.train, kind)
    assert isinstance(data.evaluation, kind)
    assert data.class_names == tuple("0123456789")
    train, evaluation = list(data.train.batches(0)), list(data.evaluation.batches(0))
    assert sum(len(y) for _, y in train) == 1437
    assert {len(y) for _, y in train} == {95, 96}
    assert [len(y) for _, y in evaluation] == [100, 100, 100, 60]
    assert (len(data.train), len(data.evaluation)) == (15, 4)
    assert all(x.shape == (len(y), 1, 8, 8) for x, y in train + evaluation)


def test_memory_and_disk_give_the_same_images():
    memory, disk = load(), load(replace(DIGITS, in_memory=False))
    for first, second in ((memory.train, disk.train), (memory.evaluation, disk.evaluation)):
        for (x, y), (other_x, other_y) in zip(first.batches(2), second.batches(2), strict=True):
            assert torch.equal(y, other_y)
            torch.testing.assert_close(x, other_x, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("in_memory", "augmentation"),
    [(True, Augmentation(flip=True, padding=1, cutout=3)), (False, Augmentation(flip=True, rotation=20.0))],
)
def test_only_training_images_are_augmented(in_memory, augmentation):
    plain = replace(DIGITS, in_memory=in_memory)
    data, reference = load(replace(plain, augmentation=augmentation)), load(plain)
    (x, y), (expected, labels) = next(iter(data.train.batches(0))), next(iter(reference.train.batches(0)))
    assert torch.equal(y, labels)
    assert not torch.equal(x, expected)
    for (x, _), (expected, _) in zip(data.evaluation.batches(0), reference.evaluation.batches(0), strict=True):
        assert torch.equal(x, expected)


def test_only_training_images_are_shuffled():
    data = load()

    def labels(loader, epoch):
        return torch.cat([y for _, y in loader.batches(epoch)])

    assert not torch.equal(labels(data.train, 0), labels(data.train, 1))
    assert torch.equal(labels(data.evaluation, 0), labels(data.evaluation, 1))
    assert not torch.equal(labels(data.train, 0), labels(load(seed=1).train, 0))


def test_processes_share_the_images():
    whole = load(batch_size=60)  # 23 batches: those of two processes have as many images
    shares = [load(batch_size=30, division=division(rank, 2)) for rank in (0, 1)]
    parts = zip(*(share.train.batches(1) for share in shares), strict=True)
    for (_, y), ((_, first), (_, second)) in zip(whole.train.batches(1), parts, strict=True):
        assert torch.equal(torch.stack([first, second], dim=1).flatten(), y)
    rows = [y for share in shares for _, y in share.evaluation.batches(1)]
    assert torch.equal(torch.cat(rows), torch.cat([y for _, y in whole.evaluation.batches(1)]))


def test_too_few_images_for_the_processes(monkeypatch):
    monkeypatch.setattr(loading, "open_split", lambda config, split: replace(open_once(config, split), size=3))
    with pytest.raises(SenetError, match=r"digits \(train\) has 3 images, too few for 4 processes;"):
        load(division=division(0, 4))
    with pytest.raises(SenetError, match=r"too few for 2 processes with mixup"):
        load(division=division(0, 2), even=True)


def test_splits_with_other_classes(monkeypatch):
    def open_split(config, split):
        images = opened(config, split)
        return replace(images, class_names=images.class_names[:9]) if split == "eval" else images

    opened = open_once
    monkeypatch.setattr(loading, "open_split", open_split)
    with pytest.raises(SenetError, match=r"digits \(train\) has 10 classes and digits \(eval\) 9"):
        load()


def test_class_names_of_the_configuration():
    assert load(replace(DIGITS, class_names=tuple("abcdefghij"))).class_names == tuple("abcdefghij")
    with pytest.raises(SenetError, match="class_names has 2 names"):
        load(replace(DIGITS, class_names=("a", "b")))


def test_grayscale_and_color_follow_the_preprocessing():
    images = loading.open_split(DIGITS, "eval")
    color = replace(DIGITS, preprocessing=Preprocessing(image_size=12, resize=16, mean=(0.5,) * 3, std=(0.5,) * 3))
    for in_memory in (True, False):
        loader = build_loader(replace(color, in_memory=in_memory), images, "eval", batch_size=7, device=CPU)
        x, _ = next(iter(loader.batches(0)))
        assert x.shape == (7, 3, 12, 12)
        assert torch.equal(x[:, 0], x[:, 2])
