"""Gradient checkpointing and stochastic depth in runs: the first changes no number, the second is written down."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from checks import assert_one_sentence
from senet.data import loading
from senet.errors import SenetError
from senet.factory import from_pretrained
from senet.models.config import ModelConfig
from senet.models.stochastic_depth import drops_branches
from senet.recipes.digits import digits
from senet.training.loop import train
from senet.training.sections import ComputeConfig, RegularizationConfig

CPU = ComputeConfig(cpu=True)
RUN = replace(digits(), epochs=1, batch_size=48, compute=CPU)
DROPPED = RegularizationConfig(drop_path=0.5)
open_all = cache(loading.open_split)


@pytest.fixture(autouse=True)
def _few_digits_on_one_thread(monkeypatch):
    sizes = {"train": 96, "eval": 20}
    monkeypatch.setattr(loading, "open_split", lambda data, split: replace(open_all(data, split), size=sizes[split]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights_of(run):
    return from_pretrained(run / "last").state_dict()


@pytest.mark.parametrize("name", [RUN.model.name, "timm/resnet10t"])
def test_checkpointed_gradients_change_no_weight(tmp_path: Path, name):
    model = ModelConfig(name=name, in_channels=1, options={"drop_rate" if "timm" in name else "dropout": 0.3})
    config = replace(RUN, model=model, regularization=DROPPED)
    kept = weights_of(train(config, tmp_path / "kept"))
    again = weights_of(train(replace(config, compute=replace(CPU, grad_checkpointing=True)), tmp_path / "again"))
    assert kept.keys() == again.keys()
    for key, tensor in kept.items():
        torch.testing.assert_close(again[key], tensor, rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_stochastic_depth_changes_the_training_and_is_part_of_the_network(tmp_path: Path):
    plain, dropped = (
        train(replace(RUN, regularization=regularization), tmp_path / str(regularization.drop_path))
        for regularization in (RegularizationConfig(), DROPPED)
    )
    assert any(not torch.equal(tensor, weights_of(plain)[key]) for key, tensor in weights_of(dropped).items())
    assert json.loads((dropped / "last" / "config.json").read_text())["model"]["options"]["drop_path"] == 0.5
    assert any(map(drops_branches, from_pretrained(dropped).modules()))
    assert not any(map(drops_branches, from_pretrained(plain).modules()))


def test_weights_start_with_the_rate_of_the_run(tmp_path: Path):
    first = train(replace(RUN, regularization=DROPPED), tmp_path / "first")
    config = replace(RUN, weights=str(first), regularization=replace(DROPPED, drop_path=0.25))
    second = train(config, tmp_path / "second")
    assert from_pretrained(second).config.options["drop_path"] == 0.25


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": ModelConfig(name="mobilenet_v1", in_channels=1), "regularization": DROPPED},
            "regularization.drop_path is 0.5, but mobilenet_v1 has no stochastic depth",
        ),
        (
            {
                "model": ModelConfig(name="torchvision/alexnet"),
                "compute": replace(CPU, grad_checkpointing=True),
                "data": replace(RUN.data, preprocessing=RUN.data.preprocessing.with_channels(3)),
            },
            "compute.grad_checkpointing has no effect on torchvision/alexnet",
        ),
    ],
)
def test_what_has_no_effect_is_refused_before_the_run_has_a_folder(tmp_path: Path, changes, said):
    with pytest.raises(SenetError) as error:
        train(replace(RUN, **changes), tmp_path / "run")
    assert_one_sentence(error, said)
    assert not (tmp_path / "run").exists()


def test_two_rates_that_contradict_each_other_are_refused():
    model = replace(RUN.model, options={"drop_path": 0.1})
    with pytest.raises(SenetError) as error:
        replace(RUN, model=model, regularization=DROPPED)
    assert_one_sentence(error, "model.options.drop_path is 0.1, but regularization.drop_path is 0.5")
