"""Loading weights from anywhere: a file, a folder or the hub, in anybody's layout, whole or not at all."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from senet.errors import SenetError, check_choice
from senet.models.base import Network
from senet.models.catalog import model_card
from senet.models.config import ModelConfig, gate_times
from senet.nn.attached import attached_blocks
from senet.weights.checkpoint import Checkpoint, read_checkpoint
from senet.weights.fitting import (
    drop_factors,
    fit_classifier,
    fit_input,
    fit_se,
    keep_inserted,
    own_blocks,
    plain_state,
    rounded,
)
from senet.weights.matching import check_blocks, check_known, check_options, check_surgery
from senet.weights.reading import COUNTERS

logger = logging.getLogger(__name__)


Adapt = Literal["classifier", "input"]


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

    The layout is recognized by the keys: ours, torchvision's, timm's (legacy ones and Cadene's too), mmpretrain's,
    moskomule's senet.pytorch, akamaster's and chenyaofo's CIFAR networks, the authors' Caffe. What can be adapted
    exactly is: SE without biases, SE of a smaller hidden width, weights of the plain network (every SE block then
    starts as the identity, and the outputs are the plain network's bit for bit). Blocks of `insert_se` keep their gates
    where the weights have none of them. The network's `preprocessing` becomes that of the weights.

    Args:
        model: the network; a module that is not one of ours takes its own state dict only.
        source: a file (.safetensors, .pt, .pth, .th, .pkl, .bin, .ckpt, .caffemodel), a model or run folder, or a hub
            id such as "timm/seresnet50.ra2_in1k". In a file, the state dict may lie in dictionaries, and its keys may
            share a prefix.
        layout: overrules what the keys say: "senet", "torchvision", "timm_legacy", "timm_legacy_deep", "timm_vgg",
            "mmpretrain", "moskomule", "akamaster", "chenyaofo" or "caffe".
        key: which of several networks in a file, such as "model_ema" or "student".
        adapt: what may start anew or be converted: "classifier" keeps the model's own classifier where the classes
            differ in number; "input" fits the first convolution to another number of channels, as timm does.

    Returns:
        What was loaded and adapted.

    Raises:
        SenetError: a bad source, or weights that do not fit; one sentence with the difference and the remedy.
    """
    for what in adapt:
        check_choice("adapt", what, get_args(Adapt))
    if isinstance(model, Network):
        return load_checkpoint(model, read_checkpoint(source, key).with_layout(layout), adapt)
    for argument, given in (("layout", layout is not None), ("adapt=('input',)", "input" in adapt)):
        if given:
            raise SenetError(f"{argument} has no effect: {type(model).__name__} is none of this library's networks")
    return load_plain(model, read_checkpoint(source, key, trunk_names(model)), "classifier" in adapt)


def trunk_names(model: nn.Module) -> list[str]:
    """Return the names of a module's tensors, without counters and inserted blocks."""
    inserted = tuple(f"{name}." for name in attached_blocks(model))
    return [name for name in model.state_dict() if not (COUNTERS.search(name) or name.startswith(inserted))]


@torch.no_grad()
def load_checkpoint(model: Network, checkpoint: Checkpoint, adapt: Collection[Adapt] = ()) -> LoadReport:
    """Load a checkpoint that has been read; see `load_weights`."""
    source, card = checkpoint.source, model_card(model.config.name)
    check_known(checkpoint)
    checkpoint.check_network(card)
    check_options(model.config, checkpoint)
    check_blocks(model, checkpoint)
    expected = model.state_dict()
    state, done = plain_state(checkpoint.state, expected, source)
    factor = drop_factors(state)
    done += keep_inserted(state, model)
    check_trunk(state, model, source)
    classifier = fit_classifier(state, model, source, "classifier" in adapt)
    done += classifier + fit_input(state, model, source, "input" in adapt)
    fitted, gate = fit_se(state, model, source)
    check_fit(state, expected, source)
    done += fitted + rounded(state, expected, source)

    model.load_state_dict(state)
    set_gate(model, gate or gate_of(checkpoint, model, factor))
    card = replace(card, num_classes=checkpoint.num_classes or card.num_classes)
    preprocessing = checkpoint.preprocessing or checkpoint.layout.preprocessing(card)
    model.preprocessing = preprocessing.with_channels(model.config.in_channels)
    model.class_names = None if classifier else checkpoint.class_names
    return LoadReport(source=source, layout=checkpoint.layout.name, adaptations=(*checkpoint.notes, *done))


