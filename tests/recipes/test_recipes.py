"""Every recipe says where it comes from, holds the paper's values, and builds."""

import inspect
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from senet.data.datasets import open_split
from senet.errors import SenetError
from senet.models.build import build
from senet.recipes import RECIPES, get_recipe

CLASSIFYING = [name for name in RECIPES if get_recipe(name).task == "classification"]
CIFAR_STEPS = 50_000 // 128  # an incomplete last batch is left out


def documented(name):
    """Return the docstring of a recipe on one line."""
    return " ".join((inspect.getdoc(RECIPES[name]) or "").split())


def command_of(name):
    return re.search(rf"Command: (.*senet train {name} --output .*?)(?: Takes | Source:|$)", documented(name)).group(1)


def total_batch(name):
    """Return the images of one step over all processes of the documented command."""
    processes = re.search(r"--nproc-per-node (\d+)", command_of(name))
    config = get_recipe(name)
    return config.batch_size * config.compute.accumulate * int(processes.group(1) if processes else 1)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_how_it_is_run_and_where_it_comes_from_or_what_it_costs(name):
    assert command_of(name)
    assert re.search(r"(Source: | Takes )\S", documented(name))


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("name", CLASSIFYING)
def test_a_recipe_builds_its_network_and_that_of_its_command(name):
    config = get_recipe(name)
    overridden = re.search(r"--model\.name (\S+)", command_of(name))
    names = {config.model.name} | ({overridden.group(1)} if overridden else set())
    for network in names:
        with torch.device("meta"):
            model = build(type(config.model)(**{**vars(config.model), "name": network}))
            logits = model.eval()(torch.empty(2, config.model.in_channels, *2 * [config.data.preprocessing.image_size]))
        assert logits.shape == (2, model.num_classes)


@pytest.mark.parametrize("name", CLASSIFYING)
def test_the_class_names_of_a_recipe_are_those_of_the_data(name, tmp_path):
    for i in range(10):
        folder = tmp_path / "train" / f"plant {i}"
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(folder / "0.png")
    data = replace(get_recipe(name).data, dataset=str(tmp_path))
    assert open_split(data, "train").class_names == tuple(f"plant {i}" for i in range(10))


def test_an_unknown_recipe_is_refused_with_the_list():
    with pytest.raises(SenetError, match=r"'imagenett'.*cifar10_short.*imagenet_senet154"):
        get_recipe("imagenett")


IMAGES_A_STEP = {
    **dict.fromkeys(("imagenet", "imagenet_inception_resnet", "places365"), 1024),  # section 5.1
    **dict.fromkeys(("imagenet_release", "imagenet_ablation", "imagenet_mobile"), 256),
    **dict.fromkeys(("imagenet_senet154", "imagenet_senet154_320"), 2048),  # appendix
    **dict.fromkeys(("imagenet_a1", "imagenet_a2", "imagenet_a3"), 2048),  # arXiv:2110.00476, Table 2
    **dict.fromkeys(("cifar10", "cifar100", "cifar10_wrn", "cifar100_wrn", "cifar10_shake"), 128),
    "cifar100_shake": 32,
    **dict.fromkeys(("coco_faster_rcnn", "coco_faster_rcnn_1x"), 16),  # Detectron, MODEL_ZOO.md
}


@pytest.mark.parametrize("name", IMAGES_A_STEP)
def test_the_documented_processes_make_the_papers_batch(name):
    assert total_batch(name) == IMAGES_A_STEP[name]


def test_the_papers_preprocessing_in_values_of_a_byte():
    """The mean alone is subtracted (section 5.1)."""
    preprocessing = get_recipe("imagenet").data.preprocessing
    assert [255 * value for value in preprocessing.mean] == pytest.approx([123, 117, 104])
    assert [255 * value for value in preprocessing.std] == pytest.approx([1, 1, 1])


def test_inception_resnet_is_trained_on_crops_of_299():
    config, base = get_recipe("imagenet_inception_resnet"), get_recipe("imagenet")
    assert (config.data.preprocessing.image_size, config.data.preprocessing.resize) == (299, 352)
    assert config.data.augmentation == base.data.augmentation
    assert (config.optimizer, config.schedule, config.epochs) == (base.optimizer, base.schedule, base.epochs)


def test_senet154_at_320_differs_in_the_crop_alone():
    config, base = get_recipe("imagenet_senet154_320"), get_recipe("imagenet_senet154")
    assert config.data.preprocessing.image_size == 320
    assert config.data.preprocessing.resize == round(320 * 256 / 224)
    assert replace(config, data=base.data) == base
    assert replace(config.data, preprocessing=base.data.preprocessing) == base.data


def test_places365_is_trained_as_imagenet():
    config, base = get_recipe("places365"), get_recipe("imagenet")
    assert config.model.name == "se_resnet152"
    assert replace(config, model=base.model, data=replace(config.data, dataset="imagenet")) == base
    assert config.data.dataset == "places365"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_trained_for_64k_steps_with_drops_at_32k_and_48k(name):
    config = get_recipe(name)
    assert config.epochs * CIFAR_STEPS == pytest.approx(64_000, rel=0.002)
    assert [epoch * CIFAR_STEPS for epoch in config.schedule.milestones] == pytest.approx([32_000, 48_000], rel=0.002)
    assert config.schedule.warmup_epochs * CIFAR_STEPS == pytest.approx(400, rel=0.03)
    assert config.optimizer.lr * config.schedule.warmup_start == pytest.approx(0.01)


def test_faster_rcnn_is_trained_by_detectrons_schedule():
    """The values of e2e_faster_rcnn_R-50-FPN_2x.yaml and of detectron/core/config.py."""
    config = get_recipe("coco_faster_rcnn")
    assert (config.iterations, config.schedule.milestones, config.schedule.factor) == (180_000, (120_000, 160_000), 0.1)
    assert (config.schedule.warmup_iterations, config.schedule.warmup_start) == (500, pytest.approx(1 / 3))
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.02, 0.9, 1e-4)
    assert not optimizer.decay_norm_and_bias
    model = config.model
    assert (model.min_size, model.max_size, model.frozen_stages, model.norm) == ((800,), 1333, 2, "frozen")
    assert model.smooth_l1 == (pytest.approx(1 / 9), 1.0)
