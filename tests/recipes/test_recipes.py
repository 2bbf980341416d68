"""Every recipe says where it comes from, holds the paper's values, and builds."""

import inspect
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from senet.data.config import Augmentation
from senet.data.datasets import open_split
from senet.data.preprocessing import CIFAR
from senet.errors import SenetError
from senet.models.build import build
from senet.recipes import RECIPES, get_recipe

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


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_its_network_and_that_of_its_command(name):
    config = get_recipe(name)
    assert config == RECIPES[name]()
    overridden = re.search(r"--model\.name (\S+)", command_of(name))
    names = {config.model.name} | ({overridden.group(1)} if overridden else set())
    for network in names:
        with torch.device("meta"):
            model = build(type(config.model)(**{**vars(config.model), "name": network}))
            logits = model.eval()(torch.empty(2, config.model.in_channels, *2 * [config.data.preprocessing.image_size]))
        assert logits.shape == (2, model.num_classes)


@pytest.mark.parametrize("name", RECIPES)
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


def test_imagenet_is_trained_as_in_section_5_1():
    config = get_recipe("imagenet")
    assert total_batch("imagenet") == 1024
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.nesterov) == (0.6, 0.9, False)
    assert (config.schedule.name, config.schedule.milestones, config.schedule.factor) == ("step", (30, 60, 90), 0.1)
    assert config.epochs == 100
    augmentation = config.data.augmentation
    assert (augmentation.flip, augmentation.crop_scale) == (True, (0.08, 1.0))
    assert augmentation.crop_ratio == pytest.approx((3 / 4, 4 / 3))
    preprocessing = config.data.preprocessing
    assert (preprocessing.image_size, preprocessing.resize) == (224, 256)
    assert [255 * value for value in preprocessing.mean] == pytest.approx([123, 117, 104])
    assert [255 * value for value in preprocessing.std] == pytest.approx([1, 1, 1])  # the mean alone is subtracted


def test_the_release_s_recipe_differs_where_the_release_does():
    config = get_recipe("imagenet_release")
    assert total_batch("imagenet_release") == 256
    assert config.optimizer.lr == 0.1
    assert (config.data.augmentation.rotation, config.data.augmentation.pixel_shift) == (10.0, 20)
    assert config.schedule == get_recipe("imagenet").schedule


def test_the_ablations_train_270_epochs_without_biases():
    config = get_recipe("imagenet_ablation")
    assert (config.schedule.name, config.schedule.milestones, config.epochs) == ("step", (125, 200, 250), 270)
    assert not config.model.se.bias
    assert config.regularization.label_smoothing == 0.1
    assert (config.optimizer.lr, total_batch("imagenet_ablation")) == (0.1, 256)


def test_senet154_is_trained_as_in_the_appendix():
    config = get_recipe("imagenet_senet154")
    assert total_batch("imagenet_senet154") == 2048
    assert (config.model.name, config.optimizer.lr) == ("senet154", 1.0)
    assert config.regularization.label_smoothing == 0.1
    assert config.regularization.freeze_bn_epochs > 0


def test_inception_resnet_is_trained_on_crops_of_299():
    config, base = get_recipe("imagenet_inception_resnet"), get_recipe("imagenet")
    assert total_batch("imagenet_inception_resnet") == 1024
    assert (config.data.preprocessing.image_size, config.data.preprocessing.resize) == (299, 352)
    assert config.data.augmentation == base.data.augmentation
    assert (config.optimizer, config.schedule, config.epochs) == (base.optimizer, base.schedule, base.epochs)


def test_mobile_networks_are_trained_on_plateaus_with_less_regularization():
    config = get_recipe("imagenet_mobile")
    assert total_batch("imagenet_mobile") == 256
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (0.1, 0.9, 4e-5)
    assert (config.schedule.name, config.schedule.factor, config.epochs) == ("plateau", 0.1, 400)
    assert config.data.augmentation.crop_scale[0] > get_recipe("imagenet").data.augmentation.crop_scale[0]
    assert config.data.augmentation.flip
    assert config.regularization.label_smoothing == 0


def test_senet154_at_320_differs_in_the_crop_alone():
    config, base = get_recipe("imagenet_senet154_320"), get_recipe("imagenet_senet154")
    assert config.data.preprocessing.image_size == 320
    assert config.data.preprocessing.resize == round(320 * 256 / 224)
    assert total_batch("imagenet_senet154_320") == 2048
    assert replace(config, data=base.data) == base
    assert replace(config.data, preprocessing=base.data.preprocessing) == base.data


def test_places365_is_trained_as_imagenet():
    config, base = get_recipe("places365"), get_recipe("imagenet")
    assert total_batch("places365") == 1024
    assert config.model.name == "se_resnet152"
    assert replace(config, model=base.model, data=replace(config.data, dataset="imagenet")) == base
    assert config.data.dataset == "places365"


@pytest.mark.parametrize("name", ["cifar10_wrn", "cifar100_wrn"])
def test_wide_resnets_are_trained_as_by_their_authors(name):
    config = get_recipe(name)
    assert config.model.name == "cifar_se_wrn16_8"
    optimizer, schedule = config.optimizer, config.schedule
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0.1, 0.9, True, 5e-4)
    assert (schedule.name, schedule.milestones, schedule.factor) == ("step", (60, 120, 160), 0.2)
    assert (config.epochs, total_batch(name), schedule.warmup_epochs) == (200, 128, 0)
    assert_cifar(name.removesuffix("_wrn"), config, cutout=0)


@pytest.mark.parametrize(
    ("name", "network", "lr", "weight_decay", "batch", "cutout"),
    [
        ("cifar10_shake", "cifar_se_shake_shake26_2x96d", 0.2, 1e-4, 128, 16),
        ("cifar100_shake", "cifar_se_shake_even29_2x4x64d", 0.025, 5e-4, 32, 8),
    ],
)
def test_shake_networks_are_trained_as_by_their_authors(name, network, lr, weight_decay, batch, cutout):
    config = get_recipe(name)
    assert config.model.name == network
    optimizer, schedule = config.optimizer, config.schedule
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov) == (lr, 0.9, True)
    assert optimizer.weight_decay == weight_decay
    assert (schedule.name, schedule.warmup_epochs, config.epochs) == ("cosine", 0, 1800)
    assert (total_batch(name), config.batch_size) == (batch, batch // 2)
    assert_cifar(name.removesuffix("_shake"), config, cutout=cutout)


def assert_cifar(dataset, config, cutout):
    assert config.data.dataset == dataset
    assert (config.data.preprocessing == CIFAR) == (dataset == "cifar10")
    assert config.data.augmentation == Augmentation(flip=True, padding=4, cutout=cutout)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_trained_for_64k_steps_with_drops_at_32k_and_48k(name):
    config = get_recipe(name)
    assert total_batch(name) == 128
    assert config.epochs * CIFAR_STEPS == pytest.approx(64_000, rel=0.002)
    assert [epoch * CIFAR_STEPS for epoch in config.schedule.milestones] == pytest.approx([32_000, 48_000], rel=0.002)
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert config.schedule.warmup_epochs * CIFAR_STEPS == pytest.approx(400, rel=0.03)
    assert config.optimizer.lr * config.schedule.warmup_start == pytest.approx(0.01)
    assert (config.data.dataset, config.data.augmentation.flip, config.data.augmentation.padding) == (name, True, 4)
    assert config.data.preprocessing.image_size == 32
    assert (config.data.preprocessing == CIFAR) == (name == "cifar10")
