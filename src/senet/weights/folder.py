"""A model folder: model.safetensors, config.json and README.md, written whole and read back as the same network."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from safetensors.torch import save
from torch import nn

from senet.checksums import checksum_of, written_with_checksum
from senet.errors import SenetError
from senet.files import folder_written_beside, make_folder, write_json, writing_to
from senet.models.base import Network
from senet.models.build import skeleton, surgery_of
from senet.models.config import ModelConfig, config_from_dict, config_to_dict, se_to_dict
from senet.models.description import Surgery, block_class, describe, surgery_from_dict, surgery_to_dict, usual_block
from senet.models.timm_protocol import name_for_timm
from senet.nn.attached import plain_class
from senet.nn.block import SEOptions
from senet.nn.excitation import ExcitationBlock
from senet.weights.card import card_of_task, model_card_of, write_card
from senet.weights.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from senet.weights.hub import Upload, upload_model_folder
from senet.weights.tasks import module_of, task_of
from senet.weights.tensors import DESCRIPTION_KEY

PACKAGED = Path(__file__).parent.parent / "pretrained"
"""One model folder per network and tag, such as pretrained/cifar_se_resnet20/cifar10."""


KEPT_OF_TIMM = ("first_conv", "classifier", "pool_size", "fixed_input_size", "crop_mode")
"""What timm says of a network whatever it was trained on."""
PACKAGED_DEFAULT = "cifar_se_resnet20"
"""The packaged network that is used where none is named."""


def save_pretrained(model: nn.Module, folder: str | Path, metrics: Mapping[str, float] | None = None) -> None:
    """Write a network as a model folder: a new one whole or not at all, into one that exists each file atomically.

    The folder holds model.safetensors with its SHA-256, config.json and, unless there is one that you wrote, a model
    card, README.md.

    Args:
        model: from `create_model` or `from_pretrained`, with inserted blocks or without.
        folder: made if absent.
        metrics: what was measured of it.

    Raises:
        SenetError: the model does not come from `create_model` or `build_detector`, or could not be read back; or the
            folder cannot be written.
    """
    folder = Path(folder)
    with writing_to(folder, "make room, or name another folder"):
        if folder.exists():
            write_model_folder(model, folder, metrics)
            return
        make_folder(folder.parent)
        with folder_written_beside(folder) as beside:
            write_model_folder(model, beside, metrics)


def write_model_folder(model: nn.Module, folder: Path, metrics: Mapping[str, float] | None) -> None:
    """Write a network into a folder, see `save_pretrained`.

    Raises:
        SenetError: see `save_pretrained`.
        OSError: it cannot be written.
    """
    network, metrics = getattr(model, "_orig_mod", model), dict(metrics or {})  # inside what torch.compile returns
    if task := task_of(network):
        other = module_of(task)
        other.check_readable(network)
        described, card = other.describe(network), card_of_task(network, other.summary(network), metrics)
        for_timm: dict[str, Any] = {}
    else:
        described, for_timm, card = describe_classifier(network, metrics)
    make_folder(folder)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    with written_with_checksum(folder / WEIGHTS_FILE) as path:
        # Not safetensors' save_file, whose files only their owner can read. One entry of metadata: more come out in any
        # order, and the same weights should give the same file.
        path.write_bytes(save(state, metadata={DESCRIPTION_KEY: json.dumps(described)}))
    write_json(folder / CONFIG_FILE, described | {"metrics": metrics} | for_timm)
    write_card(card, folder)


def describe_classifier(model: nn.Module, metrics: Mapping[str, float]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the description of a network that classifies, what it needs besides for timm, and its model card.

    Raises:
        SenetError: see `save_pretrained`.
    """
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise SenetError(
            f"{type(model).__name__} cannot be saved: it does not come from create_model, "
            "which makes networks of timm and torchvision too (create_model('timm/resnet50'))"
        )
    network = cast(Network, model)
    surgery = surgery_of(network)
    check_readable(network, surgery)
    for_timm: dict[str, Any] = {}
    if not surgery and isinstance(network, Network):
        for_timm = describe_for_timm(network)
    elif not surgery and network.config.name.startswith("timm/"):
        for_timm = describe_of_timm(network)
    return describe(network, surgery), for_timm, str(model_card_of(network, surgery, metrics))