@torch.no_grad()
def load_plain(model: nn.Module, checkpoint: Checkpoint, start_classifier: bool = False) -> LoadReport:
    """Load a checkpoint whose names are those of the module itself.

    Args:
        model: a module of another library, or this library's as a model folder describes it.
        checkpoint: the weights.
        start_classifier: whether the model's own classifier may stay where the classes differ in number.

    Raises:
        SenetError: the weights do not fit.
    """
    source, config = checkpoint.source, getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        check_surgery(config, checkpoint)
    expected = model.state_dict()
    state, done = plain_state(checkpoint.raw, expected, source)
    drop_factors(state)
    done += keep_inserted(state, model)
    number = getattr(model, "num_classes", None)
    anew = [key for key, x in expected.items() if key in state and is_classifier(x, state[key], number)]
    if anew and not start_classifier:
        theirs = len(state[anew[0]])
        raise SenetError(
            f"{source} has {theirs} classes, the model {number}; create the model with num_classes={theirs}, "
            f"or start a new classifier: create_model(num_classes={number}), load_weights(adapt=('classifier',))"
        )
    state |= {key: expected[key] for key in anew}
    check_fit(state, expected, source)
    done += [f"the classifier of {number} classes starts anew"] if anew else []
    done += rounded(state, expected, source)
    model.load_state_dict(state)
    if checkpoint.preprocessing is not None:
        cast(Any, model).preprocessing = checkpoint.preprocessing
    if hasattr(model, "class_names"):
        cast(Any, model).class_names = None if anew else checkpoint.class_names
    return LoadReport(source=source, layout="its own", adaptations=(*checkpoint.notes, *done))


def gate_of(checkpoint: Checkpoint, model: Network, factor: float) -> str:
    """Return the gate that the network's blocks must have: that of the weights, if they say so, or else its own.

    Args:
        checkpoint: the weights; `check_options` has compared their gate with the model's.
        model: the network.
        factor: see `drop_factors`.
    """
    config = checkpoint.config
    if config is not None and model_card(config.name).has_se:
        return config.se.gate
    return gate_times(model.config.se.gate, factor)


def set_gate(model: Network, gate: str) -> None:
    """Set the gate of every block that was not inserted, and say so in the network's configuration."""
    if gate != model.config.se.gate:
        for block in own_blocks(model).values():
            block.set_gate(gate)
        model.config = replace(model.config, se=replace(model.config.se, gate=gate))


def is_classifier(own: Tensor, theirs: Tensor, number: int | None) -> bool:
    """Whether two tensors differ in the number of classes alone, and the model's is `number`."""
    if own.dim() == 0 or theirs.dim() == 0 or len(own) == len(theirs) or own.shape[1:] != theirs.shape[1:]:
        return False
    return len(own) == number


def check_trunk(state: Mapping[str, Tensor], model: Network, source: str) -> None:
    """Raise a SenetError for a state that lacks more than the classifier, before that is what is said of it."""
    if f"{model.classifier_name}.weight" not in state:
        optional = re.compile(rf"^{re.escape(model.classifier_name)}\.|\.se\.|\.num_batches_tracked$")
        trunk, theirs = (
            {key: tensor for key, tensor in each.items() if not optional.search(key)}
            for each in (model.state_dict(), state)
        )
        check_fit(theirs, trunk, source)


def check_fit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise a SenetError with the first difference in keys or shapes."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        said = [
            f"{len(keys)} {what} ({keys[0]}, ...)"
            for what, keys in (("missing", missing), ("unexpected", extra))
            if keys
        ]
        raise SenetError(
            f"{source} is of another architecture: {' and '.join(said)} keys; create the network it was saved from"
        )
    for key, tensor in expected.items():
        if tensor.shape != state[key].shape:
            raise SenetError(
                f"{source} does not fit: {key} is {tuple(state[key].shape)} there, {tuple(tensor.shape)} in the model"
            )
