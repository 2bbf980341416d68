"""Making the SE layers of a state dict fit a network: exactly, or not at all."""

import copy
from contextlib import suppress
from dataclasses import replace
from typing import get_args

import torch
from torch import nn

from senet.errors import SenetError
from senet.models.base import Network, SEUnit
from senet.models.build import skeleton
from senet.models.catalog import model_card
from senet.models.config import gate_times
from senet.nn.attached import attached_blocks
from senet.nn.block import Placement, SEBlock
from senet.nn.excitation import ExcitationBlock
from senet.ops.gates import GATES
from senet.weights.checkpoint import Checkpoint
from senet.weights.layouts import State
from senet.weights.matching import has_se


def own_blocks(model: nn.Module) -> dict[str, ExcitationBlock]:
    """Return a network's SE blocks by name, without inserted ones."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, ExcitationBlock) and module.attached_at is None
    }


def gate_of(checkpoint: Checkpoint, model: Network, factor: float) -> str:
    """Return the gate that the network's own blocks must have: that of the weights, if they say so, or else its own.

    Args:
        checkpoint: the weights; `check_options` has compared their gate with the model's.
        model: the network.
        factor: see `drop_factors`.
    """
    config = checkpoint.config
    return config.se.gate if config is not None and has_se(checkpoint) else gate_times(model.config.se.gate, factor)


def drop_factors(state: State, model: nn.Module) -> float:
    """Take the constant factors of gates out of a state; return that of the network's own gates, 1 if there is none.

    Earlier versions kept a factor of 2 as a buffer of each block; now it is a gate of its own.
    """
    own = {f"{name}.factor" for name in own_blocks(model)}
    factors = {key: state.pop(key).item() for key in list(state) if key.endswith(".se.factor")}
    return next((factor for key, factor in factors.items() if key in own), 1.0)


def fit_se(state: State, model: Network, checkpoint: Checkpoint) -> tuple[list[str], str | None]:
    """Fit the SE layers to the model's blocks: zero biases where there were none, hidden units added that do nothing.

    Args:
        state: the model's keys; changed in place.
        model: the network.
        checkpoint: which these tensors are of.

    Returns:
        What was done, and the gate that the blocks must have, if the weights of a plain network decide it; else None.

    Raises:
        SenetError: the SE blocks cannot be fitted; the sentence says which option would match.
    """
    source, blocks = checkpoint.source, own_blocks(model)
    inserted = tuple(f"{site}." for site in attached_blocks(model))
    own_keys = [key for key in state if not key.startswith(inserted)] if inserted else list(state)
    stored = {key.rpartition(".fc1.")[0] for key in own_keys if key.endswith(".se.fc1.weight")}
    stored |= {name for name, block in blocks.items() if any(f"{name}.{key}" in state for key in block.state_dict())}
    if not blocks:
        if stored:
            name = model.config.name
            remedy = f"create {model_card(name).twin}" if model_card(name).twin else "create a network with SE"
            raise SenetError(f"{source} has SE blocks, {name} has none; {remedy}")
        return [], None
    with_tensors = {name for name, block in blocks.items() if block.state_dict()}
    if not stored and (with_tensors or checkpoint.config is None or not has_se(checkpoint)):
        return start_as_identity(state, model, source)
    if stored != with_tensors:
        differing = sorted(stored.symmetric_difference(blocks))
        whole_stages = {name.split(".")[0] for name in differing}.isdisjoint(
            n.split(".")[0] for n in stored & set(blocks)
        )
        remedy = (
            "create it with the SEOptions.stages of the weights, which create_model without se reads off"
            if whole_stages
            else "the file is incomplete or of another network"
        )
        raise SenetError(
            f"{source} has {len(stored)} SE blocks, the model {len(blocks)} ({differing[0]}, ...); {remedy}"
        )
    se_blocks = {name: block for name, block in blocks.items() if isinstance(block, SEBlock)}
    return fit_biases(state, se_blocks, source) + fit_hidden_widths(state, se_blocks, model, source), None


def fit_biases(state: State, blocks: dict[str, SEBlock], source: str) -> list[str]:
    """Add zero biases to SE layers if none of them has any."""
    added, some = 0, any(f"{name}.{fc}.bias" in state for name in blocks for fc in ("fc1", "fc2"))
    for name, block in blocks.items():
        for fc in ("fc1", "fc2"):
            key, weight = f"{name}.{fc}.bias", state.get(f"{name}.{fc}.weight")
            if block.fc1.bias is None and key in state:
                raise SenetError(
                    f"{source} has biases in its SE layers, the model has none; create it with SEOptions(bias=True)"
                )
            if block.fc1.bias is not None and not some and weight is not None:
                state[key] = weight.new_zeros(weight.shape[0])
                added += 1
    return [f"{added} SE layers without biases get zero biases"] if added else []


def placement_of(state: State, model: Network) -> str:
    """Return the SE option with which the model's blocks would have the channels of the weights."""
    channels = {key: tensor.shape[1] for key, tensor in state.items() if key.endswith(".se.fc1.weight")}
    for placement in get_args(Placement):
        with suppress(SenetError):  # a place that this network does not have
            other = skeleton(replace(model.config, se=replace(model.config.se, placement=placement)))
            if {f"{name}.fc1.weight": block.channels for name, block in own_blocks(other).items()} == channels:
                return f"SEOptions(placement={placement!r})"
    return "the placement that it was saved with"


