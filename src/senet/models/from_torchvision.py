"""Networks of torchvision with any number of classes and channels, at random or from its weights."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any

import torch
from torch import nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.models.initialization import convert_input

OWN_CHANNELS = 3
WITH_AUXILIARY_CLASSIFIERS = ("googlenet", "inception_v3")
"""While they train, these return the outputs of classifiers in the middle too; they are built without those here."""
IMPLIED: Mapping[str, Any] = {"transform_input": False, "image_size": 224}
"""Options that torchvision sets by itself when it loads weights, with their values at random."""


def build_torchvision(
    architecture: str, weights: str | None, num_classes: int | None, in_channels: int, options: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Build one of torchvision's networks.

    Args:
        architecture: its name there.
        weights: their tag; None for random ones.
        num_classes: if not those of the weights, the classifier starts at random; None for 1000.
        in_channels: if not 3, the first convolution is converted, as in timm.
        options: of torchvision's function.

    Returns:
        The network, and the options with which the same network is built without the weights.

    Raises:
        SenetError: an option that contradicts the number of channels, or classifiers in the middle.
    """
    from torchvision.models import get_model, get_model_weights

    options = {**options}
    if architecture in WITH_AUXILIARY_CLASSIFIERS:
        if options.setdefault("aux_logits", False):
            raise SenetError(
                f"aux_logits=True makes {architecture} return several outputs while it trains, which is not supported; "
                "leave it out"
            )
        if weights is not None:
            options.setdefault("transform_input", in_channels == OWN_CHANNELS)
    if options.get("transform_input") and in_channels != OWN_CHANNELS:
        raise SenetError(f"transform_input=True has no effect on {in_channels} channels; leave it out")
    classes: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if weights is None:
        return with_channels(build_at_random(architecture, **options, **classes), in_channels), options
    given = {name: value for name, value in options.items() if name != "aux_logits"}
    with output_kept_clean():
        trained = without_auxiliary_classifiers(get_model(architecture, weights=weights, **given))
    trained_classes = len(get_model_weights(architecture)[weights].meta["categories"])
    implied = {name: getattr(trained, name) for name in IMPLIED if hasattr(trained, name)}
    options |= {name: value for name, value in implied.items() if value != IMPLIED[name]}
    if num_classes in (None, trained_classes) and in_channels == OWN_CHANNELS:
        return trained, options
    if architecture in WITH_AUXILIARY_CLASSIFIERS:
        classes["init_weights"] = False  # takes seconds, and is overwritten
    model = with_channels(get_model(architecture, weights=None, **options, **classes), in_channels)
    model.load_state_dict(adapted(trained.state_dict(), model))
    return model, options


def build_at_random(architecture: str, **arguments: Any) -> nn.Module:
    """Build one of torchvision's networks with random weights, on the default device, which may be "meta"."""
    from torchvision.models import get_model

    try:
        model: nn.Module = get_model(architecture, weights=None, **arguments)
    except NotImplementedError:  # RegNet computes its widths with tensors, which have no values on the meta device
        if torch.get_default_device().type != "meta":
            raise
        with torch.device("cpu"):
            model = get_model(architecture, weights=None, **arguments)
        model.to("meta")
    return model


def without_auxiliary_classifiers(model: nn.Module) -> nn.Module:
    """Return a network without the classifiers in its middle, for which torchvision has no option with its weights."""
    for name in ("aux1", "aux2", "AuxLogits"):
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]
    return model


def first_convolution(model: nn.Module) -> str:
    """Return the name of the convolution that sees the image: the first."""
    return str(next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)))


def with_channels(model: nn.Module, in_channels: int) -> nn.Module:
    """Return a network whose first convolution takes another number of channels, and starts at random."""
    if in_channels == OWN_CHANNELS:
        return model
    name = first_convolution(model)
    own = model.get_submodule(name)
    assert isinstance(own, nn.Conv2d)
    layer = nn.Conv2d(
        in_channels,
        own.out_channels,
        own.kernel_size,  # type: ignore[arg-type]
        own.stride,  # type: ignore[arg-type]
        own.padding,  # type: ignore[arg-type]
        bias=own.bias is not None,
        device=own.weight.device,
    )
    model.set_submodule(name, layer)
    return model


def adapted(trained: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a trained network in the shapes of one of other classes or channels.

    Args:
        trained: a state dict.
        model: keeps its own classifier where the shapes differ, and gets the first convolution converted.
    """
    state: dict[str, torch.Tensor] = model.state_dict()  # with its modules' versions, without which MNASNet loads none
    first = f"{first_convolution(model)}.weight"
    for key, own in list(state.items()):
        tensor = trained[key]
        if key == first:
            tensor = convert_input(tensor, own.shape[1])
        state[key] = tensor if tensor.shape == own.shape else own
    return state


def output_kept_clean() -> AbstractContextManager[object]:
    """Return a context in which what torch.hub prints of a download goes to standard error, as its bar does."""
    return redirect_stdout(sys.stderr)


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
