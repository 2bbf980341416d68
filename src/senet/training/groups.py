"""The parameters of a network in groups: which of them decay, and at which share of the learning rate they train."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import SenetError
from senet.models.base import Network
from senet.nn.attached import attached_blocks
from senet.training.sections import OptimizerConfig

NUM_GROUPS = 13
"""Most groups of layers of a network that says nothing of its stages: a stem and 12 blocks, as ViT-Base has."""


def parameter_groups(
    config: OptimizerConfig, model: nn.Module, parameters: Iterable[tuple[str, Parameter]] | None = None
) -> list[dict[str, Any]]:
    """Return the groups of parameters for an optimizer.

    Without `decay_norm_and_bias`, vectors, biases and what a network of timm's says itself, such as the embedding of
    positions, are in groups of their own without weight decay. With
    `layer_decay` each group has an `lr_scale`, which the schedule multiplies its learning rate by.

    Args:
        config: of the optimizer.
        model: the network.
        parameters: those to group, with their names in the network; None for all.
    """
    named = list(model.named_parameters()) if parameters is None else list(parameters)
    scales = dict.fromkeys((name for name, _ in named), 1.0)
    if config.layer_decay is not None:
        depths = depths_of(model)
        last = max(depths.values())
        scales = {name: config.layer_decay ** (last - depths[name]) for name, _ in named}
    of_timm: Any = model
    spared = set(of_timm.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    groups: list[dict[str, Any]] = []
    for scale in sorted(set(scales.values())):
        members = [(name, weight) for name, weight in named if scales[name] == scale]
        extra = {} if config.layer_decay is None else {"lr_scale": scale}
        if config.decay_norm_and_bias:
            groups.append({"params": [weight for _, weight in members], **extra})
            continue
        without = [w for name, w in members if w.ndim <= 1 or name.endswith(".bias") or name in spared]
        kept = {id(weight) for weight in without}
        groups.append({"params": without, "weight_decay": 0.0, **extra})
        groups.append({"params": [weight for _, weight in members if id(weight) not in kept], **extra})
    return [group for group in groups if group["params"]]


# ---- the head --------------------------------------------------------------------------------------------------------


def head_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters of the classifier and of the SE blocks that were inserted.

    Raises:
        SenetError: the network has no classifier that can be found.
    """
    heads = [*classifier_names(model), *attached_blocks(model)]
    return {name for name, _ in model.named_parameters() if any(name.startswith(f"{head}.") for head in heads)}


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that make up a network's classifier, mostly one.

    Networks of this library and of timm tell it; for others it is the last layer with as many outputs as classes.

    Args:
        model: of this library, timm or torchvision.

    Raises:
        SenetError: there is none.
    """
    if isinstance(model, Network):
        told: Any = model.classifier_name
    else:
        told = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    names = (told,) if isinstance(told, str) else tuple(told or ())
    modules = dict(model.named_modules())
    found = tuple(name for name in names if any(True for _ in modules.get(name, nn.Identity()).parameters()))
    if found:
        return found
    classes = getattr(model, "num_classes", None)
    widths = ((name, getattr(m, "out_features", getattr(m, "out_channels", None))) for name, m in modules.items())
    last = [name for name, width in widths if width is not None and width == classes]
    if not last:
        raise SenetError(
            f"{type(model).__name__} has no layer of {classes} outputs, the classifier that freezing and "
            "optimizer.layer_decay tell the trunk from; leave them out"
        )
    return (last[-1],)


# ---- depth -----------------------------------------------------------------------------------------------------------


def depths_of(model: nn.Module) -> dict[str, int]:
    """Return for each parameter, by name, the group of layers that it is in: 0 at the image, the last at the head.

    The groups are the stages of a network, or the blocks of one without stages such as a transformer: those of this
    library's by their feature pyramid, timm's by its `group_matcher(coarse=True)`, torchvision's by the order of their
    modules. The classifier and the SE blocks that were inserted are the last group, whatever is around them.

    Args:
        model: of this library, timm or torchvision.
    """
    head = head_names(model)
    names = [name for name, _ in model.named_parameters()]
    if isinstance(model, Network):
        found = by_levels(model, names)
    elif hasattr(model, "group_matcher"):
        from timm.models import group_parameters

        of_timm: Any = model
        found = group_parameters(model, of_timm.group_matcher(coarse=True), reverse=True)
    else:
        found = by_order(model, [name for name in names if name not in head])
    used = sorted({found[name] for name in names if name not in head})
    order = {depth: i for i, depth in enumerate(used)}
    return {name: len(used) if name in head else order[found[name]] for name in names}


def by_levels(model: Network, names: Iterable[str]) -> dict[str, int]:
    """Return the level of the feature pyramid that each parameter belongs to."""
    ends = [model.trunk.index(info["module"]) for info in model.feature_info]
    level = {name: sum(end < i for end in ends) for i, name in enumerate(model.trunk)}
    last = len(ends)
    return {name: level.get(part_of(name, level), last) for name in names}


def part_of(name: str, parts: Iterable[str]) -> str:
    """Return which of some modules, by name, a parameter is in; an empty text if it is in none."""
    return next((part for part in parts if name.startswith(f"{part}.")), "")


def by_order(model: nn.Module, names: list[str]) -> dict[str, int]:
    """Return groups of parameters by the order of the modules: at most `NUM_GROUPS`, of about as many modules each."""
    chain: list[set[str]] = []
    for is_layer, link in links(model, set(names), ""):
        if is_layer or not chain:
            chain.append(link)
        else:  # a norm, or a single parameter
            chain[-1] |= link
    number = min(NUM_GROUPS, len(chain))
    return {name: i * number // len(chain) for i, link in enumerate(chain) for name in link}


def links(module: nn.Module, names: set[str], place: str) -> Iterator[tuple[bool, set[str]]]:
    """Yield the parameters of the modules that run one after another, and whether they are more than a norm.

    A module with most of the parameters of the module around it, such as "features", counts as what is in it.

    Args:
        module: whose parts are listed.
        names: of the parameters to group.
        place: the module's name and a dot, or nothing for the network itself.
    """
    own = {name for name in names if name.startswith(place)}
    if direct := {name for name in own if "." not in name.removeprefix(place)}:
        yield False, direct
    for child_name, child in module.named_children():
        inside = {name for name in own if name.startswith(f"{place}{child_name}.")}
        if 3 * len(inside) > 2 * len(own) and any(True for _ in child.children()):
            yield from links(child, names, f"{place}{child_name}.")
        elif inside:
            yield not isinstance(child, _BatchNorm | nn.LayerNorm | nn.GroupNorm), inside
