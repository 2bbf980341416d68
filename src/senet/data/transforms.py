"""The transforms of data on disk: a picture to the pixels that a network trains or is evaluated on."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.channels import Picture
from senet.data.config import Augmentation
from senet.data.policies import AutoAugment, RandomErasing
from senet.data.preprocessing import Preprocessing

ToPixels = Callable[[Picture], Tensor]
ATTEMPTS = 10
"""Draws of a crop before the whole picture is taken, as in torchvision and timm."""


@dataclass(frozen=True)
class OnePicture:
    """Calls one of torchvision's transforms without its search for the pictures among its arguments.

    The search takes 10 microseconds, as long as scaling a small picture. The draws of its random transforms take 50.
    """

    transform: nn.Module

    def __call__(self, picture: Any) -> Any:
        """Return a picture transformed."""
        return (
            self.transform.transform(picture, {})
            if isinstance(self.transform, v2.Transform)
            else self.transform(picture)
        )


@dataclass(frozen=True)
class Steps:
    """Calls one transform after the other."""

    steps: tuple[Callable[[Any], Any], ...]

    def __call__(self, picture: Any) -> Any:
        """Return a picture transformed."""
        for step in self.steps:
            picture = step(picture)
        return picture


@dataclass(frozen=True)
class RandomCrop:
    """Scales a crop of random area and aspect ratio to a square.

    Source: arXiv:1409.4842, section 6, as in torchvision and timm.
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str

    def __call__(self, picture: Any) -> Any:
        """Return the crop of a PIL image or of a tensor (C, H, W)."""
        height, width = v2.functional.get_size(picture)
        top, left, crop_height, crop_width = self.draw(height, width)
        how = v2.InterpolationMode(self.interpolation)
        return v2.functional.resized_crop(picture, top, left, crop_height, crop_width, [self.size, self.size], how)

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, height and width of a crop."""
        low, high = map(math.log, self.ratio)
        for _ in range(ATTEMPTS):
            area = height * width * random.uniform(*self.scale)
            aspect = math.exp(random.uniform(low, high))
            crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                return (
                    random.randint(0, height - crop_height),
                    random.randint(0, width - crop_width),
                    crop_height,
                    crop_width,
                )
        crop_width = min(width, round(height * self.ratio[1]))
        crop_height = min(height, round(width / self.ratio[0]))
        return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


@dataclass(frozen=True)
class RandomShift:
    """Shifts a picture by up to `largest` pixels either way along both axes; a color comes in at the borders."""

    largest: int
    fill: tuple[int, ...]

    def __call__(self, picture: Any) -> Any:
        """Return a PIL image or a tensor (C, H, W) shifted."""
        height, width = v2.functional.get_size(picture)
        top, left = random.randint(0, 2 * self.largest), random.randint(0, 2 * self.largest)
        padded = v2.functional.pad(picture, [self.largest] * 4, fill=list(self.fill))
        return v2.functional.crop(padded, top, left, height, width)


def flipped(picture: Any) -> Any:
    """Return a picture mirrored left to right with probability one half."""
    return v2.functional.horizontal_flip(picture) if random.random() < 0.5 else picture


def as_pixels(picture: Any) -> Tensor:
    """Return a PIL image as a tensor (C, H, W) in uint8; a tensor as it is."""
    pixels: Tensor = picture if isinstance(picture, Tensor) else v2.functional.pil_to_tensor(picture)
    return pixels


@dataclass(frozen=True)
class RandomRotation:
    """Turns a picture by a random angle, either way, about its center; black comes in at the corners."""

    largest: float

    def __call__(self, picture: Any) -> Any:
        """Return a PIL image or a tensor (C, H, W) turned."""
        angle = random.uniform(-self.largest, self.largest)
        return v2.functional.rotate(picture, angle, v2.InterpolationMode.BILINEAR)


@dataclass(frozen=True)
class PixelShift:
    """Adds one random integer in [-largest, largest] to all pixels of a uint8 image, and clips.

    Source: the "pixel jitter" of the authors' release.
    """

    largest: int

    def __call__(self, pixels: Tensor) -> Tensor:
        """(C, H, W) uint8 -> the same."""
        shift = random.randint(-self.largest, self.largest)
        return (pixels.to(torch.int16) + shift).clamp(0, 255).to(torch.uint8)


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> ToPixels:
    """Return the augmentation of data on disk: picture -> uint8 (C, H, W).

    The order of the paper's and timm's transforms: what changes the place of pixels, then their values.

    Source: arXiv:1709.01507v4, section 5.1 (crop, flip) and the authors' release (rotation, pixel jitter); timm.
    """
    size = preprocessing.image_size
    steps: list[Callable[[Any], Any]] = []
    if augmentation.crop_scale is None:
        steps += map(OnePicture, preprocessing.geometry())
    else:
        steps += preprocessing.color()
        steps.append(RandomCrop(size, augmentation.crop_scale, augmentation.crop_ratio, preprocessing.interpolation))
    if augmentation.padding:
        fill = tuple(round(255 * mean) for mean in preprocessing.mean)
        steps.append(RandomShift(augmentation.padding, fill))
    if augmentation.flip:
        steps.append(flipped)
    if augmentation.rotation:
        steps.append(RandomRotation(augmentation.rotation))
    if augmentation.auto_augment:
        steps.append(AutoAugment(augmentation.auto_augment, preprocessing))
    steps.append(as_pixels)
    if augmentation.pixel_shift:
        steps.append(PixelShift(augmentation.pixel_shift))
    if augmentation.random_erasing:
        steps.append(RandomErasing(augmentation.random_erasing, preprocessing))
    return Steps(tuple(steps))


def eval_transform(preprocessing: Preprocessing) -> ToPixels:
    """Return the evaluation transform: picture -> uint8 (C, H, W)."""
    return train_transform(preprocessing, Augmentation())
