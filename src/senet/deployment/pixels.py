"""Preprocessing as a part of the network: pictures as they are decoded in, normalized images out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.data.preprocessing import Preprocessing


class FromPixels(nn.Module):
    """Pixels to normalized images, uint8 (N, H, W, 3) -> float32 (N, 3, H, W), as the library prepares pictures.

    With `resize` pictures have any size: the shorter side is scaled to the preprocessing's, antialiased, first along
    rows and then along columns, each rounded to whole numbers as PIL does; then the center is cut out.

    Args:
        preprocessing: of the network.
        resize: scale and crop.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing, *, resize: bool) -> None:
        super().__init__()
        self.size, self.crop = (preprocessing.resize if resize else 0), preprocessing.image_size
        self.interpolation = preprocessing.interpolation
        for name, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(-1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, H, W, 3) -> float32 (N, 3, H, W)."""
        images = pixels.permute(0, 3, 1, 2).float()
        if self.size:
            images = self.cropped(self.scaled(images))
        return (images - self.mean) / self.std

    def scaled(self, images: Tensor) -> Tensor:
        """Scale the shorter side to `size`; the other keeps the proportion, rounded down."""
        height, width = images.shape[2:]
        shorter: Any = torch.sym_min(height, width)  # a number, or a symbol for one
        new_height, new_width = self.size * height // shorter, self.size * width // shorter
        images = self.whole(self.interpolated(images, height, new_width))
        return self.whole(self.interpolated(images, new_height, new_width))

    def interpolated(self, images: Tensor, height: int, width: int) -> Tensor:
        """Scale images to a size, antialiased."""
        return F.interpolate(images, (height, width), mode=self.interpolation, align_corners=False, antialias=True)

    def whole(self, images: Tensor) -> Tensor:
        """Round to whole numbers from 0 to 255, halves up."""
        return (images + 0.5).floor().clamp(0, 255)

    def cropped(self, images: Tensor) -> Tensor:
        """Cut out the center."""
        height, width = images.shape[2:]
        top, left = centered(height - self.crop), centered(width - self.crop)
        return images[:, :, top : top + self.crop, left : left + self.crop]


def centered(left: int) -> int:
    """Return the margin before a crop of what is left over: half of it, to the nearest even number as torchvision."""
    half = left // 2
    return half + (left % 2) * (half % 2)
