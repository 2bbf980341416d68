"""Stochastic depth by one rate for the networks of every library."""

from dataclasses import replace

from torch import nn

from senet.errors import SenetError
from senet.models.build import skeleton
from senet.models.catalog import model_card
from senet.models.config import DROP_PATH_OPTIONS, ModelConfig
from senet.models.external import is_external
from senet.nn.drop_path import check_rate

OWN, TIMMS, TORCHVISIONS = DROP_PATH_OPTIONS
RATES = {"DropPath": ("rate", "drop_prob"), "StochasticDepth": ("p",)}
"""The layers that leave branches out, here, in timm and in torchvision, by class: the attributes with their rates."""


def with_drop_path(config: ModelConfig, rate: float) -> ModelConfig:
    """Return the configuration of the same network with stochastic depth.

    Args:
        config: of a network of this library, timm or torchvision.
        rate: of the last branch, in [0, 1); 0 leaves the network as it is.

    Raises:
        SenetError: a rate out of its range, or a network in which it has no effect.
    """
    check_rate(rate)
    if not rate:
        return config
    without = f"regularization.drop_path is {rate}, but {config.name} has no stochastic depth"
    if not is_external(config.name):
        if OWN not in model_card(config.name).options:
            raise SenetError(f"{without}; leave it out, or take a ResNet, ResNeXt or SENet")
        return replace(config, options={**config.options, OWN: rate})
    option = TIMMS if config.name.startswith("timm/") else TORCHVISIONS
    changed = replace(config, options={**config.options, option: rate})
    untagged = config.name.partition(".")[0]  # without the weights, which would be downloaded
    try:
        model = skeleton(replace(changed, name=untagged))
    except SenetError as error:
        skeleton(replace(config, name=untagged))  # raises if something else is wrong
        raise SenetError(f"{without} that can be set; leave it out") from error
    if not any(drops_branches(module) for module in model.modules()):
        raise SenetError(f"{without}; leave it out")
    return changed


def drops_branches(module: nn.Module) -> bool:
    """Whether a module leaves branches out while training."""
    names = RATES.get(type(module).__name__, ())
    return any(getattr(module, name, None) for name in names)
