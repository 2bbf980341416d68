"""Loading weights from anywhere: a file, a folder or the hub, in anybody's layout, whole or not at all."""

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from senet.block import SEOptions, check_choice
from senet.errors import SenetError
from senet.models.cards import Card, ModelConfig
from senet.models.checkpoints import ADAPTABLE_SE, NOT_OF_THE_WEIGHTS, Checkpoint, read_checkpoint
from senet.models.fitting import (
    fit_classifier,
    fit_input,
    fit_se,
    inserted_names,
    keep_inserted,
    own_blocks,
    plain_state,
    rounded,
)
from senet.models.foreign import is_foreign
from senet.models.layouts import TORCHVISION, stranger
from senet.models.network import Network
from senet.models.reading import COUNTERS
from senet.models.registry import CARDS, block_class, build, model_card, option_value

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

    The layout is recognised by the keys: ours, torchvision's, timm's (legacy ones and Cadene's too), mmpretrain's,
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
    inserted = tuple(f"{name}." for name in inserted_names(model))
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
    done += keep_inserted(state, model)
    check_trunk(state, model, source)
    classifier = fit_classifier(state, model, source, "classifier" in adapt)
    done += classifier + fit_input(state, model, source, "input" in adapt)
    fitted, factor = fit_se(state, model, source)
    expected = {key: tensor for key, tensor in expected.items() if key not in factor_keys(model)}
    check_fit(state, expected, source)
    done += fitted + rounded(state, expected, source)

    set_factor(model, 1.0)
    model.load_state_dict(state)
    set_factor(model, factor)
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


def check_known(checkpoint: Checkpoint) -> None:
    """Raise a SenetError for weights of a network that is known to be none of this library's."""
    what = None if checkpoint.config or checkpoint.architecture else stranger(checkpoint.raw)
    if what is not None:
        raise SenetError(
            f"{checkpoint.source} is of {what}, none of this library's; load it into the class that it was saved from"
        )


def check_options(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for the first option with which the same weights would compute something else."""
    source, layout, card = checkpoint.source, checkpoint.layout, model_card(config.name)
    for option, theirs in checkpoint.options(card).items():
        ours = option_value(config, option)
        if option == "depth" and ours != theirs:
            other = config.name.rstrip("0123456789") + str(theirs)
            remedy = other if other in CARDS else f"it with depth={theirs}"
            raise SenetError(f"{source} is of a network of depth {theirs}, the model of {ours}; create {remedy}")
        if ours != theirs:
            remedy = "; if they are of one of our networks, pass layout='senet'" if layout is TORCHVISION else ""
            raise SenetError(
                f"{source} has weights for {option}={theirs!r} (layout {layout.name}), but the model has {ours!r}; "
                f"create it with {option}={theirs!r}{remedy}"
            )
    check_surgery(config, checkpoint)
    if checkpoint.config is not None and model_card(checkpoint.config.name).has_se:
        check_se_options("se", config.se, checkpoint.config.se, source, ADAPTABLE_SE)


def check_surgery(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise a SenetError if the weights have inserted or removed blocks that the model has not, or of another kind."""
    theirs = checkpoint.config
    if theirs is None:
        return
    for what, own, stored in (
        ("inserted", config.inserted, theirs.inserted),
        ("removed", config.removed, theirs.removed),
    ):
        if stored != own and (stored or what == "removed"):
            raise SenetError(
                f"{checkpoint.source} has other {what} SE blocks than the model; "
                f"open it with them: senet.from_pretrained({checkpoint.source!r})"
            )
    if theirs.inserted:
        check_se_options("inserted_se", config.inserted_se, theirs.inserted_se, checkpoint.source, ())


def check_blocks(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for weights that are known to be of SE blocks of another class than the model's."""
    has_se = checkpoint.config is not None and model_card(checkpoint.config.name).has_se
    own, theirs = block_class(model), checkpoint.block
    if has_se and own != theirs:
        raise SenetError(
            f"{checkpoint.source} has weights of SE blocks of class {theirs}, the model has {own}; create the network "
            f"with {theirs} and call load_weights"
        )


def check_se_options(name: str, own: SEOptions, theirs: SEOptions, source: str, adaptable: Collection[str]) -> None:
    """Raise a SenetError for the first SE option in which weights and model differ, unless it is adaptable."""
    for option in (field.name for field in fields(theirs) if field.name not in adaptable):
        stored = getattr(theirs, option)
        if getattr(own, option) != stored:
            asked = f"SEOptions({option}={stored!r})" if name == "se" else f"blocks inserted with {option}={stored!r}"
            raise SenetError(
                f"{source} has weights for {name}.{option}={stored!r}, but the model has {getattr(own, option)!r}; "
                f"create it with {asked}"
            )


def factor_keys(model: nn.Module) -> set[str]:
    """Return the names of the factors of a network's own gates, which `set_factor` sets."""
    return {f"{name}.factor" for name in own_blocks(model)}


def set_factor(model: Network, factor: float) -> None:
    """Set the factor of every gate that was not inserted, and say so in the network's configuration."""
    blocks = own_blocks(model).values()
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
    if is_foreign(config.name) or (theirs and (theirs.inserted or theirs.removed or is_foreign(theirs.name))):
        return create_exactly(config, checkpoint, se)
    check_known(checkpoint)
    card = model_card(config.name)
    checkpoint.check_network(card)
    asked = checkpoint.options(card) if theirs is None else theirs.options
    depth = {"depth"} if theirs is None else set()  # what the name says; `check_options` compares it
    options = {k: v for k, v in asked.items() if k in card.options and k not in depth} | dict(config.options)
    if card.has_se:
        se = checkpoint.se_options() if se is None else se
    num_classes = checkpoint.num_classes if config.num_classes is None else config.num_classes
    wanted = replace(config, num_classes=num_classes, se=se or SEOptions(), options=options)
    model = build(wanted)
    if theirs is None and not checkpoint.architecture:
        warn_of_layout(checkpoint, card)
    adapt: list[Adapt] = ["classifier"] if config.num_classes is not None else []
    report = load_checkpoint(model, checkpoint, [*adapt, "input"] if convert_input else adapt)
    for adaptation in report.adaptations:
        logger.warning("%s: %s", report.source, adaptation)
    return model.eval()


def warn_of_layout(checkpoint: Checkpoint, card: Card) -> None:
    """Say what is taken for granted of weights whose keys could be those of this library's own networks too."""
    computed = checkpoint.layout.options(card)
    if checkpoint.layout is TORCHVISION and computed:
        stated = ", ".join(f"{option}={value!r}" for option, value in computed.items())
        logger.warning("%s: read as weights of torchvision or timm, which means %s", checkpoint.source, stated)
    if checkpoint.layout.name == "chenyaofo":
        remedy = "pass layout='senet' for weights of this library"
        logger.warning(
            "%s: read as weights of pytorch-cifar-models, with its preprocessing; %s", checkpoint.source, remedy
        )


def create_exactly(config: ModelConfig, checkpoint: Checkpoint, se: SEOptions | None) -> Network:
    """Build another library's network, or this library's as a model folder describes it, and load it.

    Args:
        config: what the caller asked for; a `num_classes` other than that of the weights starts the classifier anew.
        checkpoint: the weights, with their configuration or plain.
        se: the caller's SE options.

    Raises:
        SenetError: the weights do not fit, are of another network than asked for, or an option contradicts them.
    """
    theirs, source, asked = checkpoint.config, checkpoint.source, config
    stated = theirs.name if theirs else f"timm/{checkpoint.architecture}" if checkpoint.architecture else config.name
    if config.name != stated:
        raise SenetError(f"{source} holds {stated}, not {config.name}: create {stated}")
    if theirs is not None:
        check_asked(config, theirs, se, source)
        classes = theirs.num_classes if config.num_classes is None else config.num_classes
        asked = replace(theirs, num_classes=classes, options={**theirs.options, **config.options})
    model = build(asked)
    report = load_plain(model, checkpoint, start_classifier=config.num_classes is not None)
    for adaptation in report.adaptations:
        logger.warning("%s: %s", source, adaptation)
    return model.eval()


def check_asked(config: ModelConfig, theirs: ModelConfig, se: SEOptions | None, source: str) -> None:
    """Raise a SenetError for an argument that a network with inserted or removed blocks cannot follow."""
    if config.in_channels not in (3, theirs.in_channels):  # 3 is what nobody asked for
        raise SenetError(f"{source} is for images of {theirs.in_channels} channels; leave in_channels out")
    if se is not None and se != theirs.se:
        raise SenetError(f"{source} has SE options of its own; leave se out")
    for option, value in config.options.items():
        if option not in NOT_OF_THE_WEIGHTS and theirs.options.get(option, value) != value:
            raise SenetError(f"{source} has weights for {option}={theirs.options[option]!r}; leave {option} out")


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
