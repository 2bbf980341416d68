"""What a folder, a file or a state dict says of the network that it is of."""

import json
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn

from senet.models.base import Network
from senet.models.config import ModelConfig, config_to_dict
from senet.nn.block import EXCITATIONS
from senet.nn.excitation import ExcitationBlock


def usual_block(config: ModelConfig) -> type[nn.Module]:
    """Return the class of the SE blocks that a configuration describes."""
    with torch.device("meta"):  # without drawing random numbers
        return type(EXCITATIONS[config.se.excitation].build(1, config.se))


def block_class(model: nn.Module) -> str | None:
    """Return the class of a network's own SE blocks if it is not what its configuration describes; None if it is.

    Such blocks were put in by a subclass of `SEOptions` or by hand; a registered excitation is part of the options.
    """
    config = getattr(model, "config", None)
    own = {type(m) for m in model.modules() if isinstance(m, ExcitationBlock) and m.attached_at is None}
    if own and isinstance(config, ModelConfig):
        own.discard(usual_block(config))
    return min((kind.__name__ for kind in own), default=None)


def describe(model: Network) -> dict[str, Any]:
    """Return what config.json says of a network: architecture, preprocessing, classes."""
    block = block_class(model)
    return {
        "format": "senet/1",
        "model": config_to_dict(model.config),
        "preprocessing": asdict(model.preprocessing),
        "class_names": None if model.class_names is None else list(model.class_names),
    } | ({} if block is None else {"block": block})


def describe_state(model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Note in a state dict's metadata what network it is of: its keys alone could be torchvision's as well."""
    if isinstance(getattr(model, "config", None), ModelConfig):
        metadata["senet"] = json.dumps(describe(cast(Network, model)))
