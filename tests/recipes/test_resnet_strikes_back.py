"""Procedures A1 to A3: the values of the paper's Table 2, timm's network, and two steps of each."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from senet.cli import main
from senet.data.preprocessing import STANDARDIZED
from senet.files import read_jsonl
from senet.models.build import build
from senet.models.config import ModelConfig
from senet.recipes import get_recipe
from senet.training.loop import train
from senet.training.objective import Objective
from senet.training.sections import ComputeConfig

NAMES = ("imagenet_a1", "imagenet_a2", "imagenet_a3")
TABLE_2 = {
    "epochs": (600, 300, 100),
    "optimizer.name": ("lamb",) * 3,
    "optimizer.lr": (5e-3, 5e-3, 8e-3),
    "optimizer.weight_decay": (0.01, 0.02, 0.02),
    "schedule.name": ("cosine",) * 3,
    "schedule.warmup_epochs": (5,) * 3,
    "objective.loss": ("binary_cross_entropy",) * 3,
    "regularization.label_smoothing": (0.1, 0.0, 0.0),
    "regularization.drop_path": (0.05, 0.05, 0.0),
    "regularization.mixup": (0.2, 0.1, 0.1),
    "regularization.cutmix": (1.0,) * 3,
    "data.augmentation.repeats": (3, 3, 1),
    "data.augmentation.auto_augment": ("rand-m7-mstd0.5-inc1", "rand-m7-mstd0.5-inc1", "rand-m6-mstd0.5-inc1"),
    "data.augmentation.flip": (True,) * 3,
    "data.train_preprocessing.image_size": (224, 224, 160),
    "data.preprocessing.image_size": (224,) * 3,
}


@pytest.mark.parametrize(("place", "setting"), product(range(3), TABLE_2))
def test_the_values_are_those_of_table_2(place, setting):
    value = get_recipe(NAMES[place])
    for part in setting.split("."):
        value = getattr(value, part)
    assert value == TABLE_2[setting][place]


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_crops_as_timms_weights_of_it_are_evaluated(name):
    preprocessing = get_recipe(name).data.preprocessing
    cfg = timm.models.get_pretrained_cfg("resnet50.a1_in1k")
    assert cfg.crop_pct == 0.95
    assert (preprocessing.image_size, preprocessing.resize) == (224, int(224 / cfg.crop_pct))
    assert (preprocessing.mean, preprocessing.std) == (cfg.mean, cfg.std) == (STANDARDIZED.mean, STANDARDIZED.std)
    assert preprocessing.interpolation == cfg.interpolation


@pytest.mark.parametrize(("name", "theirs"), [("resnet50", "resnet50"), ("se_resnet50", "seresnet50")])
def test_the_network_is_timms(name, theirs):
    options = get_recipe("imagenet_a1").model.options
    with torch.device("meta"):
        own = build(ModelConfig(name=name, options=options)).state_dict()
        other = timm.create_model(theirs).state_dict()
    assert {key: tensor.shape for key, tensor in own.items()} == {key: tensor.shape for key, tensor in other.items()}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, kind, number in product(("train", "val"), ("cat", "dog"), range(4)):
        path = tmp_path / "pets" / split / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pets"


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_each(name, folder, tmp_path, monkeypatch):
    config = get_recipe(name)
    small = config.data.augmentation.train_size and 24
    config = replace(
        config,
        model=ModelConfig(name="cifar_se_resnet20", options={"depth": 8, "zero_init_last": True}),
        data=replace(
            config.data,
            dataset=str(folder),
            num_workers=0,
            preprocessing=replace(config.data.preprocessing, image_size=32, resize=34),
            augmentation=replace(config.data.augmentation, train_size=small),
        ),
        compute=ComputeConfig(cpu=True),
        epochs=1,
        batch_size=4,
    )
    seen, forward = [], Objective.forward

    def watching(objective, images, targets):
        seen.append((tuple(images.shape), tuple(targets.shape)))
        return forward(objective, images, targets)

    monkeypatch.setattr(Objective, "forward", watching)
    run = train(config, tmp_path / "run")
    assert seen == [((4, 3, small or 32, small or 32), (4, 2))] * 2
    (row,) = read_jsonl(run / "metrics.jsonl")
    assert row["step"] == 2
    described = json.loads((run / "last" / "config.json").read_text())
    assert described["preprocessing"]["image_size"] == 32
    assert described["model"]["options"].get("drop_path", 0.0) == config.regularization.drop_path


def test_on_the_command_line(folder, tmp_path, capsys):
    argv = ["train", "imagenet_a2", "--data", str(folder), "--output", str(tmp_path / "run"), "--epochs", "1"]
    argv += ["--model.name", "cifar_se_resnet20", "--model-kwargs", "depth=8", "zero_init_last=True"]
    argv += ["--data.preprocessing.image-size", "32", "--data.preprocessing.resize", "34", "--data.num-workers", "0"]
    assert main([*argv, "--batch-size", "4", "--compute.cpu"]) == 0, capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optimizer"]["name"], config["objective"]["loss"]) == ("lamb", "binary_cross_entropy")
