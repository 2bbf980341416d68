"""The crops of an image on which a network is evaluated."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.channels import Picture
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError


class Crops(nn.Module):
    """Cut one or many crops from an image: picture -> uint8 (crops, C, crop_size, crop_size).

    Args:
        preprocessing: for the number of channels and the interpolation.
        crop_size: side of a crop, in pixels; None for the preprocessing's.
        resize_sizes: lengths that the shorter side is resized to, in pixels, each at least `crop_size`; None keeps the
            preprocessing's ratio of this length to the crop.
        ten_crop: take the four corners and the center, each also mirrored, instead of the center.

    Raises:
        SenetError: a crop that is larger than the resized image.

    Source: arXiv:1709.01507v4, Table 2 (one crop) and section 5.1 (the competition's multi-scale, multi-crop testing).
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        crop_size: int | None = None,
        resize_sizes: Sequence[int] | None = None,
        ten_crop: bool = False,
    ) -> None:
        super().__init__()
        crop_size = preprocessing.image_size if crop_size is None else crop_size
        resize_sizes = resize_sizes or (preprocessing.resize_for(crop_size),)
        self.crop_size = crop_size
        for size in resize_sizes:
            if not 1 <= crop_size <= size:
                raise SenetError(
                    f"crop_size is {crop_size} and the shorter side is resized to {size}; "
                    "expected 1 <= crop_size <= each of resize_sizes"
                )
        self.color = v2.Compose(preprocessing.color())
        self.resizes = [preprocessing.scale(size) for size in resize_sizes]
        self.crop = v2.TenCrop(crop_size) if ten_crop else v2.CenterCrop(crop_size)
        self.to_pixels = v2.PILToTensor()
        self.count = len(resize_sizes) * (10 if ten_crop else 1)

    def forward(self, picture: Picture) -> Tensor:
        """Picture of any size -> uint8 (crops, C, crop_size, crop_size)."""
        image = self.color(picture)
        crops: list[Any] = []
        for resize in self.resizes:
            cut = self.crop(resize(image))
            crops += cut if isinstance(cut, tuple) else [cut]
        return torch.stack([self.to_pixels(crop) for crop in crops])
