"""Training on classes of different size: each way of making up for it reaches the loss or the order of the images."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import senet
from senet.data import loading
from senet.data.images import ImageSplit
from senet.data.readers import Arrays
from senet.recipes import get_recipe


@pytest.fixture
def config(monkeypatch):
    labels = np.repeat(np.arange(3), (12, 3, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    split = ImageSplit(source="noise", size=16, class_names=("a", "b", "c"), read_image=Arrays(pixels, labels))
    monkeypatch.setattr(loading, "open_split", lambda config, which: split)
    return replace(get_recipe("digits"), epochs=3, batch_size=16)


def test_each_kind_of_balance_trains_in_its_own_way_and_is_written_down(config, tmp_path):
    found = {}
    for balance in ("off", "sampler", "weights", "logits", "auto"):
        run = senet.train(replace(config, objective=replace(config.objective, balance=balance)), tmp_path / balance)
        found[balance] = senet.from_pretrained(run / "last").get_classifier().weight
    assert torch.equal(found["auto"], found["logits"])
    assert '"balance": "logits"' in (tmp_path / "auto" / "config.json").read_text()
    del found["auto"]
    names = list(found)
    same = [(a, b) for i, a in enumerate(names) for b in names[:i] if torch.equal(found[a], found[b])]
    assert not same
