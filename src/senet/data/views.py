"""The crops of an image on which a network is evaluated."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.channels import Picture
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError, check_choice

Crops = Literal["center", "ten"]


class Views(nn.Module):
    """Cut the views of an image: picture -> uint8 (views, C, size, size).

    Args:
        preprocessing: for the number of channels and the interpolation.
        size: side of a crop, in pixels.
        scales: lengths the shorter side is scaled to, each at least `size`.
        crops: "center", or "ten": the four corners and the center, each also mirrored.

    Source: arXiv:1709.01507v4, Table 2 (one crop) and section 5.1 (the competition's multi-scale, multi-crop testing).
    """

    def __init__(self, preprocessing: Preprocessing, size: int, scales: tuple[int, ...], crops: Crops) -> None:
        super().__init__()
        check_choice("crops", crops, get_args(Crops))
        for scale in scales:
            if not 1 <= size <= scale:
                raise SenetError(
                    f"crop is {size} and the shorter side is scaled to {scale}; expected 1 <= crop <= scale"
                )
        self.color = v2.Compose(preprocessing.color())
        self.resizes = [preprocessing.scale(scale) for scale in scales]
        self.crop = v2.CenterCrop(size) if crops == "center" else v2.TenCrop(size)
        self.to_pixels = v2.PILToTensor()
        self.count = len(scales) * (1 if crops == "center" else 10)

    def forward(self, picture: Picture) -> Tensor:
        """Picture of any size -> uint8 (views, C, size, size)."""
        image = self.color(picture)
        views: list[Any] = []
        for resize in self.resizes:
            cut = self.crop(resize(image))
            views += cut if isinstance(cut, tuple) else [cut]
        return torch.stack([self.to_pixels(view) for view in views])
