"""A model folder, model.safetensors beside config.json: written whole, read back as the same network."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from safetensors.torch import save
from torch import nn

from senet.errors import SenetError
from senet.files import write_json, written_beside
from senet.models.base import Network
from senet.models.build import skeleton
from senet.models.config import ModelConfig, config_from_dict, config_to_dict
from senet.models.description import block_class, describe, usual_block
from senet.nn.attached import plain_class
from senet.nn.block import SEOptions
from senet.nn.excitation import ExcitationBlock
from senet.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from senet.weights.hub import upload_model_folder
from senet.weights.reading import DESCRIPTION_KEY

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
    if block is not None:
        usual = usual_block(config).__name__
        raise SenetError(
            f"{refused}: it has blocks of class {block}, which would come back as {usual}; {remedy}, or register the "
            "class by senet.register_excitation"
        )
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
    blocks = {name: repr(module) for name, module in modules.items() if isinstance(module, ExcitationBlock)}
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


def packaged_weights(name: str) -> list[str]:
    """Return the tags of the weights that come with the package for a network."""
    folder = PACKAGED / name
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
