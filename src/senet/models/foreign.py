"""Networks of timm and torchvision by name, such as "timm/resnet50", carrying what ours carry."""

from torch import nn

from senet.errors import SenetError, nearest
from senet.models.cards import ModelConfig
from senet.preprocessing import Preprocessing, preprocessing_of

LIBRARIES = ("timm", "torchvision")


def is_foreign(name: str) -> bool:
    """Whether a name is of another library's network; what follows the library is not looked at."""
    return name.partition("/")[0] in LIBRARIES and name.count("/") == 1


def build_foreign(config: ModelConfig, *, pretrained: bool = False) -> nn.Module:
    """Build another library's network: its own class, with `config`, `preprocessing`, `class_names`, `num_classes`.

    Args:
        config: its name is "timm/..." or "torchvision/..."; options are passed on.
        pretrained: take the library's weights, which it downloads.

    Raises:
        SenetError: no such network or option, or weights that cannot be had.
    """
    import timm  # at once it would import this package's registry, which imports this module
    import torchvision

    library, _, name = config.name.partition("/")
    known = timm.list_models() if library == "timm" else torchvision.models.list_models(module=torchvision.models)
    architecture = name.partition(".")[0]
    if architecture not in known:
        raise SenetError(f"{library} has no network {architecture!r}; the nearest are {nearest(architecture, known)}")
    if library == "torchvision" and config.in_channels != 3:
        raise SenetError(f"in_channels is {config.in_channels}; the networks of torchvision take 3")
    options = dict(config.options) | ({} if config.num_classes is None else {"num_classes": config.num_classes})
    model: nn.Module
    try:
        if library == "timm":
            model = timm.create_model(name, pretrained=pretrained, in_chans=config.in_channels, **options)
        else:
            model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    except Exception as error:  # whatever a library says of an unknown option or an unreachable server
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SenetError(f"{config.name} cannot be created: {said}") from error
    preprocessing = preprocessing_of(model) if library == "timm" else of_torchvision(name)
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


def classes_of(model: nn.Module, asked: int | None) -> int:
    """Return the number of classes of a network."""
    return int(getattr(model, "num_classes", 1000)) if asked is None else asked


def of_torchvision(name: str) -> Preprocessing:
    """Return how a network of torchvision's wants its images."""
    from torchvision.models import get_model_weights

    preset = get_model_weights(name).DEFAULT.transforms()
    return Preprocessing(
        image_size=preset.crop_size[0],
        resize=max(preset.crop_size[0], preset.resize_size[0]),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