def describe_for_timm(network: Network) -> dict[str, Any]:
    """Return the entries of config.json from which timm builds a network without its weights."""
    config = network.config
    described = {
        "architecture": name_for_timm(config.name),
        "num_classes": network.num_classes,
        "pretrained_cfg": network.default_cfg,
    }
    arguments: dict[str, Any] = dict(config.options)
    if config.se != SEOptions():
        arguments["se"] = se_to_dict(config.se)
    return described | ({"model_args": arguments} if arguments else {})


def describe_of_timm(network: Any) -> dict[str, Any]:
    """Return the entries of config.json from which timm builds one of its own networks without its weights."""
    config, wants = network.config, network.preprocessing
    own: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    size = wants.image_size
    about = {name: own[name] for name in KEPT_OF_TIMM if name in own} | {
        "num_classes": network.num_classes,
        "input_size": [config.in_channels, size, size],
        "crop_pct": size / wants.resize,
        "interpolation": wants.interpolation,
        "mean": list(wants.mean),
        "std": list(wants.std),
    }
    names = network.class_names
    described = {
        "architecture": config.name.partition("/")[2].partition(".")[0],
        "num_classes": network.num_classes,
        "pretrained_cfg": about | ({} if names is None else {"label_names": list(names)}),
    }
    return described | ({"model_args": dict(config.options)} if config.options else {})


def check_readable(model: Network, surgery: Surgery) -> None:
    """Raise a SenetError unless what is written of a model, read back, builds that model.

    Raises:
        SenetError: the first difference: an option or block of a class of one's own, another tensor, another gate.
    """
    refused, remedy = f"{type(model).__name__} cannot be saved", "save its state_dict() by torch.save instead"
    config, block = model.config, block_class(model)
    for name, options in (("config.se", config.se), ("inserted blocks' options", surgery.inserted_se)):
        if type(options) is not SEOptions:
            raise SenetError(f"{refused}: its {name} is of class {type(options).__name__}; {remedy}")
    if block is not None:
        usual = usual_block(config).__name__
        raise SenetError(
            f"{refused}: it has blocks of class {block}, which would come back as {usual}; {remedy}, or register the "
            "class by senet.register_excitation"
        )
    try:
        texts = json.dumps(config_to_dict(config)), json.dumps(surgery_to_dict(surgery))
    except (SenetError, TypeError) as error:
        raise SenetError(f"{refused}: an option of its config is no plain value ({error}); {remedy}") from error
    again = skeleton(config_from_dict(json.loads(texts[0])), surgery_from_dict(json.loads(texts[1])))
    if isinstance(model, Network) and plain_class(model) is not plain_class(again):
        raise SenetError(
            f"{refused}: it would come back as {plain_class(again).__name__}; {remedy}, or register a card that builds "
            f"{plain_class(model).__name__} by senet.register_model"
        )
    own, read = parts(model), parts(again)
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


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    commit_message: str = Upload.commit_message,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a network to the Hugging Face hub: a model folder that `from_pretrained` and timm read.

    Args:
        model: from `create_model` or `from_pretrained`.
        repo_id: "owner/name"; made if absent.
        metrics: what was measured of it.
        commit_message: of the commit.
        private: whether a new repository is private; None for what your settings on the hub say.
        token: of the hub; None for the one of `hf auth login`.
        branch: made if absent; None for the main one.
        create_pr: propose the change instead of making it.

    Returns:
        The address of the model on the hub.

    Raises:
        SenetError: the model does not come from `create_model`, or could not be read back.
        HubError: the hub refuses or cannot be reached.
    """
    upload = Upload(commit_message=commit_message, private=private, token=token, branch=branch, create_pr=create_pr)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, metrics)
        checksum_of(Path(folder) / WEIGHTS_FILE).unlink()  # the hub has its own, which follows when others change it
        return upload_model_folder(Path(folder), repo_id, upload)


def packaged_weights(name: str) -> list[str]:
    """Return the tags of the weights that come with the package for a network."""
    folder = PACKAGED / name
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def packaged_folder(name: str, tag: str) -> Path:
    """Return the model folder of weights that come with the package."""
    return PACKAGED / name / tag
