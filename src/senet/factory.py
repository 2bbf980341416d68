"""Networks with weights: the one module that knows both the architectures and the formats of weights."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from senet.errors import SenetError
from senet.models.base import Network
from senet.models.build import build, skeleton
from senet.models.catalog import CARDS, Card, model_card
from senet.models.config import ModelConfig
from senet.models.external import build_foreign, is_foreign, tag_of
from senet.nn.block import SEOptions
from senet.weights.checkpoint import NOT_OF_THE_WEIGHTS, Checkpoint, find_model_folder, read_checkpoint
from senet.weights.folder import PACKAGED, packaged_weights
from senet.weights.hub import FILES, is_hub_id
from senet.weights.layouts import TORCHVISION
from senet.weights.loading import Adapt, load_checkpoint, load_plain, logger, trunk_names
from senet.weights.matching import check_known


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    se: SEOptions | None = None,
    weights: str | Path | None = None,
    layout: str | None = None,
    key: str | None = None,
    **options: Any,
) -> Network:
    """Build a network.

    The module carries `config` (the `ModelConfig` to build it again), `preprocessing` and `class_names` (None until
    trained or loaded).

    Args:
        name: see `list_models`; or "timm/NAME" or "torchvision/NAME" for the network of one of these libraries, at
            random, and with a tag of weights, such as "timm/resnet50.a1_in1k", with these.
        num_classes: None for the number of the network's own data set (or of the weights); 0 leaves the classifier out.
        in_channels: channels of the images.
        se: SE options, for networks with SE; None for the paper's.
        weights: a tag of the weights in the package, such as "cifar10"; or a file, a model folder or a hub id as
            `load_weights` takes them: then options and SE options that are left out are those of the weights, another
            `num_classes` starts the classifier anew, and another `in_channels` converts the first convolution, as in
            timm. None initializes at random.
        layout: of the weights, see `load_weights`; None for what the keys say.
        key: which of several networks in a file of weights, see `load_weights`.
        **options: further arguments that the card lists, such as `stride_on`, `stem_pool`, `dropout`, `zero_init_last`;
            `depth` for CIFAR ResNets of other depths.

    Returns:
        The network in training mode; in evaluation mode if it has weights.

    Raises:
        SenetError: an unknown name or option, options without effect, or weights that do not fit.

    >>> create_model("cifar_se_resnet20", num_classes=100).num_classes
    100
    """
    if se is not None and is_foreign(name):
        raise SenetError(f"se is given, but {name} is of another library; create it without, and call senet.insert_se")
    if se is not None and not model_card(name).has_se:
        raise SenetError(
            f"se is given, but {name} is a plain network; the network with SE is {model_card(name).twin or 'not there'}"
        )
    config = ModelConfig(
        name=name, num_classes=num_classes, in_channels=in_channels, se=se or SEOptions(), options=options
    )
    if weights is None:
        for argument, value in (("layout", layout), ("key", key)):
            if value is not None:
                raise SenetError(f"{argument}={value!r} has no effect without weights")
        return build(config).eval() if tag_of(name) else build(config)

    checkpoint = find_weights(name, weights, layout=layout, key=key)
    return create_from_weights(config, checkpoint, se=se, convert_input=in_channels != 3)


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


def from_pretrained(source: str | Path) -> Network:
    """Read a network from a model folder, a run folder (its best model), a file that names it, or the hub.

    Args:
        source: a folder; a file that `save_pretrained` or the state dict of one of our networks wrote; a hub id
            ("owner/name", with "@revision" if need be); or "timm/NAME" or "torchvision/NAME" for that library's own
            network with its weights, those of a tag ("timm/resnet50.a1_in1k") or its default.

    Returns:
        The network in evaluation mode, with `config`, `preprocessing` and `class_names`.

    Raises:
        SenetError: the source is absent, incomplete or inconsistent, does not name its network, or the hub cannot be
            reached.
    """
    if is_foreign(str(source)) and not Path(source).exists():
        return cast(Network, build_foreign(ModelConfig(name=str(source)), pretrained=True)).eval()
    if not (Path(source).exists() or is_hub_id(str(source)) or Path(source).suffix in FILES):
        find_model_folder(source)  # says what is wrong
    checkpoint = read_checkpoint(source)
    if checkpoint.name is None:
        raise SenetError(unnamed(checkpoint))
    config = checkpoint.config or ModelConfig(name=checkpoint.name)
    return create_from_weights(replace(config, num_classes=None), checkpoint, se=None, convert_input=False)


def unnamed(checkpoint: Checkpoint) -> str:
    """Return what is said of weights that do not say what network they are of, or one that we do not have."""
    if checkpoint.architecture is not None:
        return f"{checkpoint.source} holds {checkpoint.architecture}, which is not one of our networks"
    names = fitting_networks(checkpoint)
    fits = f" (its tensors fit {', '.join(names)})" if names else ""
    return (
        f"{checkpoint.source} does not say what network it is of{fits}; make a model folder that does and name that: "
        f"senet convert {names[0] if names else 'NETWORK'} {checkpoint.source} FOLDER"
    )


def fitting_networks(checkpoint: Checkpoint) -> list[str]:
    """Return the names of our networks that have exactly the tensors of a checkpoint, whatever its classes."""
    state, se = checkpoint.state, checkpoint.se_options()
    has_se = any(".se." in key for key in state)
    fitting = []
    for name, card in CARDS.items():
        if card.has_se == has_se:
            options = {option: value for option, value in checkpoint.options(card).items() if option != "depth"}
            config = ModelConfig(name=name, se=se if has_se else SEOptions(), options=options)
            with suppress(SenetError):  # a network without the stages of the weights
                if shapes_within(skeleton(config).state_dict()) == shapes_within(state):
                    fitting.append(name)
    return fitting


def shapes_within(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each tensor after its first dimension, without BatchNorm's counts."""
    return {key: tensor.shape[1:] for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


def find_weights(name: str, weights: str | Path, *, layout: str | None = None, key: str | None = None) -> Checkpoint:
    """Read the weights that `create_model` was given for the network `name`: a tag of the package, or a source.

    Args:
        name: of the network.
        weights: the tag or source.
        layout: see `load_weights`.
        key: see `load_weights`.

    Raises:
        SenetError: they are neither; or as `read_checkpoint`.
    """
    if tag_of(name):
        raise SenetError(f"weights is {str(weights)!r}, but {name} means the weights {tag_of(name)!r}; leave one out")
    tags = packaged_weights(name)
    if str(weights) in tags:
        return read_checkpoint(PACKAGED / name / str(weights), key).with_layout(layout)
    if not (Path(weights).exists() or is_hub_id(str(weights)) or Path(weights).suffix in FILES):
        raise SenetError(
            f"weights is {str(weights)!r}; expected a tag of the package (for {name}: {', '.join(tags) or 'none'}), "
            "a model folder, a file or a hub id (owner/name)"
        )
    if not is_foreign(name):
        return read_checkpoint(weights, key).with_layout(layout)
    if layout is not None:
        raise SenetError(f"layout={layout!r} has no effect: {name} is none of this library's networks")
    return read_checkpoint(weights, key, trunk_names(skeleton(ModelConfig(name=name))))


def names_a_network(word: str) -> bool:
    """Whether a word names a network, for `load_model`, rather than a file of something else, such as an image."""
    path = Path(word)
    if path.exists():
        return path.is_dir() or path.suffix in FILES
    return word in CARDS or path.suffix in FILES or is_foreign(word) or (is_hub_id(word) and not is_image(path))


def is_image(path: Path) -> bool:
    """Whether a path ends as files of images do."""
    return path.suffix.lower() in Image.registered_extensions()


def load_model(source: str | Path, *, pretrained: bool = True) -> Network:
    """Return the network that every command means by its RUN_OR_MODEL.

    Args:
        source: what `from_pretrained` takes; or a name that has weights in the package.
        pretrained: False starts a network of timm or torchvision at random.

    Raises:
        SenetError: it is none of these.
    """
    word = str(source)
    if is_foreign(word) and not Path(word).exists() and not pretrained:
        return cast(Network, build_foreign(ModelConfig(name=word), pretrained=False)).eval()
    if not pretrained:
        raise SenetError(f"pretrained is False, which has no effect on {source}; it is for timm/NAME, torchvision/NAME")
    if Path(word).exists() or Path(word).suffix in FILES or is_hub_id(word):
        return from_pretrained(source)
    tags = packaged_weights(word)
    if tags:
        return from_pretrained(PACKAGED / word / tags[0])
    model_card(word)
    raise SenetError(f"{source} has no weights in the package; train it, or name a run or model folder or a hub id")
