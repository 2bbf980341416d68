"""Networks of timm and torchvision by name, such as "timm/resnet50", with the attributes of this library's."""

import sys
from contextlib import AbstractContextManager, redirect_stdout

from torch import nn

from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.errors import HubError, SenetError, nearest, needed_for
from senet.models.config import ModelConfig

LIBRARIES = ("timm", "torchvision")


def is_external(name: str) -> bool:
    """Whether a name is that of another library's network; only the library's part of the name is checked."""
    return name.partition("/")[0] in LIBRARIES and name.count("/") == 1


def tag_of(name: str) -> str:
    """Return the tag of weights in a name, such as "a1_in1k" in "timm/resnet50.a1_in1k"; empty if it has none."""
    return name.partition(".")[2] if is_external(name) else ""


def build_external(config: ModelConfig, *, pretrained: bool | None = None) -> nn.Module:
    """Build another library's network: its own class, with `config`, `preprocessing`, `class_names`, `num_classes`.

    Args:
        config: its name is "timm/..." or "torchvision/..."; options are passed on.
        pretrained: take the library's weights, which it downloads: those of the tag in the name, or else its default;
            None for random ones unless the name has a tag.

    Raises:
        SenetError: no such network or option, or weights that cannot be loaded.
    """
    library, _, name = config.name.partition("/")
    if library == "timm":
        with needed_for(config.name):
            import timm

        known = timm.list_models()
    else:
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
    architecture, _, tag = name.partition(".")
    pretrained = bool(tag) if pretrained is None else pretrained
    if tag and not pretrained:
        raise SenetError(f"{config.name} means the weights {tag!r}; leave them out of the name to start at random")
    if architecture not in known:
        raise SenetError(f"{library} has no network {architecture!r}; the nearest are {nearest(architecture, known)}")
    if library == "torchvision" and config.in_channels != 3:
        raise SenetError(f"in_channels is {config.in_channels}; the networks of torchvision take 3")
    if library == "torchvision" and pretrained and config.num_classes not in (None, 1000):
        raise SenetError(
            f"num_classes is {config.num_classes}, but torchvision's weights for {architecture} are of 1000 classes; "
            "leave it out, or take a network of timm, whose classifier then starts at random"
        )
    options = dict(config.options) | ({} if config.num_classes is None else {"num_classes": config.num_classes})
    model: nn.Module
    try:
        if library == "timm":
            model = timm.create_model(name, pretrained=pretrained, in_chans=config.in_channels, **options)
        else:
            weights = (tag or "DEFAULT") if pretrained else None
            with output_kept_clean():
                model = torchvision.models.get_model(architecture, weights=weights, **options)
    except Exception as error:  # whatever a library says of an unknown option or an unreachable server
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        kind = HubError if isinstance(error, OSError) else SenetError  # a server, or an option
        raise kind(f"{config.name} cannot be created: {said}{tags_of(library, architecture, tag)}") from error
    preprocessing = preprocessing_of(model) if library == "timm" else preprocessing_from_torchvision(architecture, tag)
    described = ModelConfig(
        name=f"{library}/{architecture}",
        num_classes=classes_of(model, config.num_classes),
        in_channels=config.in_channels,
        options=config.options,
    )
    carried = {"config": described, "preprocessing": preprocessing, "class_names": None}
    for attribute, value in (carried | {"num_classes": described.num_classes}).items():
        setattr(model, attribute, value)
    return model


def output_kept_clean() -> AbstractContextManager[object]:
    """Return a context in which what torch.hub prints of a download goes to standard error, as its bar does."""
    return redirect_stdout(sys.stderr)


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


def preprocessing_from_torchvision(architecture: str, tag: str = "") -> Preprocessing:
    """Return the preprocessing of one of torchvision's networks, for the weights of a tag or the default ones."""
    from torchvision.models import get_model_weights

    preset = get_model_weights(architecture)[tag or "DEFAULT"].transforms()
    return Preprocessing(
        image_size=preset.crop_size[0],
        resize=max(preset.crop_size[0], preset.resize_size[0]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
