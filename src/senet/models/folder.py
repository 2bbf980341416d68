"""A model folder, model.safetensors beside config.json: written whole, read back as the same network."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from safetensors.torch import save
from torch import nn

from senet.errors import SenetError
from senet.files import write_json, written_beside
from senet.models.cards import ModelConfig
from senet.models.checkpoints import (
    CONFIG_FILE,
    DESCRIPTION_KEY,
    WEIGHTS_FILE,
    Checkpoint,
    find_model_folder,
    read_checkpoint,
)
from senet.models.hub import is_hub_id, upload_model_folder
from senet.models.network import Network
from senet.models.registry import describe, model_card
from senet.models.weights import create_from_weights

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
        SenetError: the model does not come from `create_model`.
    """
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise SenetError(
            f"{type(model).__name__} cannot be saved: it does not come from create_model, "
            "which makes networks of timm and torchvision too (create_model('timm/resnet50'))"
        )
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
    """Read a network from a model folder, a run folder (its best model) or the hub.

    Args:
        source: a folder, or a hub id ("owner/name", with "@revision" if need be): of ours, or of one of timm's models
            that the paper has too, such as "timm/seresnet50.ra2_in1k".

    Returns:
        The network in evaluation mode, with `config`, `preprocessing` and `class_names`.

    Raises:
        SenetError: the folder is absent, incomplete or inconsistent, or the hub cannot be reached.
    """
    if Path(source).is_file() or not (Path(source).exists() or is_hub_id(str(source))):
        find_model_folder(source)  # says what is wrong
    checkpoint = read_checkpoint(source)
    if checkpoint.name is None:
        raise SenetError(f"{source} holds {checkpoint.architecture}, which is not one of our networks")
    config = checkpoint.config or ModelConfig(name=checkpoint.name)
    return create_from_weights(replace(config, num_classes=None), checkpoint, se=None, convert_input=False)


def packaged_weights(name: str) -> list[str]:
    """Return the tags of the weights that come with the package for a network."""
    folder = PACKAGED / name
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def find_weights(name: str, weights: str | Path) -> Checkpoint:
    """Read the weights that `create_model` was given for the network `name`: a tag of the package, or a source.

    Raises:
        SenetError: they are neither; or as `read_checkpoint`.
    """
    tags = packaged_weights(name)
    if str(weights) in tags:
        return read_checkpoint(PACKAGED / name / str(weights))
    if Path(weights).exists() or is_hub_id(str(weights)):
        return read_checkpoint(weights)
    raise SenetError(
        f"weights is {str(weights)!r}; expected a tag of the package (for {name}: {', '.join(tags) or 'none'}), "
        "a model folder, a file or a hub id (owner/name)"
    )


def load_model(source: str | Path) -> Network:
    """Return the network of a run folder, a model folder, a hub id, or a name that has weights in the package.

    Raises:
        SenetError: it is none of these.
    """
    if Path(source).is_dir() or (is_hub_id(str(source)) and not Path(source).exists()):
        return from_pretrained(source)
    tags = packaged_weights(str(source))
    if tags:
        return from_pretrained(PACKAGED / str(source) / tags[0])
    if Path(source).exists():
        raise SenetError(f"{source} is a file; `senet convert` makes a model folder of a file of weights")
    model_card(str(source))
    raise SenetError(f"{source} has no weights in the package; train it, or name a run or model folder or a hub id")
