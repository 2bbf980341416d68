"""A model folder, model.safetensors beside config.json: written whole, read back as the same network."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from senet.block import SEOptions
from senet.errors import SenetError
from senet.files import write_json, written_beside
from senet.models.cards import ModelConfig
from senet.models.network import Network
from senet.models.registry import build, config_from_dict, config_to_dict, model_card
from senet.models.weights import load_state_dict, load_weights, read_state_dict
from senet.preprocessing import Preprocessing

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PACKAGED = Path(__file__).parent.parent / "pretrained"
"""One model folder per network and tag, such as pretrained/cifar_se_resnet20/cifar10."""
PACKAGED_DEFAULT = "cifar_se_resnet20"
"""The network of the package that answers where none is named."""


def describe(model: nn.Module) -> dict[str, Any]:
    """Return what config.json says of a network: architecture, preprocessing, classes.

    Raises:
        SenetError: the model does not come from `create_model`.
    """
    if not isinstance(model, Network):
        raise SenetError(f"{type(model).__name__} cannot be saved: it is not one of senet's networks, see create_model")
    return {
        "format": "senet/1",
        "model": config_to_dict(model.config),
        "preprocessing": asdict(model.preprocessing),
        "class_names": None if model.class_names is None else list(model.class_names),
    }


def save_pretrained(model: nn.Module, folder: str | Path, metrics: Mapping[str, float] | None = None) -> None:
    """Write a network as a model folder; an interruption leaves each file old or new, never half.

    Args:
        model: from `create_model` or `from_pretrained`.
        folder: made if absent.
        metrics: what to note about it.

    Raises:
        SenetError: the model does not come from `create_model`.
    """
    description = describe(model) | {"metrics": dict(metrics or {})}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with written_beside(folder / WEIGHTS_FILE) as path:
        # Not safetensors' save_file, whose files only their owner can read.
        path.write_bytes(save(state, metadata={"format": "pt"}))
    write_json(folder / CONFIG_FILE, description)


def find_model_folder(source: str | Path) -> Path:
    """Return the model folder in `source`: itself, or the best/ (else last/) of a run folder.

    Raises:
        SenetError: there is none.
    """
    source = Path(source)
    for folder in (source, source / "best", source / "last"):
        if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
            return folder
    if not source.exists():
        raise SenetError(f"there is no folder {source}")
    raise SenetError(
        f"{source} is neither a model folder ({WEIGHTS_FILE} and {CONFIG_FILE}) nor a run folder (best/, last/)"
    )


def read_description(folder: Path) -> tuple[dict[str, Any], ModelConfig]:
    """Read config.json.

    Raises:
        SenetError: it is not what `save_pretrained` writes.
    """
    path = folder / CONFIG_FILE
    try:
        description = json.loads(path.read_text())
        return description, config_from_dict(description["model"])
    except SenetError as error:
        raise SenetError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SenetError(f"{path} is not a senet model configuration ({error})") from error


def build_described(folder: Path, description: Mapping[str, Any], config: ModelConfig) -> Network:
    """Build the network of a description and load its folder's weights; evaluation mode."""
    try:
        model = build(config)
    except SenetError as error:
        raise SenetError(f"{folder / CONFIG_FILE}: {error}") from error
    try:
        model.preprocessing = Preprocessing(**description["preprocessing"])
        names = description["class_names"]
    except (KeyError, TypeError) as error:
        raise SenetError(f"{folder / CONFIG_FILE} is not a senet model configuration ({error})") from error
    model.class_names = None if names is None else tuple(names)
    load_weights(model, folder / WEIGHTS_FILE)
    return model.eval()


def from_pretrained(source: str | Path) -> Network:
    """Read a network from a model folder or a run folder (its best model).

    Returns:
        The network in evaluation mode, with `config`, `preprocessing` and `class_names`.

    Raises:
        SenetError: the folder is absent, incomplete or inconsistent.
    """
    folder = find_model_folder(source)
    return build_described(folder, *read_description(folder))


def packaged_weights(name: str) -> list[str]:
    """Return the tags of the weights that come with the package for a network."""
    folder = PACKAGED / name
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def create_from_weights(config: ModelConfig, weights: str | Path) -> Network:
    """Build the network of `config` with the weights of a tag, model folder or file; see `create_model`."""
    tagged = PACKAGED / config.name / str(weights)
    folder = tagged if str(weights) in packaged_weights(config.name) else Path(weights)
    if folder.is_file():
        state = read_state_dict(folder)
        model = build(config)
        load_state_dict(model, state, str(folder))
        return model.eval()
    if not folder.is_dir():
        tags = ", ".join(packaged_weights(config.name)) or "none"
        raise SenetError(
            f"weights is {str(weights)!r}; expected a tag of the package (for {config.name}: {tags}), "
            "a model folder or a file"
        )
    folder = find_model_folder(folder)
    description, stored = read_description(folder)
    wanted = stored if config.num_classes is None else replace(stored, num_classes=config.num_classes)
    if (config.name, config.in_channels) != (stored.name, stored.in_channels) or wanted != stored:
        raise SenetError(
            f"{folder} holds {stored.name} with {stored.num_classes} classes and {stored.in_channels} channels, "
            f"not {config.name} with {config.num_classes or stored.num_classes} and {config.in_channels}"
        )
    if config.se not in (SEOptions(), stored.se) or (config.options and config.options != stored.options):
        raise SenetError(
            f"{folder} was built with se={stored.se} and options {dict(stored.options)}; leave them out to use these"
        )
    return build_described(folder, description, stored)


def load_model(source: str | Path) -> Network:
    """Return the network of a run folder, a model folder, or a name that has weights in the package.

    Raises:
        SenetError: it is none of these.
    """
    if Path(source).is_dir():
        return from_pretrained(source)
    tags = packaged_weights(str(source))
    if tags:
        return create_from_weights(ModelConfig(name=str(source)), tags[0])
    if Path(source).exists():
        raise SenetError(f"{source} is a file; expected a run folder, a model folder or a network's name")
    model_card(str(source))
    raise SenetError(f"{source} has no weights in the package; train it, or name a run or model folder")
