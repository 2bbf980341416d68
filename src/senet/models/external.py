"""Networks of timm and torchvision by name, such as "timm/resnet50", with the attributes of this library's."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.errors import HubError, SenetError, first_line, nearest, needed_for
from senet.models.config import ModelConfig
from senet.models.from_torchvision import build_torchvision, preprocessing_from_torchvision

LIBRARIES = ("timm", "torchvision")


def is_external(name: str) -> bool:
    """Whether a name is that of another library's network; only the library's part of the name is checked."""
    return name.partition("/")[0] in LIBRARIES and name.count("/") == 1


def names_elsewhere(word: str) -> list[str]:
    """Return the networks of other libraries that have a name, as this library calls them: "timm/convnext_tiny"."""
    found = []
    for library in LIBRARIES:
        with suppress(SenetError):  # a missing library, or a network that it does not have
            split_name(f"{library}/{word}")
            found.append(f"{library}/{word}")
    return found


def tag_of(name: str) -> str:
    """Return the tag of weights in a name, such as "a1_in1k" in "timm/resnet50.a1_in1k"; empty if it has none."""
    return name.partition(".")[2] if is_external(name) else ""


def split_name(name: str) -> tuple[str, str, str]:
    """Return the library, the network's name there and the tag of weights, which may be empty.

    Raises:
        SenetError: the library has no such network.
    """
    library, _, published = name.partition("/")
    if library == "timm":
        with needed_for(name):
            import timm

        known = timm.list_models()
    else:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
    architecture, _, tag = published.partition(".")
    if architecture not in known:
        raise SenetError(f"{library} has no network {architecture!r}; the nearest are {nearest(architecture, known)}")
    return library, architecture, tag


def build_external(config: ModelConfig, *, pretrained: bool | None = None) -> nn.Module:
    """Build another library's network: its own class, with `config`, `preprocessing`, `class_names`, `num_classes`.

    Args:
        config: its name is "timm/..." or "torchvision/..."; options are passed on. Another number of classes than that
            of the weights starts a new classifier, another number of channels converts the first convolution.
        pretrained: take the library's weights, which it downloads: those of the tag in the name, or else its default;
            None for random ones unless the name has a tag.

    Raises:
        SenetError: no such network or option, or weights that cannot be loaded.
    """
    library, architecture, tag = split_name(config.name)
    pretrained = bool(tag) if pretrained is None else pretrained
    if tag and not pretrained:
        raise SenetError(f"{config.name} means the weights {tag!r}; leave them out of the name to start at random")
    channels, options = config.in_channels, dict(config.options)
    try:
        if library == "timm":
            model = create_in_timm(config, pretrained=pretrained)
        else:
            weights = (tag or "DEFAULT") if pretrained else None
            model, options = build_torchvision(architecture, weights, config.num_classes, channels, options)
    except Exception as error:  # whatever a library says of an unknown option or an unreachable server
        said = first_line(error).rstrip(".")
        if isinstance(error, LocalEntryNotFoundError):
            said = "the hub cannot be reached for its weights; check the connection, or HF_HUB_OFFLINE"
        kind = HubError if isinstance(error, OSError) else SenetError  # a server, or an option
        raise kind(f"{config.name} cannot be created: {said}{tags_of(library, architecture, tag)}") from error
    described = ModelConfig(
        name=f"{library}/{architecture}",
        num_classes=classes_of(model, config.num_classes),
        in_channels=channels,
        options=options,
    )
    carried = {
        "config": described,
        "preprocessing": own_preprocessing(model, described, tag).with_channels(channels),
        "class_names": None,
        "num_classes": described.num_classes,
    }
    for attribute, value in carried.items():
        setattr(model, attribute, value)
    return model


def create_in_timm(config: ModelConfig, *, pretrained: bool) -> nn.Module:
    """Create one of timm's networks with the weights of the tag in its name, or at random as they are described."""
    import timm

    options: dict[str, Any] = dict(config.options)
    if config.num_classes is not None:
        options["num_classes"] = config.num_classes
    name = config.name.partition("/")[2]
    model: nn.Module = timm.create_model(name, pretrained=pretrained, in_chans=config.in_channels, **options)
    return model


def own_preprocessing(model: nn.Module, config: ModelConfig, tag: str) -> Preprocessing:
    """Return the preprocessing that another library states for one of its networks.

    torchvision's Inception networks convert color images by themselves to the range that they were trained on; without
    `transform_input` they expect values from -1 to 1.
    """
    library, _, architecture = config.name.partition("/")
    if library == "timm":
        return preprocessing_of(model)
    stated = preprocessing_from_torchvision(architecture, tag)
    if config.in_channels == 3 or not hasattr(model, "transform_input"):
        return stated
    return replace(stated, mean=(0.5,) * 3, std=(0.5,) * 3)


def describe_external(config: ModelConfig, weights: str) -> Preprocessing:
    """Return the preprocessing that weights of another library's network are for, without loading them.

    Args:
        config: its name has no tag.
        weights: "timm/NAME" or "torchvision/NAME", with a tag or without.

    Raises:
        SenetError: no such network, weights or option.
    """
    library, architecture, tag = split_name(weights)
    try:
        if library == "timm":
            with torch.device("meta"):
                model = create_in_timm(replace(config, name=weights), pretrained=False)
        else:
            with torch.device("meta"):
                model, _ = build_torchvision(architecture, None, None, config.in_channels, config.options)
        preprocessing = own_preprocessing(model, config, tag)
    except Exception as error:  # see `build_external`
        said = first_line(error).rstrip(".")
        raise SenetError(f"{weights} cannot be created: {said}{tags_of(library, architecture, tag)}") from error
    return preprocessing.with_channels(config.in_channels)


def classes_of(model: nn.Module, asked: int | None) -> int:
    """Return the number of classes of a network."""
    return int(getattr(model, "num_classes", 1000)) if asked is None else asked


def tags_of(library: str, architecture: str, tag: str) -> str:
    """Return the end of a message that lists a network's tags, if a name has another one; else an empty text."""
    if library == "timm":
        import timm

        names = timm.list_pretrained(f"{architecture}.*", exclude_filters="")
        known = [name.partition(".")[2] for name in names]
    else:
        from torchvision.models import get_model_weights

        known = [weights.name for weights in get_model_weights(architecture)] + ["DEFAULT"]
    return "" if not tag or tag in known else f"; its weights are {', '.join(known) or 'none'}"
