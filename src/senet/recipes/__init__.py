"""Recipes: functions that return a complete configuration, one per protocol.

Each docstring names its source, the command, what it costs and what to expect. `senet.paper.rows` has the command of
every row of the paper's tables.
"""

from collections.abc import Callable
from typing import Any

from senet.errors import SenetError
from senet.recipes.cifar import (
    cifar10,
    cifar10_shake,
    cifar10_short,
    cifar10_wrn,
    cifar100,
    cifar100_shake,
    cifar100_wrn,
)
from senet.recipes.coco import coco_faster_rcnn, coco_faster_rcnn_1x
from senet.recipes.digits import digits
from senet.recipes.imagenet import (
    imagenet,
    imagenet_ablation,
    imagenet_inception_resnet,
    imagenet_mobile,
    imagenet_release,
    imagenet_senet154,
    imagenet_senet154_320,
)
from senet.recipes.places import places365
from senet.recipes.resnet_strikes_back import imagenet_a1, imagenet_a2, imagenet_a3
from senet.registry import Registry, calling_module
from senet.training.config import Config, recipe

RECIPES: Registry[Callable[[], Any]] = Registry(
    "recipe",
    {
        "digits": digits,
        "cifar10": cifar10,
        "cifar100": cifar100,
        "cifar10_wrn": cifar10_wrn,
        "cifar100_wrn": cifar100_wrn,
        "cifar10_shake": cifar10_shake,
        "cifar100_shake": cifar100_shake,
        "cifar10_short": cifar10_short,
        "imagenet": imagenet,
        "imagenet_release": imagenet_release,
        "imagenet_inception_resnet": imagenet_inception_resnet,
        "imagenet_mobile": imagenet_mobile,
        "imagenet_ablation": imagenet_ablation,
        "imagenet_senet154": imagenet_senet154,
        "imagenet_senet154_320": imagenet_senet154_320,
        "places365": places365,
        "imagenet_a1": imagenet_a1,
        "imagenet_a2": imagenet_a2,
        "imagenet_a3": imagenet_a3,
        "coco_faster_rcnn": coco_faster_rcnn,
        "coco_faster_rcnn_1x": coco_faster_rcnn_1x,
    },
)


def register_recipe(function: Callable[[], Config]) -> Callable[[], Config]:
    """Add a recipe of another package, under the function's name; a decorator.

    `senet train` lists it with the first line of its docstring. Weights to start from may replace its network and
    preprocessing.

    Args:
        function: returns a complete configuration.

    Returns:
        The recipe.

    Raises:
        SenetError: the name is taken.
    """
    made = recipe(function)
    RECIPES.register(function.__name__, made, calling_module())
    return made


def get_recipe(name: str) -> Any:
    """Return the configuration of a recipe, a `TrainConfig` unless the recipe says otherwise.

    Raises:
        SenetError: no recipe has this name.
    """
    if name not in RECIPES:
        raise SenetError(f"no recipe is called {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
