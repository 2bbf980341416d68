"""Building the network of a configuration."""

from dataclasses import replace
from inspect import signature
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from senet.errors import SenetError
from senet.models.base import Network
from senet.models.catalog import CARDS, Card, model_card
from senet.models.config import ModelConfig
from senet.models.description import Surgery, derive_surgery, describe_state
from senet.models.external import build_external, is_external
from senet.nn.attached import attach_at
from senet.nn.block import SEOptions
from senet.nn.recompute import recompute_blocks

MOST_CHANNELS = 2**16
"""More than images have; a configuration from anywhere may say any number, and each has its mean and deviation."""


def build(config: ModelConfig, surgery: Surgery | None = None) -> Network:
    """Build the network of a configuration, with random weights and in training mode.

    A network of another library is of that library's class, with the attributes that this library's networks have. A
    name with a tag, such as "timm/resnet50.a1_in1k", loads those weights.

    Args:
        config: what to build.
        surgery: the SE blocks to insert and to remove afterwards; None for none.

    Raises:
        SenetError: as `create_model`.
    """
    if config.in_channels < 1:
        raise SenetError(f"in_channels is {config.in_channels}; expected at least 1")
    if config.in_channels > MOST_CHANNELS:
        raise SenetError(f"in_channels is {config.in_channels}; expected at most {MOST_CHANNELS:,}")
    model = cast(Network, build_external(config)) if is_external(config.name) else build_own(config)
    if surgery is not None:
        attach_at(model, surgery.inserted, surgery.inserted_se)
        for name in surgery.removed:
            model.set_submodule(name, nn.Identity(), strict=True)
    return model


def surgery_of(model: Network) -> Surgery:
    """Return the SE blocks inserted into and removed from a network of `create_model`, of any library."""
    return derive_surgery(model, skeleton(model.config) if is_external(model.config.name) else None)


def checkpoint_gradients(model: nn.Module) -> None:
    """Let a network compute its blocks again in the backward pass instead of keeping their activations.

    Args:
        model: from `build`.

    Raises:
        SenetError: it has no blocks, so that this would have no effect.
    """
    if isinstance(model, Network):
        model.set_grad_checkpointing()
    elif not recompute_blocks(model):
        name = cast(ModelConfig, model.config).name
        raise SenetError(
            f"compute.grad_checkpointing has no effect on {name}, which is not made of blocks; leave it out, and lower "
            "batch_size or raise compute.accumulate if memory is short"
        )


NAMES_HERE = {
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "checkpoint_path": "weights",
}
"""timm's names of arguments of `create_model` -> this library's names, which are torchvision's."""

TIMM_ONLY = ("features_only", "out_indices", "feature_cls")
"""Arguments that `timm.create_model` handles itself, also for the networks of this library."""


class WithoutInitialization(TorchFunctionMode):
    """Skips the functions of `torch.nn.init`: on the meta device they take most of the time and change nothing."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor as it is, for a function of `torch.nn.init`; call any other."""
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def skeleton(config: ModelConfig, surgery: Surgery | None = None) -> Network:
    """Build the network of a configuration on the meta device: its modules and shapes, without values.

    Raises:
        SenetError: as `create_model`.
    """
    with torch.device("meta"), WithoutInitialization():
        return build(config, surgery)


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
            raise SenetError(f"{config.name} has no option {option!r}; {option_remedy(option, card)}")
    model = card.build(
        num_classes=num_classes,
        in_channels=config.in_channels,
        se=config.se if card.has_se else None,
        **config.options,
    )
    if not isinstance(model, Network):
        raise SenetError(f"the card of {config.name} builds a {type(model).__name__}, which is no Network")
    model.config = replace(config, num_classes=num_classes)
    model.preprocessing = card.preprocessing.with_channels(config.in_channels)
    model.class_names = None
    model.register_state_dict_post_hook(describe_state)  # type: ignore[no-untyped-call]
    return model


def option_remedy(option: str, card: Card) -> str:
    """Return what to pass in place of an option that a network does not have."""
    if option in NAMES_HERE:
        return f"it is called {NAMES_HERE[option]} here"
    if option in TIMM_ONLY:
        return "pass it to timm.create_model, after import senet.integrations.timm"
    families = dict.fromkeys(other.family for other in CARDS.values() if option in other.options)
    elsewhere = f"; those of the families {', '.join(families)} have it" if families else ""
    return f"its options are {', '.join(card.options) or 'none'}{elsewhere}"


def option_value(config: ModelConfig, option: str) -> Any:
    """Return the value of an option of a network: the configuration's, or the builder's default."""
    return config.options.get(option, default_of(model_card(config.name), option))


def default_of(card: Card, option: str) -> Any:
    """Return the value that the builder of a network gives one of its options."""
    return signature(card.build).parameters[option].default
