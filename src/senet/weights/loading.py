"""Loading weights into a network: from a file, a folder or the hub, in any known layout, whole or not at all."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError, check_choice
from senet.models.base import Network
from senet.models.build import surgery_of
from senet.models.catalog import Card, model_card
from senet.models.config import ModelConfig
from senet.nn.attached import attached_blocks
from senet.weights.checkpoint import Checkpoint
from senet.weights.fitting import Fitted, fit
from senet.weights.fitting_se import own_blocks
from senet.weights.matching import Adapt, check_network, check_options, check_surgery, number_of_classes
from senet.weights.reading import read
from senet.weights.tensors import COUNTERS


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What `load_weights` did.

    Args:
        source: where the weights come from.
        layout: whose names and shapes they have.
        adaptations: what was changed to make them fit, a phrase each; empty if nothing was.
    """

    source: str
    layout: str
    adaptations: tuple[str, ...]


def load_weights(
    model: nn.Module,
    source: str | Path,
    *,
    layout: str | None = None,
    key: str | None = None,
    adapt: Collection[Adapt] = (),
) -> LoadReport:
    """Load weights into a network: all of them, or none and the model stays as it is.

    The layout is recognized by the keys: this library's, torchvision's, timm's (legacy ones and Cadene's too),
    mmpretrain's, moskomule's senet.pytorch, akamaster's and chenyaofo's CIFAR networks, the authors' Caffe. What can be
    adapted exactly is: SE without biases, SE of a smaller hidden width, weights of the plain network (every SE block
    then starts as the identity, and the outputs are the plain network's bit for bit). Blocks of `insert_se` keep their
    gates where the weights have none of them. The network's `preprocessing` becomes that of the weights.

    Args:
        model: the network; another library's module takes its own state dict only.
        source: a file (.safetensors, .pt, .pth, .th, .pkl, .bin, .ckpt, .caffemodel), a model or run folder, or a hub
            id such as "timm/seresnet50.ra2_in1k". In a file, the state dict may lie in dictionaries, and its keys may
            share a prefix.
        layout: instead of the one recognized from the keys: "senet", "torchvision", "timm_legacy", "timm_legacy_deep",
            "timm_vgg", "mmpretrain", "moskomule", "akamaster", "chenyaofo" or "caffe".
        key: which of several networks in a file, such as "model_ema" or "student".
        adapt: what may be replaced or converted: "classifier" keeps the model's own classifier where the classes
            differ in number; "input" fits the first convolution to another number of channels, as timm does.

    Returns:
        What was loaded and adapted.

    Raises:
        SenetError: a bad source, or weights that do not fit; one sentence with the difference and the remedy.
    """
    for what in adapt:
        check_choice("adapt", what, get_args(Adapt))
    own = isinstance(model, Network)
    if not own and layout is not None:
        raise SenetError(f"layout has no effect: {type(model).__name__} is none of this library's networks")
    checkpoint = read(source, layout=layout, key=key, names=() if own else trunk_names(model))
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        check_network(checkpoint, config.name)
        check_options(config, checkpoint)
        if checkpoint.config is not None:
            check_surgery(surgery_of(cast(Network, model)), checkpoint)
    return load(model, fit(checkpoint, model, adapt), checkpoint)


@torch.no_grad()
def load(model: nn.Module, fitted: Fitted, checkpoint: Checkpoint) -> LoadReport:
    """Load what was fitted to a network, with the preprocessing and the classes of the weights.

    Args:
        model: the network, which changes in place.
        fitted: from `fit`.
        checkpoint: where it comes from.
    """
    about = cast(Any, model)
    model.load_state_dict(versioned(fitted.state, model))
    if isinstance(model, Network):
        if fitted.gate is not None:
            set_gate(model, fitted.gate)
        model.preprocessing = preprocessing_of(checkpoint, model_card(model.config.name)).with_channels(model.in_chans)
    elif checkpoint.preprocessing is not None:
        about.preprocessing = checkpoint.preprocessing
        if isinstance(getattr(model, "config", None), ModelConfig):
            about.preprocessing = checkpoint.preprocessing.with_channels(about.config.in_channels)
    if hasattr(model, "class_names"):
        about.class_names = None if fitted.new_classifier else checkpoint.class_names
    layout = checkpoint.layout.name if isinstance(model, Network) else "its own"
    return LoadReport(source=checkpoint.source, layout=layout, adaptations=(*checkpoint.notes, *fitted.notes))


def versioned(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Return a state dict with the versions that modules write beside their tensors; torchvision's MNASNet needs its.

    Args:
        state: the model's keys.
        model: the network.
    """
    found = model.state_dict()
    found.update(state)
    return found


def preprocessing_of(checkpoint: Checkpoint, card: Card) -> Preprocessing:
    """Return the preprocessing of the weights: the stated one, or else their library's for the card's network."""
    number = number_of_classes(checkpoint.state)
    card = card if number is None else replace(card, num_classes=number)
    return checkpoint.preprocessing or checkpoint.layout.preprocessing(card)


def trunk_names(model: nn.Module) -> list[str]:
    """Return the names of a module's tensors, without counters and inserted blocks."""
    inserted = tuple(f"{name}." for name in attached_blocks(model))
    return [name for name in model.state_dict() if not (COUNTERS.search(name) or name.startswith(inserted))]


def set_gate(model: Network, gate: str) -> None:
    """Set the gate of every block that was not inserted, and record it in the network's configuration."""
    if gate != model.config.se.gate:
        for block in own_blocks(model).values():
            block.set_gate(gate)
        model.config = replace(model.config, se=replace(model.config.se, gate=gate))
