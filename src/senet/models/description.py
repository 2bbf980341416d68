"""What a folder, a file or a state dict says of the network that it is of."""

import json
from dataclasses import asdict
from typing import Any, cast

from torch import nn

from senet.models.base import Network
from senet.models.config import ModelConfig, config_to_dict
from senet.nn.attached import AttachedSE, plain_class
from senet.nn.block import SEBlock


def block_class(model: nn.Module) -> str:
    """Return the name of the class of a network's own SE blocks that is not this library's; SEBlock if none is."""
    kinds = {plain_class(module) for module in model.modules() if isinstance(module, SEBlock)}
    return next((kind.__name__ for kind in kinds if kind not in (SEBlock, AttachedSE)), SEBlock.__name__)


def describe(model: Network) -> dict[str, Any]:
    """Return what config.json says of a network: architecture, preprocessing, classes."""
    block = block_class(model)
    return {
        "format": "senet/1",
        "model": config_to_dict(model.config),
        "preprocessing": asdict(model.preprocessing),
        "class_names": None if model.class_names is None else list(model.class_names),
    } | ({} if block == SEBlock.__name__ else {"block": block})


def describe_state(model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Note in a state dict's metadata what network it is of: its keys alone could be torchvision's as well."""
    if isinstance(getattr(model, "config", None), ModelConfig):
        metadata["senet"] = json.dumps(describe(cast(Network, model)))
