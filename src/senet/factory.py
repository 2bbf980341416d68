"""Networks with weights: the one module that knows both the architectures and the formats of weights."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from senet.errors import SenetError, first_line
from senet.models.base import Network
from senet.models.build import build, skeleton
from senet.models.catalog import CARDS, Card, model_card
from senet.models.config import ModelConfig
from senet.models.external import build_external, is_external, tag_of
from senet.models.hub_methods import HubFunctions, HubMethods
from senet.nn.block import SEOptions
from senet.weights.checkpoint import Checkpoint
from senet.weights.exported import exported_file
from senet.weights.fitting import fit
from senet.weights.folder import packaged_folder, packaged_weights, push_to_hub, save_pretrained
from senet.weights.hub import Download, is_hub_id
from senet.weights.layouts import TORCHVISION
from senet.weights.loading import LoadReport, load, trunk_names
from senet.weights.matching import Asked, computed_options, has_se, resolve, se_options
from senet.weights.reading import alike, read
from senet.weights.tasks import module_of
from senet.weights.words import is_source, refuse_unknown

logger = logging.getLogger(__name__)
MOST_LARGER, SMALL = 4, 10**6
"""Times its weights' parameters that a network may have, and a small number besides: blocks with random weights."""


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int | None = None,
    *,
    pretrained: bool = False,
    se: SEOptions | None = None,
    weights: str | Path | None = None,
    layout: str | None = None,
    key: str | None = None,
    **options: Any,
) -> Network:
    """Build a network, in training mode; `from_pretrained` opens one with weights for evaluation.

    The module carries `config` (the `ModelConfig` to build it again), `preprocessing` and `class_names` (None until
    trained or loaded).

    Args:
        name: see `list_models`; or "timm/NAME" or "torchvision/NAME" for a network of these libraries. A tag in the
            name, such as "timm/resnet50.a1_in1k", loads those weights.
        num_classes: None takes the number of the weights or, without weights, of the network's own data set; 0 leaves
            the classifier out. If the number is not that of the weights, the classifier starts at random.
        in_channels: channels of the images; None takes the number of the weights or, without weights, 3. If the number
            is not that of the weights, the first convolution is converted, as in timm.
        pretrained: load the first of the weights that the network's card names (`model_card(name).weights`); for
            "timm/NAME" or "torchvision/NAME" that library's default.
        se: SE options, for networks with SE; None takes those of the weights or, without weights, the paper's.
        weights: a tag of the weights in the package, such as "cifar10"; or a file, a model folder, a hub id or
            "torchvision/NAME.TAG", as `load_weights` takes them. None initializes at random.
        layout: of the weights, see `load_weights`; None recognizes it from the keys.
        key: which of several networks in a file of weights, see `load_weights`.
        **options: further arguments that the card lists, such as `stride_on`, `stem_pool`, `dropout`, `zero_init_last`;
            `depth` for CIFAR ResNets of other depths. What is left out is as in the weights.

    Raises:
        SenetError: an unknown name or option, options without effect, or weights that do not fit.

    >>> create_model("cifar_se_resnet20", num_classes=100).num_classes
    100
    """
    if is_hub_id(name) and not is_external(name):
        raise SenetError(
            f"{name} is no name of a network; open a folder or a model on the hub by senet.from_pretrained"
        )
    check_se(name, se)
    asked = Asked(name=name, num_classes=num_classes, in_channels=in_channels, se=se, options=options)
    if pretrained:
        if weights is not None:
            raise SenetError(f"pretrained is True and weights is {str(weights)!r}; leave one out")
        if is_external(name):
            return cast(Network, build_external(asked.config(), pretrained=True))
        weights = public_weights(name)
    if weights is None:
        for argument, value in (("layout", layout), ("key", key)):
            if value is not None:
                raise SenetError(f"{argument}={value!r} has no effect without weights")
        return build(asked.config())
    return assemble(read_weights(name, weights, layout=layout, key=key), asked)


def assemble(checkpoint: Checkpoint, asked: Asked) -> Network:
    """Build the network that is asked for and that weights fit, and load them; it is in training mode.

    Raises:
        SenetError: the weights are of another network, or contradict what is asked for.
    """
    config = resolve(checkpoint, asked)
    if checkpoint.config is not None and asked == Asked(name=asked.name):
        check_room(checkpoint, config)
    model = build(config, checkpoint.surgery)
    fitted = fit(checkpoint, model, asked.adapt())
    log(load(model, fitted, checkpoint), checkpoint, asked.name)
    return model


