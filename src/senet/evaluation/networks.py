"""Networks that classify images together: opened, on their device, with their classes in one order."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from senet.data.classes import missing_from, order_of
from senet.data.crops import Crops
from senet.data.folders import listed
from senet.data.grouping import ClassGroups, group_classes
from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.errors import SenetError
from senet.evaluation.accuracy import log_probabilities
from senet.evaluation.batches import open_model
from senet.evaluation.functions import Network, check_device, class_names_of, name_of
from senet.nn.modes import borrowed, default_device, device_of, dtype_of
from senet.nn.precision import Precision, computing


@dataclass(frozen=True, kw_only=True)
class OpenNetwork:
    """A network that is ready to classify.

    Args:
        name: for messages.
        network: images to logits.
        crops: cuts uint8 crops (crops, C, H, W) from a picture.
        preprocessing: for the normalization.
        class_names: of its outputs, or of what they are counted as; empty if it has none.
        device: where it computes.
        dtype: of its images.
        groups: what its outputs are counted as; None for its own classes.
    """

    name: str
    network: nn.Module
    crops: Crops
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    groups: ClassGroups | None = None

    @torch.no_grad()
    def log_probabilities(self, pixels: Tensor, precision: Precision) -> Tensor:
        """Return the log probabilities of each class, float32 (N, num_classes) on the CPU, averaged over the crops.

        Args:
            pixels: uint8 (N, crops, C, H, W).
            precision: of the arithmetic.
        """
        scale = [255 * torch.tensor(v).view(-1, 1, 1) for v in (self.preprocessing.mean, self.preprocessing.std)]
        mean, std = (values.to(self.device) for values in scale)
        images = pixels.to(self.device).to(torch.float32).sub_(mean).div_(std).to(self.dtype)
        with borrowed(self.network), computing(self.device, precision):
            return log_probabilities(self.forward, images.squeeze(1) if self.crops.count == 1 else images).cpu()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `class_names`."""
        logits: Tensor = self.network(images)
        return logits if self.groups is None else self.groups(logits)


def open_network(
    source: Network,
    *,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    device: torch.device | str | None = None,
    classes: Sequence[str] = (),
    mapping: Mapping[str, str] | str | Path | None = None,
) -> OpenNetwork:
    """Make a network ready to classify; see `senet.predict` for the arguments.

    Raises:
        SenetError: there is no such network, it has no preprocessing or not these classes, or the crops do not fit.
    """
    network = open_model(source)
    check_device(network, device)
    if isinstance(source, str | Path):
        place = default_device() if device is None else torch.device(device)
        network.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif device is not None and torch.device(device) != device_of(network):
        network = deepcopy(network).to(device)  # the caller's stays where it is
    preprocessing = preprocessing_of(network)
    names = class_names_of(network)
    try:
        groups = group_classes(names, mapping, classes) if classes or mapping is not None else None
    except SenetError as error:
        raise type(error)(f"{name_of(source)}: {error}") from error
    return OpenNetwork(
        name=name_of(source),
        network=network,
        crops=Crops(preprocessing, crop_size, resize_sizes, ten_crop),
        preprocessing=preprocessing,
        class_names=names if groups is None else groups.names,
        device=device_of(network),
        dtype=dtype_of(network),
        groups=groups,
    )


def output_orders(networks: Sequence[OpenNetwork]) -> list[list[int] | None]:
    """Return for each network where its outputs are that belong to the classes of the first one, in their order.

    Args:
        networks: with the same classes, in any order. None stands for the outputs as they are.

    Raises:
        SenetError: they have other classes, or only some have class names.
    """
    first = networks[0]
    orders: list[list[int] | None] = []
    for other in networks:
        if other.class_names == first.class_names:
            orders.append(None)
            continue
        problem = difference(first, other)
        if problem:
            raise SenetError(f"{first.name} and {other.name} cannot predict together: {problem}")
        orders.append(order_of(first.class_names, other.class_names))
    return orders


def difference(first: OpenNetwork, other: OpenNetwork) -> str:
    """Return how the classes of two networks differ; empty if only their order does."""
    for network in (first, other):
        if not network.class_names:
            return f"{network.name} has no class names; set its class_names"
    for one, unlike in ((first, other), (other, first)):
        if lacking := sorted(missing_from(unlike.class_names, one.class_names)):
            return f"{unlike.name} does not have the {'class' if len(lacking) == 1 else 'classes'} {listed(lacking)}"
    if order_of(first.class_names, other.class_names) is None:
        return "several of their classes have the same name"
    return ""
