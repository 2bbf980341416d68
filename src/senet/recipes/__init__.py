"""Recipes: functions that return a complete configuration, one per protocol.

Each docstring names its source, the command, what it costs and what to expect.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from senet.errors import SenetError
from senet.recipes.cifar import cifar10, cifar10_short, cifar100
from senet.recipes.digits import digits
from senet.recipes.imagenet import imagenet, imagenet_ablation, imagenet_release, imagenet_senet154
from senet.training.config import TrainConfig

RECIPES: Mapping[str, Callable[[], TrainConfig]] = MappingProxyType(
    {
        "digits": digits,
        "cifar10": cifar10,
        "cifar100": cifar100,
        "cifar10_short": cifar10_short,
        "imagenet": imagenet,
        "imagenet_release": imagenet_release,
        "imagenet_ablation": imagenet_ablation,
        "imagenet_senet154": imagenet_senet154,
    }
)


def get_recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe.

    Raises:
        SenetError: no recipe has this name.
    """
    if name not in RECIPES:
        raise SenetError(f"no recipe is called {name!r}; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]()