def fit_hidden_widths(state: State, blocks: dict[str, SEBlock], model: Network, source: str) -> list[str]:
    """Add hidden units where the weights have fewer than the model: its own, on which no output depends."""
    widths = {}
    for name, block in blocks.items():
        shape = state[f"{name}.fc1.weight"].shape
        if len(shape) != 4 or 0 in shape:
            raise SenetError(
                f"{source} does not fit: {name}.fc1.weight is {tuple(shape)} there, which is no 1x1 convolution"
            )
        widths[name], channels = shape[:2]
        if channels != block.channels:
            raise SenetError(
                f"{source} has SE on {channels} channels at {name}, the model on {block.channels}; "
                f"create it with {placement_of(state, model)}"
            )
    too_wide = [name for name, block in blocks.items() if widths[name] > block.hidden_channels]
    if too_wide:
        name = too_wide[0]
        ratio = max(1, min(block.channels // widths[name] for name, block in blocks.items()))
        raise SenetError(
            f"{source} has {widths[name]} hidden units in {name}, the model {blocks[name].hidden_channels}; "
            f"create it with SEOptions(reduction={ratio})"
        )
    narrow = {name: block for name, block in blocks.items() if widths[name] < block.hidden_channels}
    for name, block in narrow.items():
        added = {key: tensor.to(state[f"{name}.fc1.weight"]) for key, tensor in block.state_dict().items()}
        width = widths[name]
        state[f"{name}.fc1.weight"] = torch.cat((state[f"{name}.fc1.weight"], added["fc1.weight"][width:]))
        if "fc1.bias" in added:
            state[f"{name}.fc1.bias"] = torch.cat((state[f"{name}.fc1.bias"], added["fc1.bias"][width:]))
        without_effect = added["fc2.weight"][:, width:].zero_()
        state[f"{name}.fc2.weight"] = torch.cat((state[f"{name}.fc2.weight"], without_effect), 1)
    return [f"{len(narrow)} SE blocks get hidden units with no effect"] if narrow else []


def start_as_identity(state: State, model: Network, source: str) -> tuple[list[str], str]:
    """Add SE layers to the weights of a plain network so that its outputs stay what they are, bit for bit.

    The last layer of every block gets the values with which its gate is exactly 1. A sigmoid gate is one half instead,
    and the affine layers before it are doubled; a network where that is not possible everywhere gets the gate that is
    twice the sigmoid.

    Args:
        state: the model's keys; changed in place.
        model: the network.
        source: for messages.

    Returns:
        What was done, and the gate that the model's blocks must have.

    Raises:
        SenetError: no weights make this gate the identity.
    """
    names = {module: name for name, module in model.named_modules()}
    units = [m for m in model.modules() if isinstance(m, SEUnit) and isinstance(m.se, ExcitationBlock)]
    blocks = {names[unit.se]: unit.se for unit in units if isinstance(unit.se, ExcitationBlock)}
    expected = model.state_dict()
    unknown = [key for key in state if key not in expected]
    if unknown:  # gates of another kind would be lost
        raise SenetError(
            f"{source} is of another network: it has {len(unknown)} keys that the model lacks ({unknown[0]}, ...), so "
            "SE cannot start as the identity; create the network it was saved from"
        )
    gate = GATES[next(iter(blocks.values())).gate_name]
    for name, block in blocks.items():
        twin = copy.deepcopy(block)
        try:
            twin.start_as_identity() if gate.doubled is None else twin.set_logits(0)
        except SenetError as error:
            raise SenetError(
                f"{source} is of a plain network, so that SE must start as the identity, and {error} in SEOptions"
            ) from error
        state.update({f"{name}.{key}": tensor for key, tensor in twin.state_dict().items()})
    done = [f"{len(blocks)} SE blocks start as the identity"]
    if gate.doubled is None:
        return done, gate.name
    affine = [unit.affine_before_se() for unit in units]
    if not all(affine):
        return done, gate.doubled
    for module in (module for layers in affine for module in layers):
        for key in (f"{names[module]}.{leaf}" for leaf in ("weight", "bias")):
            if key in state:
                state[key] = state[key] * 2
    return done, gate.name
