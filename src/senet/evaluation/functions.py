"""Any function that classifies images, such as an exported network, as a module that is evaluated like the others."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.models.description import named_in_order


@runtime_checkable
class Classifier(Protocol):
    """Whatever computes logits (N, num_classes) of images (N, C, H, W), such as an exported network."""

    preprocessing: Preprocessing
    class_names: Sequence[str] | None

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the logits of normalized float32 images."""


Network = nn.Module | Classifier | str | Path
"""A network; a function that is one; or what `senet.from_pretrained` opens: a run or model folder, a name, a hub id."""


class FunctionNetwork(nn.Module):
    """A function as a module; it computes where its attribute `device` says, on the CPU if it has none.

    Args:
        function: from images to logits, with `preprocessing` and perhaps `class_names`.
    """

    place: Tensor

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.name = name_of(function)
        self.preprocessing: Preprocessing = function.preprocessing
        self.class_names: Sequence[str] | None = getattr(function, "class_names", None)
        self.register_buffer("place", torch.empty(0, device=getattr(function, "device", "cpu")), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        found = self.function(images)
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(images):
            kind = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise SenetError(
                f"{self.name} returns {kind} for {len(images)} images; expected logits, ({len(images)}, classes)"
            )
        return found


def networks_of(given: Network | Sequence[Network]) -> tuple[Network, ...]:
    """Return the networks that are given as one or in a list."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(given)
    return (given,)


def name_of(network: Any) -> str:
    """Return what to call a network: what it is opened from, or the name of the function or class."""
    if isinstance(network, str | Path):
        return str(network)
    return getattr(network, "__name__", type(network).__name__)


def as_module(network: Any) -> nn.Module:
    """Return a module itself, or that of a function.

    Raises:
        SenetError: it is neither, or a function without preprocessing.
    """
    if isinstance(network, nn.Module):
        return network
    name = name_of(network)
    if not callable(network):
        raise SenetError(
            f"a {type(network).__name__} is no network; expected a module, a function, or a run, model folder or name"
        )
    if not isinstance(getattr(network, "preprocessing", None), Preprocessing):
        raise SenetError(f"{name} has no preprocessing; set its attribute preprocessing to a senet.Preprocessing")
    return FunctionNetwork(network)


def check_device(model: nn.Module, device: torch.device | str | None) -> None:
    """Raise a SenetError for a device that there is not, or a function that is to compute elsewhere than it does."""
    try:
        torch.device(device or "cpu")
    except RuntimeError as error:
        raise SenetError(f"device is {device!r}; expected one of PyTorch's, such as 'cpu' or 'cuda'") from error
    if isinstance(model, FunctionNetwork) and device is not None and torch.device(device) != model.place.device:
        raise SenetError(f"device is {device}, but {model.name} computes on {model.place.device}; leave device out")


def class_names_of(model: Any) -> tuple[str, ...]:
    """Return the names of a network's classes in the order of its outputs; empty if it has none.

    Args:
        model: whose `class_names` are a list, an array or another sequence; or as Hugging Face and torchvision keep
            them, a mapping from number to name or from name to number.

    Raises:
        SenetError: they have no order, or are a mapping that does not number them 0, 1, ...
    """
    names = getattr(model, "class_names", None)
    if names is None:
        return ()
    if isinstance(names, Mapping):
        return named_in_order(names, "model.class_names")
    if isinstance(names, str | Set):
        raise SenetError(
            f"model.class_names is a {type(names).__name__}; expected a list of names in the order of the outputs"
        )
    return tuple(map(str, names))
