"""Loading weights from anywhere: a file, a folder or the hub, in anybody's layout, whole or not at all."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from senet.block import SEBlock, SEOptions, check_choice
from senet.errors import SenetError
from senet.models.cards import ModelConfig
from senet.models.checkpoints import Checkpoint, read_checkpoint
from senet.models.fitting import fit_classifier, fit_input, fit_se
from senet.models.foreign import is_foreign
from senet.models.layouts import TORCHVISION, find_layout
from senet.models.network import Network
from senet.models.registry import build, model_card, option_value

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
    model: nn.Module, source: str | Path, *, layout: str | None = None, adapt: Collection[Adapt] = ()
) -> LoadReport:
    """Load weights into a network: all of them, or none and the model stays as it is.

    The layout is recognised by the keys: ours, torchvision's, timm's (legacy ones and Cadene's too), mmpretrain's,
    moskomule's senet.pytorch, the authors' Caffe. What can be adapted exactly is: SE without biases, SE of a smaller
    hidden width, weights of the plain network (every SE block then starts as the identity, and the outputs are the
    plain network's bit for bit). The network's `preprocessing` becomes that of the weights.

    Args:
        model: the network; a module that is not one of ours takes its own state dict only.
        source: a file (.safetensors, .pt, .pth, .pkl, .bin, .caffemodel), a model or run folder, or a hub id such as
            "timm/seresnet50.ra2_in1k".
        layout: overrules what the keys say: "senet", "torchvision", "timm_legacy", "timm_legacy_deep", "timm_vgg",
            "mmpretrain", "moskomule" or "caffe".
        adapt: what may start anew or be converted: "classifier" keeps the model's own classifier where the classes
            differ in number; "input" fits the first convolution to another number of channels, as timm does.

    Returns:
        What was loaded and adapted.

    Raises:
        SenetError: a bad source, or weights that do not fit; one sentence with the difference and the remedy.
    """
    for what in adapt:
        check_choice("adapt", what, get_args(Adapt))
    checkpoint = read_checkpoint(source)
    if layout is not None:
        checkpoint = checkpoint.with_layout(find_layout(layout))
    if not isinstance(model, Network):
        load_state_dict(model, checkpoint.raw, checkpoint.source)
        return LoadReport(source=checkpoint.source, layout="its own", adaptations=())
    return load_checkpoint(model, checkpoint, adapt)


@torch.no_grad()
def load_checkpoint(model: Network, checkpoint: Checkpoint, adapt: Collection[Adapt] = ()) -> LoadReport:
    """Load a checkpoint that has been read; see `load_weights`."""
    source, card = checkpoint.source, model_card(model.config.name)
    checkpoint.check_network(card)
    check_options(model.config, checkpoint)
    state = checkpoint.state
    done = fit_classifier(state, model, source, "classifier" in adapt)
    own_classifier = bool(done)
    done += fit_input(state, model, source, "input" in adapt)
    fitted, factor = fit_se(state, model, source)
    expected = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith(".se.factor")}
    for key, tensor in expected.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros_like(tensor))
    check_fit(state, expected, source)

    set_factor(model, 1.0)
    model.load_state_dict(state)
    set_factor(model, factor)
    preprocessing = checkpoint.preprocessing or checkpoint.layout.preprocessing(card)
    model.preprocessing = preprocessing.with_channels(model.config.in_channels)
    model.class_names = None if own_classifier else checkpoint.class_names
    return LoadReport(source=source, layout=checkpoint.layout.name, adaptations=(*done, *fitted))


def check_options(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for the first option with which the same weights would compute something else."""
    source, layout = checkpoint.source, checkpoint.layout
    for option, theirs in checkpoint.options(model_card(config.name)).items():
        ours = option_value(config, option)
        if ours != theirs:
            remedy = "; if they are of one of our networks, pass layout='senet'" if layout is TORCHVISION else ""
            raise SenetError(
                f"{source} has weights for {option}={theirs!r} (layout {layout.name}), but the model has {ours!r}; "
                f"create it with {option}={theirs!r}{remedy}"
            )
    if checkpoint.config is not None and model_card(checkpoint.config.name).has_se:
        for name in ("squeeze", "gate", "placement", "stages"):
            theirs, ours = getattr(checkpoint.config.se, name), getattr(config.se, name)
            if theirs != ours:
                raise SenetError(
                    f"{source} has weights for se.{name}={theirs!r}, but the model has {ours!r}; "
                    f"create it with SEOptions({name}={theirs!r})"
                )


def set_factor(model: Network, factor: float) -> None:
    """Set the factor of every gate, and say so in the network's configuration."""
    blocks = [module for module in model.modules() if isinstance(module, SEBlock)]
    for block in blocks:
        block.set_factor(factor)
        block.to(block.fc1.weight.device)
    if blocks:
        model.config = replace(model.config, se=replace(model.config.se, factor=factor))


def create_from_weights(
    config: ModelConfig, checkpoint: Checkpoint, *, se: SEOptions | None, convert_input: bool
) -> Network:
    """Build the network of a configuration as the weights want it, and load them.

    Args:
        config: the name, and what the caller asked for; a `num_classes` other than that of the weights starts the
            classifier anew.
        checkpoint: the weights.
        se: the caller's SE options; None for those of the weights.
        convert_input: whether the first convolution may be converted to the configuration's number of channels.

    Returns:
        The network in evaluation mode.

    Raises:
        SenetError: the weights are of another network, or contradict an option.
    """
    theirs = checkpoint.config
    if theirs is not None and (theirs.inserted or theirs.removed or is_foreign(theirs.name)):
        return create_exactly(config, checkpoint)
    card = model_card(config.name)
    checkpoint.check_network(card)
    asked = checkpoint.options(card) if theirs is None else theirs.options
    options = {name: value for name, value in asked.items() if name in card.options} | dict(config.options)
    if card.has_se:
        se = checkpoint.se_options() if se is None else se
    num_classes = checkpoint.num_classes if config.num_classes is None else config.num_classes
    wanted = replace(config, num_classes=num_classes, se=se or SEOptions(), options=options)
    model = build(wanted)
    if checkpoint.layout is TORCHVISION and not checkpoint.architecture and checkpoint.options(card):
        stated = ", ".join(f"{option}={value!r}" for option, value in checkpoint.options(card).items())
        logger.warning("%s: read as weights of torchvision or timm, which means %s", checkpoint.source, stated)
    adapt: list[Adapt] = ["classifier"] if config.num_classes is not None else []
    report = load_checkpoint(model, checkpoint, [*adapt, "input"] if convert_input else adapt)
    for adaptation in report.adaptations:
        logger.warning("%s: %s", report.source, adaptation)
    return model.eval()


def create_exactly(config: ModelConfig, checkpoint: Checkpoint) -> Network:
    """Build a network with inserted blocks, or another library's, as a model folder describes it, and load it.

    Args:
        config: what the caller asked for; a `num_classes` other than that of the weights starts the classifier anew.
        checkpoint: the weights, with their configuration.

    Raises:
        SenetError: the weights do not fit what their configuration describes, or are of another network than asked for.
    """
    theirs = checkpoint.config
    assert theirs is not None
    if config.name != theirs.name:
        raise SenetError(f"{checkpoint.source} holds {theirs.name}, not {config.name}: create {theirs.name}")
    model = build(theirs if config.num_classes is None else replace(theirs, num_classes=config.num_classes))
    own, state = model.state_dict(), dict(checkpoint.raw)
    anew = [key for key, x in own.items() if key in state and is_classifier(x, state[key], model, theirs)]
    state |= {key: own[key] for key in anew}
    load_state_dict(model, state, checkpoint.source)
    if anew:
        logger.warning("%s: the classifier of %s classes starts anew", checkpoint.source, model.num_classes)
    if checkpoint.preprocessing is not None:
        model.preprocessing = checkpoint.preprocessing
    model.class_names = None if anew else checkpoint.class_names
    return model.eval()


def is_classifier(own: Tensor, theirs: Tensor, model: Network, config: ModelConfig) -> bool:
    """Whether two tensors differ in the number of classes alone."""
    if own.dim() == 0 or theirs.dim() == 0 or len(own) == len(theirs) or own.shape[1:] != theirs.shape[1:]:
        return False
    return (len(own), len(theirs)) == (model.num_classes, config.num_classes)


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


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict whose keys and shapes must all match, or leave the model as it is.

    Raises:
        SenetError: the first difference; `source` names the origin in it.
    """
    check_fit(state, model.state_dict(), source)
    model.load_state_dict(dict(state))
