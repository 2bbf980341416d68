"""A model folder, model.safetensors beside config.json: written whole, read back as the same network."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from senet.attachment import plain_class
from senet.block import SEBlock, SEOptions
from senet.errors import SenetError
from senet.files import write_json, written_beside
from senet.models.cards import ModelConfig
from senet.models.checkpoints import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    find_model_folder,
    read_checkpoint,
)
from senet.models.foreign import build_foreign, is_foreign, tag_of
from senet.models.hub import FILES, is_hub_id, upload_model_folder
from senet.models.network import Network
from senet.models.reading import DESCRIPTION_KEY
from senet.models.registry import CARDS, block_class, config_from_dict, config_to_dict, describe, model_card, skeleton
from senet.models.weights import create_from_weights, trunk_names

PACKAGED = Path(__file__).parent.parent / "pretrained"
"""One model folder per network and tag, such as pretrained/cifar_se_resnet20/cifar10."""
PACKAGED_DEFAULT = "cifar_se_resnet20"
"""The network of the package that answers where none is named."""


def save_pretrained(model: nn.Module, folder: str | Path, metrics: Mapping[str, float] | None = None) -> None:
    """Write a network as a model folder; an interruption leaves each file old or new, never half.

    Args:
        model: from `create_model` or `from_pretrained`, with inserted blocks or without.
        folder: made if absent.
        metrics: what to note about it.

    Raises:
        SenetError: the model does not come from `create_model`, or could not be read back.
    """
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise SenetError(
            f"{type(model).__name__} cannot be saved: it does not come from create_model, "
            "which makes networks of timm and torchvision too (create_model('timm/resnet50'))"
        )
    model = getattr(model, "_orig_mod", model)  # inside what torch.compile returns
    check_readable(cast(Network, model))
    described = describe(cast(Network, model))
    description = described | {"metrics": dict(metrics or {})}
    if isinstance(model, Network) and not (model.config.inserted or model.config.removed):  # timm cannot build others
        description |= {
            "architecture": model.config.name,
            "num_classes": model.num_classes,
            "pretrained_cfg": model.default_cfg,
        }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with written_beside(folder / WEIGHTS_FILE) as path:
        # Not safetensors' save_file, whose files only their owner can read. One entry of metadata: more come out in any
        # order, and the same weights should give the same file.
        path.write_bytes(save(state, metadata={DESCRIPTION_KEY: json.dumps(described)}))
    write_json(folder / CONFIG_FILE, description)


def check_readable(model: Network) -> None:
    """Raise a SenetError unless what a model's configuration says, read back, builds that model.

    Raises:
        SenetError: the first difference: an option or block of a class of one's own, another tensor, another gate.
    """
    refused, remedy = f"{type(model).__name__} cannot be saved", "save its state_dict() by torch.save instead"
    config, block = model.config, block_class(model)
    for name, options in (("se", config.se), ("inserted_se", config.inserted_se)):
        if type(options) is not SEOptions:
            raise SenetError(f"{refused}: its config.{name} is of class {type(options).__name__}; {remedy}")
    if block != SEBlock.__name__:
        raise SenetError(f"{refused}: it has blocks of class {block}, which would come back as SEBlock; {remedy}")
    try:
        text = json.dumps(config_to_dict(config))
    except TypeError as error:
        raise SenetError(f"{refused}: an option of its config is no plain value ({error}); {remedy}") from error
    own, read = parts(model), parts(skeleton(config_from_dict(json.loads(text))))
    differing = [name for name in {**own, **read} if own.get(name) != read.get(name)]
    if differing:
        raise SenetError(f"{refused}: {differing[0]} is not what its config describes; {remedy}")


def parts(model: nn.Module) -> dict[str, object]:
    """Return what must be the same in a network that is read back.

    These are the shape of each tensor, each SE block in words, and the class of each layer without tensors, but for
    dropout and identities, which are the same in evaluation mode.
    """
    modules = dict(model.named_modules())
    blocks = {name: repr(module) for name, module in modules.items() if isinstance(module, SEBlock)}
    without_tensors = {
        name: plain_class(module).__name__
        for name, module in modules.items()
        if not any(True for _ in (*module.children(), *module.parameters(), *module.buffers()))
        and not isinstance(module, nn.Identity | nn.modules.dropout._DropoutNd)
    }
    return {**{key: tensor.shape for key, tensor in model.state_dict().items()}, **without_tensors, **blocks}


def push_to_hub(model: nn.Module, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a network to the Hugging Face hub: a model folder that `from_pretrained` and timm read.

    Args:
        model: from `create_model` or `from_pretrained`.
        repo_id: "owner/name"; made if absent.
        private: whether a new repository is private.
        token: of the hub; None for the one of `hf auth login`.

    Returns:
        The address of the model on the hub.

    Raises:
        SenetError: the model does not come from `create_model`, or the hub refuses or cannot be reached.
    """
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        return upload_model_folder(Path(folder), repo_id, private=private, token=token)


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


def packaged_weights(name: str) -> list[str]:
    """Return the tags of the weights that come with the package for a network."""
    folder = PACKAGED / name
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


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