def check_room(checkpoint: Checkpoint, config: ModelConfig) -> None:
    """Raise a SenetError before memory is taken for a network that is much larger than its weights.

    Args:
        checkpoint: the weights.
        config: what config.json says that they are of, where a number may be any.
    """
    held = sum(tensor.numel() for tensor in checkpoint.state.values())
    try:
        with naming(checkpoint.source):
            wanted = sum(parameter.numel() for parameter in skeleton(config, checkpoint.surgery).parameters())
    except (RuntimeError, TypeError, OverflowError) as error:
        raise SenetError(
            f"{checkpoint.source}: its config.json describes no network ({first_line(error)}); restore it"
        ) from error
    if wanted > MOST_LARGER * held + SMALL:
        raise SenetError(
            f"{checkpoint.source}: its config.json describes a network of {wanted:,} parameters, and its weights have "
            f"{held:,}; restore the file that is wrong"
        )


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the source of a network's description before what is said to be wrong with it."""
    try:
        yield
    except SenetError as error:
        if source not in str(error):
            error.args = (f"{source}: {error}",)
        raise


def check_se(name: str, se: SEOptions | None) -> None:
    """Raise a SenetError for a network that cannot have SE options, if there are any."""
    if se is None:
        return
    if is_external(name):
        raise SenetError(f"se is given, but {name} is of another library; create it without, and call senet.insert_se")
    card = model_card(name)
    if not card.has_se:
        twin = f"; the network with SE is {card.twin}" if card.twin else ""
        raise SenetError(f"se is given, but {name} is a plain network{twin}")


def log(report: LoadReport, checkpoint: Checkpoint, name: str) -> None:
    """Log what was changed in weights to make them fit, and what was assumed about them."""
    for adaptation in report.adaptations:
        logger.warning("%s: %s", report.source, adaptation)
    if checkpoint.stated is None and not is_external(name):
        for said in assumptions(checkpoint, model_card(name)):
            logger.warning("%s: %s", report.source, said)


def assumptions(checkpoint: Checkpoint, card: Card) -> list[str]:
    """Return what is assumed about weights whose keys do not tell this library's networks from another's."""
    computed = checkpoint.layout.options(card)
    if checkpoint.layout is TORCHVISION and computed:
        stated = ", ".join(f"{option}={value!r}" for option, value in computed.items())
        return [f"read as weights of torchvision or timm, which means {stated}"]
    if checkpoint.layout.name == "chenyaofo":
        remedy = "pass layout='senet' for weights of this library"
        return [f"read as weights of pytorch-cifar-models, with its preprocessing; {remedy}"]
    return []


# ---- which weights are meant -----------------------------------------------------------------------------------------


def public_weights(name: str) -> str:
    """Return the weights that `pretrained=True` means for a network.

    Raises:
        SenetError: its card names none.
    """
    weights = model_card(name).weights
    if not weights:
        raise SenetError(
            f"{name} has no public weights (`senet models --weights` lists the networks that have some); "
            "train it, or pass weights="
        )
    return weights[0]


def read_weights(
    name: str,
    weights: str | Path,
    *,
    layout: str | None = None,
    key: str | None = None,
    download: Download | None = None,
) -> Checkpoint:
    """Read the weights that `create_model` is given for the network `name`: a tag of the package, or a source.

    Args:
        name: of the network; empty for that which the weights name.
        weights: the tag or source.
        layout: see `load_weights`.
        key: see `load_weights`.
        download: see `read`.

    Raises:
        SenetError: they are neither; or as `read`.
    """
    if tag_of(name):
        raise SenetError(f"weights is {str(weights)!r}, but {name} means the weights {tag_of(name)!r}; leave one out")
    tags = packaged_weights(name) if name else []
    if str(weights) in tags:
        return read(packaged_folder(name, str(weights)), layout=layout, key=key)
    if not is_source(weights):
        raise SenetError(
            f"weights is {str(weights)!r}; expected a tag of the package (for {name}: {', '.join(tags) or 'none'}), "
            "a model folder, a file or a hub id (owner/name); `senet models --weights` lists the public ones, "
            f"and pretrained=True takes the first{alike(Path(weights))}"
        )
    if not is_external(name):
        return read(weights, layout=layout, key=key, download=download)
    if layout is not None:
        raise SenetError(f"layout={layout!r} has no effect: {name} is none of this library's networks")
    return read(weights, key=key, names=trunk_names(skeleton(ModelConfig(name=name))))


