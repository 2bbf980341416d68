"""How images are prepared for a network: size, crop and normalization."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn
from torchvision.transforms import v2

from senet.data.channels import ToChannels
from senet.errors import SenetError, check_choice, warn

Interpolation = Literal["bilinear", "bicubic"]
LARGEST = 2**15
"""Pixels of a side: an image of this side takes 3 GB."""
MAX_STATISTICS = 4
"""Channels whose mean and standard deviation a message has room for."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The evaluation transform of a network.

    Args:
        image_size: side of the square input of the network, in pixels.
        resize: length the shorter side is scaled to before the center crop, in pixels; at least `image_size`.
        mean: of each channel, for values in [0, 1]; its length is the number of channels: 1 for gray, 2 for gray and
            alpha, 3 for RGB, 4 for RGB and alpha (or any four channels of an array), more for arrays.
        std: of each channel, likewise.
        interpolation: of the resize, always antialiased.
    """

    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        if not 1 <= self.image_size <= self.resize:
            raise SenetError(
                f"image_size is {self.image_size} and resize {self.resize}; expected 1 <= image_size <= resize"
            )
        if self.resize > LARGEST:
            raise SenetError(f"resize is {self.resize}; expected at most {LARGEST:,} pixels")
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0:
            raise SenetError(f"mean is {self.mean} and std {self.std}; expected equal lengths and positive std")

    @property
    def in_channels(self) -> int:
        """Number of channels of a preprocessed image."""
        return len(self.mean)

    def with_channels(self, in_channels: int) -> "Preprocessing":
        """Return the same preprocessing for another number of channels, with the channels' average statistics."""
        if in_channels == self.in_channels:
            return self
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * in_channels, std=(std,) * in_channels)

    def resize_for(self, image_size: int) -> int:
        """Return the length to scale the shorter side to for images of another size, in the same proportion."""
        return round(image_size * self.resize / self.image_size)

    def in_words(self) -> str:
        """Return what the network sees, for messages; of more than four channels no statistics."""
        cut = f" cut from {self.resize}" if self.resize > self.image_size else ""
        images = f"images of {self.image_size} pixels{cut}"
        if self.in_channels > MAX_STATISTICS:
            return f"{images} with {self.in_channels} channels"
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{images}, mean {mean}, std {std}"

    def color(self) -> list[nn.Module]:
        """Return the transforms that convert a picture to the number of channels, see `senet.data.channels`."""
        return [ToChannels(self.in_channels)]

    def scale(self, length: int) -> nn.Module:
        """Return the transform that scales a picture's shorter side to a length in pixels, antialiased."""
        resize: nn.Module = v2.Resize(length, v2.InterpolationMode(self.interpolation))
        return resize

    def geometry(self) -> list[nn.Module]:
        """Return the transforms from a picture of any size to one of the network's size and channels."""
        return [*self.color(), self.scale(self.resize), v2.CenterCrop(self.image_size)]

    def normalize(self) -> list[nn.Module]:
        """Return the transforms from a picture of the right channels to a normalized float tensor (C, H, W)."""
        return [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(self.mean), list(self.std)),
        ]

    def build(self) -> v2.Compose:
        """Return the transform: PIL image, or another `Picture`, -> float32 tensor (C, image_size, image_size)."""
        return v2.Compose([*self.geometry(), *self.normalize()])


IMAGENET = Preprocessing(
    # The paper subtracts the mean RGB value and does not divide: std 1/255 leaves 0-255 units.
    image_size=224,
    resize=256,
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
)
STANDARDIZED = replace(IMAGENET, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What torchvision, timm, mmpretrain and the PyTorch ports of the authors' weights use."""
HALVES = replace(IMAGENET, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic")
"""What timm's weights of Inception-ResNet and MobileNet use."""
CIFAR = Preprocessing(image_size=32, resize=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
CIFAR100 = Preprocessing(image_size=32, resize=32, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))


def preprocessing_from_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that timm's pretrained_cfg describes; what it leaves out is as timm has it then."""
    size = int(config.get("input_size", (3, 224, 224))[-1])
    return Preprocessing(
        image_size=size,
        resize=int(size / config.get("crop_pct", 0.875)),
        mean=tuple(config.get("mean", STANDARDIZED.mean)),
        std=tuple(config.get("std", STANDARDIZED.std)),
        interpolation=config.get("interpolation", "bicubic"),
    )


def timm_config(model: nn.Module) -> dict[str, Any]:
    """Return the data configuration of one of timm's networks, reduced to what `Preprocessing` can express."""
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    known = config["interpolation"] in get_args(Interpolation)
    interpolation = config["interpolation"] if known else "bicubic"
    wanted = "" if known else f"{config['interpolation']} interpolation"
    if config.get("crop_mode", "center") != "center":
        wanted += f"{' and ' if wanted else ''}the crop mode {config['crop_mode']!r}"
    if wanted:
        name = config.get("architecture") or type(model).__name__
        warn(f"{name} was trained for {wanted}; senet uses {interpolation} and a center crop: its accuracy may differ")
    return config | {"interpolation": interpolation, "crop_pct": min(1.0, config["crop_pct"])}


def preprocessing_of(model: nn.Module, default: Preprocessing | None = None) -> Preprocessing:
    """Return the preprocessing of a network: its attribute `preprocessing`, or that of timm's `pretrained_cfg`.

    Args:
        model: the network.
        default: for a network that has neither.

    Raises:
        SenetError: it has neither, and there is no default.
    """
    own: Any = getattr(model, "preprocessing", None)
    if isinstance(own, Preprocessing):
        return own
    if getattr(model, "pretrained_cfg", None):
        return preprocessing_from_timm(timm_config(model))
    if default is not None:
        return default
    raise SenetError(f"{type(model).__name__} has no preprocessing; set model.preprocessing to a senet.Preprocessing")


def create_transform(model: nn.Module) -> v2.Compose:
    """Return the evaluation transform of a network: PIL image -> normalized float tensor (C, H, W).

    Args:
        model: from `create_model` or `from_pretrained`, one of timm's, or any module with a `preprocessing` attribute.

    Raises:
        SenetError: the model has no preprocessing.

    >>> from PIL import Image
    >>> from senet import create_model
    >>> create_transform(create_model("se_resnet50"))(Image.new("RGB", (640, 480))).shape
    torch.Size([3, 224, 224])
    """
    return preprocessing_of(model).build()
