"""Preprocessing as a part of the network: pictures as they are decoded in, normalized images out."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import torch
from torch import Tensor, nn

from senet.data.preprocessing import Interpolation, Preprocessing

Whole = TypeVar("Whole", int, Tensor)


class FromPixels(nn.Module):
    """Pixels to normalized images, uint8 (N, H, W, 3) -> float32 (N, 3, H, W), as the library prepares pictures.

    With `resize` pictures have any size: the shorter side is scaled to the preprocessing's, antialiased, first along
    rows and then along columns, each rounded to whole numbers as PIL does; then the center is cut out. Scaling is a
    product with a matrix that is computed from the picture's size. Runtimes have operators for it, but OpenVINO 2026.4
    reads ONNX's without antialiasing, and has none for PyTorch's; a product is the same everywhere.

    Args:
        preprocessing: of the network.
        resize: scale and crop.

    Source: Pillow's src/libImaging/Resample.c for the order, the rounding and the filters; torchvision's Resize and
    CenterCrop for the sizes.
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
            rows, columns = (torch.arange(length) for length in images.shape[2:])
            shorter = torch.minimum(rows[-1:], columns[-1:]) + 1
            images = whole(images @ self.weights(columns, shorter).T)
            images = whole(self.weights(rows, shorter) @ images)
        return (images - self.mean) / self.std

    def weights(self, places: Tensor, shorter: Tensor) -> Tensor:
        """Return how much each pixel along a side counts for each pixel of the crop, float32 (crop, length).

        Distances are differences of whole numbers, so that they are exact in single precision.

        Args:
            places: 0 to length - 1.
            shorter: length of the shorter side of the picture, (1,).
        """
        length = places[-1:] + 1
        scaled = torch.div(self.size * length, shorter, rounding_mode="floor")
        wanted = torch.arange(self.crop) + centered(scaled - self.crop)
        apart = scaled * (2 * places + 1) - (length * (2 * wanted + 1))[:, None]
        counts = FILTERS[self.interpolation]((apart / (2 * torch.maximum(length, scaled))).abs())
        return counts / counts.sum(1, keepdim=True)


def centered(left: Whole) -> Whole:
    """Return the margin before a crop, from what is left over: half of it, to an even number if halves remain."""
    half = left // 2
    return half + (left % 2) * (half % 2)


def whole(images: Tensor) -> Tensor:
    """Round to whole numbers from 0 to 255, halves up."""
    return (images + 0.5).floor().clamp(0, 255)


def triangle(distance: Tensor) -> Tensor:
    """Return the bilinear filter at a distance of at least 0."""
    return (1 - distance).clamp(min=0)


def cubic(distance: Tensor) -> Tensor:
    """Return the bicubic filter with a = -1/2 at a distance of at least 0."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


FILTERS: Mapping[Interpolation, Callable[[Tensor], Tensor]] = MappingProxyType({"bilinear": triangle, "bicubic": cubic})
