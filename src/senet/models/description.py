"""The description of a network that is saved with its weights, in a folder, a file or a state dict."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from senet.configs import to_dict
from senet.errors import SenetError
from senet.models.base import Network, SEUnit
from senet.models.catalog import CARDS
from senet.models.config import ModelConfig, config_to_dict, se_from_dict, se_to_dict
from senet.nn.attached import attached_blocks, attached_sites, plain_class
from senet.nn.block import EXCITATIONS, ExcitationKind, SEOptions
from senet.nn.excitation import ExcitationBlock
from senet.ops.gates import GATES

FORMATS = ("senet/1", "senet/2")
"""Formats of config.json; the last is written. In "senet/1" the entries of "surgery" are part of "model"."""


@dataclass(frozen=True, kw_only=True)
class Surgery:
    """The SE blocks that were added to, or removed from, the network that a configuration builds.

    Args:
        inserted: the blocks of `senet.insert_se`, "module=channels" each, with ">" before one on a module's input.
        inserted_se: their options.
        removed: the names of the network's own blocks that `senet.prune_se` took out.
    """

    inserted: tuple[str, ...] = ()
    inserted_se: SEOptions = field(default_factory=SEOptions)
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether any block was added or removed."""
        return bool(self.inserted or self.removed)


def derive_surgery(model: nn.Module, whole: nn.Module | None = None) -> Surgery:
    """Return what was inserted into a network and removed from it, as its modules show.

    Args:
        model: the network.
        whole: for another library's network, what its configuration builds, to compare with; None for one of this
            library's, whose units show where a block was.
    """
    options = (block.attached_options for block in attached_blocks(model).values())
    return Surgery(
        inserted=attached_sites(model),
        inserted_se=next(options, SEOptions()),
        removed=removed_blocks(model) if whole is None else replaced_by_identities(model, whole),
    )


def removed_blocks(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the SE blocks that were removed from the units of one of this library's networks."""
    units = [(name, module) for name, module in model.named_modules() if isinstance(module, SEUnit)]
    return tuple(f"{name}.se" for name, unit in units if isinstance(unit.se, nn.Identity))


def replaced_by_identities(model: nn.Module, whole: nn.Module) -> tuple[str, ...]:
    """Return the names of the identities in `model` where `whole` has a module of several layers."""
    before = dict(whole.named_modules())
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Identity) and name in before and any(True for _ in before[name].children())
    )


def surgery_to_dict(surgery: Surgery) -> dict[str, Any]:
    """Return a surgery as plain values, for JSON, without empty entries."""
    values = {"inserted": list(surgery.inserted), "removed": list(surgery.removed)}
    values = {name: value for name, value in values.items() if value}
    return values | ({"inserted_se": se_to_dict(surgery.inserted_se)} if surgery.inserted else {})


def surgery_from_dict(values: Mapping[str, Any]) -> Surgery:
    """Return the surgery that `surgery_to_dict` wrote.

    Raises:
        TypeError: an option of SE that does not exist, or a place that is no text.
    """
    inserted, removed = tuple(values.get("inserted", ())), tuple(values.get("removed", ()))
    if not all(isinstance(name, str) for name in (*inserted, *removed)):
        raise TypeError("surgery has places that are no texts")
    return Surgery(inserted=inserted, inserted_se=se_from_dict(values.get("inserted_se", {})), removed=removed)


def usual_block(config: ModelConfig) -> type[nn.Module]:
    """Return the class of the SE blocks that a configuration describes."""
    return class_of_block(EXCITATIONS[config.se.excitation], config.se)


@cache
def class_of_block(kind: ExcitationKind, options: SEOptions) -> type[nn.Module]:
    """Return the class of the SE blocks that an excitation builds; kept, for every state dict asks for it."""
    with torch.device("meta"):  # without drawing random numbers
        return type(kind.build(1, options))


def block_class(model: nn.Module) -> str | None:
    """Return the class of a network's own SE blocks if it is not what its configuration describes; None if it is.

    Such blocks were put in by a subclass of `SEOptions` or by hand; a registered excitation is part of the options.
    """
    config = getattr(model, "config", None)
    own = {plain_class(m) for m in model.modules() if isinstance(m, ExcitationBlock) and m.attached_at is None}
    if own and isinstance(config, ModelConfig):
        own.discard(usual_block(config))
    return min((kind.__name__ for kind in own), default=None)


def required_modules(config: ModelConfig, surgery: Surgery) -> list[str]:
    """Return the modules of other packages that registered parts of a network; they must be imported to read it."""
    modules = {CARDS.module_of(config.name)}
    for se in (config.se, surgery.inserted_se):
        modules |= {EXCITATIONS.module_of(se.excitation), GATES.module_of(se.gate)}
    return sorted(module for module in modules if module is not None)


def describe(model: Network, surgery: Surgery) -> dict[str, Any]:
    """Return the content of config.json for a network: architecture, surgery, preprocessing, classes."""
    block, requires = block_class(model), required_modules(model.config, surgery)
    return {
        "format": FORMATS[-1],
        "model": config_to_dict(model.config),
        **({"surgery": surgery_to_dict(surgery)} if surgery else {}),
        "preprocessing": to_dict(model.preprocessing),
        "class_names": None if model.class_names is None else list(model.class_names),
        **({} if block is None else {"block": block}),
        **({"requires": requires} if requires else {}),
    }


def describe_state(model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Add the network's description to a state dict's metadata: its keys alone could be torchvision's as well."""
    if isinstance(getattr(model, "config", None), ModelConfig):
        metadata["senet"] = json.dumps(describe(cast(Network, model), derive_surgery(model)))


def named_in_order(names: Mapping[Any, Any], what: str) -> tuple[str, ...]:
    """Return names from {number: name} or {name: number} in the order of the numbers, which may be text.

    Args:
        names: as Hugging Face's id2label and label2id, and torchvision's class_to_idx.
        what: they are, for the message.

    Raises:
        SenetError: the numbers are not 0, 1, ...
    """
    for pairs in (names.items(), ((number, name) for name, number in names.items())):
        numbered = {str(number): str(name) for number, name in pairs}
        if set(numbered) == set(map(str, range(len(names)))):
            return tuple(numbered[str(i)] for i in range(len(names)))
    raise SenetError(
        f"{what} is a {type(names).__name__} that does not number its names 0, 1, ...; give a list of names in the "
        "order of the outputs"
    )