# ---- networks for evaluation -----------------------------------------------------------------------------------------


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Network:
    """Open a network with its weights, in evaluation mode.

    Args:
        source: a model folder; a run folder (its best model); a file that `save_pretrained` or the state dict of a
            network of this library wrote; a hub id ("owner/name", with "@revision" if need be); the name of a network
            with public weights (`list_models(pretrained=True)`), for the first of them; or "timm/NAME" or
            "torchvision/NAME" for that library's own network with its weights, those of a tag
            ("timm/resnet50.a1_in1k") or its default.
        revision: of the model on the hub: a branch, tag or commit; None for the newest.
        token: of the hub; None for the one of `hf auth login` if there is one, False for none.
        cache_dir: the hub's cache; None for the usual one.
        local_files_only: take what is in that cache and ask no server.
        force_download: fetch what is in that cache as well.

    Returns:
        The network, with `config`, `preprocessing` and `class_names`.

    Raises:
        SenetError: the source is incomplete or inconsistent, or does not name its network.
        MissingFileError: there is no such file, folder or model.
        HubError: the hub cannot be reached, or refuses.
    """
    word, exists = str(source), Path(source).exists()
    download = Download(
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    on_hub = not exists and is_hub_id(public_weights(word) if word in CARDS else word) and not is_external(word)
    if download != Download() and not on_hub:
        raise SenetError(f"{download.changed()} has no effect on {source}; it is for models on the hub")
    if is_external(word) and not exists:
        return cast(Network, build_external(ModelConfig(name=word), pretrained=True)).eval()
    if word in CARDS and not exists:
        return assemble(read_weights(word, public_weights(word), download=download), Asked(name=word)).eval()
    if not is_source(source):
        refuse_unknown(word)
    checkpoint = read(source, download=download)
    if checkpoint.description is not None:
        return rebuilt(checkpoint)
    if checkpoint.name is None:
        raise SenetError(unnamed(checkpoint))
    return assemble(checkpoint, Asked(name=checkpoint.name)).eval()


def rebuilt(checkpoint: Checkpoint) -> Network:
    """Build a model that does not classify again, in evaluation mode.

    Raises:
        SenetError: its folder is inconsistent.
    """
    description: Any = checkpoint.description
    try:
        with naming(checkpoint.source):
            model = module_of(description["task"]).build(description)
        model.load_state_dict(checkpoint.state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise SenetError(
            f"{checkpoint.source}: config.json and weights do not fit each other ({first_line(error)}); restore them"
        ) from error
    return cast(Network, model.eval())


def load_model(source: str | Path, *, pretrained: bool = True) -> Network:
    """Open the network that the commands mean by a name, a run, a model folder, a file or a hub id.

    Args:
        source: what `from_pretrained` takes; or a file that `senet.export` wrote, or a folder with one.
        pretrained: False starts a network of timm or torchvision at random.

    Returns:
        The network in evaluation mode.

    Raises:
        SenetError: as `from_pretrained`.
    """
    if pretrained and exported_file(source) is not None:  # parts above this one, which are imported only here
        return cast(Network, import_module("senet.deployment.loading").load_exported(source))
    if pretrained:
        return from_pretrained(source)
    if Path(source).exists() or not is_external(str(source)):
        raise SenetError(f"pretrained=False has no effect on {source}; it is for timm/NAME, torchvision/NAME")
    return cast(Network, build_external(ModelConfig(name=str(source)), pretrained=False)).eval()


def unnamed(checkpoint: Checkpoint) -> str:
    """Return the error message for weights that do not name their network, or name one that this library lacks."""
    if task := (checkpoint.description or {}).get("task"):
        return f"{checkpoint.source} holds a model for {task}, which classifies no images; name a network that does"
    if checkpoint.architecture is not None:
        return f"{checkpoint.source} holds {checkpoint.architecture}, which is not one of this library's networks"
    names = fitting_networks(checkpoint)
    fits = f" (its tensors fit {', '.join(names)})" if names else ""
    return (
        f"{checkpoint.source} does not say what network it is of{fits}; make a model folder that does and name that: "
        f"senet convert {names[0] if names else 'NETWORK'} {checkpoint.source} --output FOLDER"
    )


def fitting_networks(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the networks that have exactly the tensors of a checkpoint, whatever its classes."""
    state, se = checkpoint.state, se_options(checkpoint.state)
    fitting = []
    for name, card in CARDS.items():
        if card.has_se == has_se(checkpoint):
            computed = computed_options(checkpoint, card)
            options = {option: value for option, value in computed.items() if option != "depth"}
            config = ModelConfig(name=name, se=se if card.has_se else SEOptions(), options=options)
            with suppress(SenetError):  # a network without the stages of the weights
                if shapes_within(skeleton(config).state_dict()) == shapes_within(state):
                    fitting.append(name)
    return fitting


def shapes_within(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return the shape of each tensor after its first dimension, without BatchNorm's counts."""
    return {key: tensor.shape[1:] for key, tensor in state.items() if not key.endswith("num_batches_tracked")}


HubMethods.hub = HubFunctions(save=save_pretrained, push=push_to_hub, read=from_pretrained)
