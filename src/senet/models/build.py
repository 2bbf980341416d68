"""Building the network of a configuration."""

from dataclasses import replace
from inspect import signature
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from senet.errors import SenetError
from senet.models.base import Network
from senet.models.catalog import Card, model_card
from senet.models.config import ModelConfig
from senet.models.description import describe_state
from senet.models.external import build_foreign, is_foreign
from senet.nn.attached import attach_at
from senet.nn.block import SEOptions


def build(config: ModelConfig) -> Network:
    """Build the network of a configuration, with random weights.

    One of another library's has that library's class, with the attributes that ours have.

    Raises:
        SenetError: as `create_model`.
    """
    if config.in_channels < 1:
        raise SenetError(f"in_channels is {config.in_channels}; expected at least 1")
    model = cast(Network, build_foreign(config)) if is_foreign(config.name) else build_own(config)
    if config.inserted:
        attach_at(model, config.inserted, config.inserted_se)
    for name in config.removed:
        model.set_submodule(name, nn.Identity(), strict=True)
    model.config = replace(
        model.config, inserted=config.inserted, inserted_se=config.inserted_se, removed=config.removed
    )
    return model


class WithoutInitialization(TorchFunctionMode):
    """Leaves out what `torch.nn.init` does: on the meta device, it takes most of the time and changes nothing."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor as it is, for a function of `torch.nn.init`; call any other."""
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def skeleton(config: ModelConfig) -> Network:
    """Build the network of a configuration without values, to look at its parts and the shapes of its tensors.

    Raises:
        SenetError: as `create_model`.
    """
    with torch.device("meta"), WithoutInitialization():
        return build(config)


def build_own(config: ModelConfig) -> Network:
    """Build a network of the registry, without inserted blocks."""
    card = model_card(config.name)
    if not card.has_se and config.se != SEOptions():
        raise SenetError(f"model.se has no effect: {config.name} is a plain network")
    num_classes = card.num_classes if config.num_classes is None else config.num_classes
    if num_classes < 0:
        raise SenetError(f"num_classes is {num_classes}; expected at least 0")
    for option in config.options:
        if option not in card.options:
            raise SenetError(f"{config.name} has no option {option!r}; its options are {', '.join(card.options)}")
    model = card.build(
        num_classes=num_classes,
        in_channels=config.in_channels,
        se=config.se if card.has_se else None,
        **config.options,
    )
    model.config = replace(config, num_classes=num_classes)
    model.preprocessing = card.preprocessing.with_channels(config.in_channels)
    model.class_names = None
    model.register_state_dict_post_hook(describe_state)  # type: ignore[no-untyped-call]
    return model


def option_value(config: ModelConfig, option: str) -> Any:
    """Return the value of an option of a network: the configuration's, or the builder's default."""
    return config.options.get(option, default_of(model_card(config.name), option))


def default_of(card: Card, option: str) -> Any:
    """Return the value that the builder of a network gives one of its options."""
    return signature(card.build).parameters[option].default
