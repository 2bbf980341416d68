"""Settings of the data: what cannot be right or has no effect is refused by its name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from senet.configs import from_dict, to_dict
from senet.data.config import Augmentation, DataConfig
from senet.data.preprocessing import IMAGENET
from senet.errors import SenetError

NAN = float("nan")


@pytest.mark.parametrize(
    "options",
    [
        {"padding": -1},
        {"cutout": -8},
        {"rotation": -1.0},
        {"rotation": NAN},
        {"pixel_shift": -20},
        {"train_size": 0},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": (0.5, 1.1)},
        {"crop_scale": (NAN, 1.0)},
        {"crop_ratio": (0.0, 1.0), "crop_scale": (0.5, 1.0)},
        {"crop_ratio": (2.0, 1.0), "crop_scale": (0.5, 1.0)},
        {"crop_ratio": (1.0, 1.0)},  # nothing is cropped
    ],
    ids=str,
)
def test_refused_augmentation(options):
    with pytest.raises(SenetError, match=f"augmentation.{next(iter(options))} "):
        Augmentation(**options)


@pytest.mark.parametrize(
    ("options", "in_memory"),
    [
        ({"crop_scale": (0.5, 1.0)}, True),
        ({"train_size": 160}, True),
        ({"rotation": 10.0}, True),
        ({"pixel_shift": 20}, True),
        ({"cutout": 8}, False),
    ],
)
def test_augmentation_without_effect(options, in_memory):
    augmentation = Augmentation(**options)
    name = next(iter(options))
    with pytest.raises(SenetError, match=rf"augmentation\.{name} has no effect .* data.in_memory={not in_memory}"):
        DataConfig(augmentation=augmentation, in_memory=in_memory)
    assert DataConfig(augmentation=augmentation, in_memory=not in_memory).augmentation == augmentation


@pytest.mark.parametrize("in_memory", [True, False])
def test_flip_and_padding_have_effect_everywhere(in_memory):
    augmentation = Augmentation(flip=True, padding=4)
    assert DataConfig(augmentation=augmentation, in_memory=in_memory).augmentation == augmentation


def test_refused_number_of_workers():
    with pytest.raises(SenetError, match=r"data\.num_workers is -1"):
        DataConfig(num_workers=-1)


@pytest.mark.parametrize(
    "config",
    [
        DataConfig(),
        DataConfig(class_names=("cat", "dog"), augmentation=Augmentation(flip=True, padding=4, cutout=8)),
        DataConfig(
            dataset="imagenet",
            root=Path("/data"),
            preprocessing=IMAGENET,
            augmentation=Augmentation(crop_scale=(0.08, 1.0), crop_ratio=(0.5, 2.0), rotation=10.0),
            in_memory=False,
        ),
    ],
    ids=["default", "names", "imagenet"],
)
def test_read_back_from_json(config):
    assert from_dict(DataConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(("names", "said"), [((), "class_names is empty"), (("a", "b", "a"), "has 'a' twice")])
def test_refused_class_names(names, said):
    with pytest.raises(SenetError, match=said):
        DataConfig(class_names=names)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, NAN])
def test_refused_val_fraction(fraction):
    with pytest.raises(SenetError, match=r"data\.val_fraction is .*; expected between 0 and 1"):
        DataConfig(val_fraction=fraction)


def test_what_belongs_to_one_data_set_does_not_stick_to_another():
    earlier = DataConfig(dataset="pets", class_names=("cat", "dog"), val_fraction=0.2, num_workers=0)
    assert replace(earlier, dataset="others").after(earlier) == DataConfig(dataset="others", num_workers=0)
    given = replace(earlier, dataset="others", class_names=("oak", "elm"))
    assert given.after(earlier).class_names == ("oak", "elm")
    same = replace(earlier, num_workers=1)
    assert same.after(earlier) == same
    assert earlier.after(None) == earlier
