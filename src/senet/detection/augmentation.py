"""Random changes of an image and its boxes, by torchvision's transforms."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from senet.detection.data_config import BoxAugmentation

FILL = (124, 116, 104)
"""The color around images that are made smaller: ImageNet's mean, as in torchvision's references/detection."""
MIN_SIDE = 1.0
"""Boxes of which less is left, in pixels, are left out."""


@dataclass(frozen=True)
class Augment:
    """Changes an image, uint8 (C, H, W), with its boxes (n, 4) and labels (n,), at random.

    Args:
        config: how.
    """

    config: BoxAugmentation

    def __call__(self, image: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the changed image, and the boxes that are left in it with their labels."""
        height, width = image.shape[-2:]
        steps = steps_of(self.config, (height, width), image.shape[0])
        if not steps:
            return image, boxes, labels
        placed = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
        found: dict[str, Any] = v2.Compose([*steps, v2.ClampBoundingBoxes()])(
            {"image": tv_tensors.Image(image), "boxes": placed, "labels": labels}
        )
        changed = found["boxes"].as_subclass(Tensor)
        kept = ((changed[:, 2:] - changed[:, :2]) >= MIN_SIDE).all(1)
        return found["image"].as_subclass(Tensor), changed[kept], found["labels"][kept]


def steps_of(config: BoxAugmentation, size: tuple[int, int], channels: int) -> list[Any]:
    """Return the transforms for an image of a size (height, width) in the order in which they are applied.

    Source: torchvision, references/detection/presets.py, for the order and the color.
    """
    fill: Any = FILL if channels == 3 else 0
    steps: list[Any] = []
    if config.photometric:
        steps.append(v2.RandomPhotometricDistort())
    if config.zoom_out:
        steps.append(v2.RandomZoomOut(fill=fill, p=config.zoom_out))
    if config.crop:
        steps.append(v2.RandomIoUCrop())
    if config.scale_jitter is not None:
        steps.append(v2.ScaleJitter(target_size=size, scale_range=config.scale_jitter, antialias=True))
        steps.append(v2.RandomCrop(size, pad_if_needed=True, fill=fill))
    if config.flip:
        steps.append(v2.RandomHorizontalFlip())
    return steps


def as_boxes(values: Any) -> Tensor:
    """Return boxes as float32 (n, 4)."""
    return torch.as_tensor(values, dtype=torch.float32).reshape(-1, 4)
