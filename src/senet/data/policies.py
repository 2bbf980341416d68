"""Augmentation policies of timm and torchvision for pictures of any number of channels, and random erasing."""

import random
import re
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.preprocessing import Preprocessing
from senet.data.randomness import seeded
from senet.errors import SenetError, needed_for

Policy = Callable[[Image.Image], Image.Image]
NUMBER = r"\d+(\.\d+)?"
POLICIES = "|".join(
    (
        "trivial",
        rf"rand(-(m\d+|n[1-9]|p(0?\.\d+|1)|mstd{NUMBER}|mmax\d+|inc[01]|t(weights|3a|3aw)))*",
        rf"augmix(-(m\d+|w[1-9]|d[1-9]|a{NUMBER}|b[01]|mstd{NUMBER}))*",
        rf"(original|originalr|v0|v0r|3a)(-mstd{NUMBER})?",
    )
)
"""What names a policy. timm leaves out without a word what it does not know in such a text."""
TRANSLATION = 0.45
AUGMIX_TRANSLATION = 0.3
"""Largest shift of timm's policies and of AugMix, as a share of the image's side (`timm.data.create_transform`)."""


def check_policy(name: str) -> None:
    """Raise a SenetError unless a text names a policy that exists, with options that it has."""
    if not re.fullmatch(POLICIES, name):
        raise SenetError(
            f"data.augmentation.auto_augment is {name!r}; expected 'trivial' or one of timm's policies, such as "
            "rand-m7-mstd0.5-inc1, augmix-m5-w4-d2, original, v0 or 3a"
        )


def build_policy(name: str, preprocessing: Preprocessing, fill: Sequence[int]) -> Policy:
    """Return a policy for pictures of the mode L or RGB that have the network's size.

    Args:
        name: "trivial", or in timm's notation.
        preprocessing: of the network, for the size and the interpolation.
        fill: color of what comes in from outside of the picture, 0 to 255, one value for each channel.
    """
    if name == "trivial":
        trivial: Policy = v2.TrivialAugmentWide(
            interpolation=v2.InterpolationMode(preprocessing.interpolation), fill=list(fill)
        )
        return trivial
    with needed_for(f"data.augmentation.auto_augment={name}"):
        from timm.data import auto_augment
        from timm.data.transforms import str_to_pil_interp
    options = {
        "translate_const": int(preprocessing.image_size * TRANSLATION),
        "img_mean": tuple(fill) if len(fill) > 1 else fill[0],
        "interpolation": str_to_pil_interp(preprocessing.interpolation),
    }
    if name.startswith("rand"):
        made = auto_augment.rand_augment_transform(name, options)
    elif name.startswith("augmix"):
        made = auto_augment.augment_and_mix_transform(name, options | {"translate_pct": AUGMIX_TRANSLATION})
    else:
        made = auto_augment.auto_augment_transform(name, options)
    policy: Policy = made
    return policy


class AutoAugment(nn.Module):
    """Changes pictures by a policy.

    Pictures of 1 or 3 channels are changed as a whole. Of others each channel is changed as a gray picture, all in the
    same way, so that they stay in place over each other; changes of color then have no effect.

    Args:
        name: of the policy, see `Augmentation.auto_augment`.
        preprocessing: of the network.
    """

    def __init__(self, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        fill = [round(255 * min(1.0, max(0.0, mean))) for mean in preprocessing.mean]
        fills = [fill] if len(fill) in (1, 3) else [[value] for value in fill]
        self.policies = [build_policy(name, preprocessing, values) for values in fills]

    def forward(self, picture: Image.Image | Tensor) -> Image.Image | Tensor:
        """Return a picture of mode L or RGB, or a tensor (C, H, W) in uint8, changed."""
        if isinstance(picture, Image.Image):
            return self.policies[0](picture)
        if len(self.policies) == 1:
            return as_planes(self.policies[0](v2.functional.to_pil_image(picture)))
        seed, planes = int(torch.randint(2**62, ())), []
        for plane, policy in zip(picture, self.policies, strict=True):
            with seeded(seed):
                planes.append(as_planes(policy(v2.functional.to_pil_image(plane))))
        return torch.cat(planes)


def as_planes(picture: Image.Image) -> Tensor:
    """Return a PIL image as uint8 (C, H, W)."""
    planes: Tensor = v2.functional.pil_to_tensor(picture)
    return planes


class RandomErasing(nn.Module):
    """Replaces a rectangle of some images by noise that has the mean and the standard deviation of the preprocessing.

    Args:
        probability: with which an image is changed.
        preprocessing: of the network.

    Source: arXiv:1708.04896, as in timm: 2 % to a third of the area, sides 0.3 to 3.3 times as long as each other.
    Values beyond 0 and 255 are clipped here.
    """

    def __init__(self, probability: float, preprocessing: Preprocessing) -> None:
        super().__init__()
        with needed_for("data.augmentation.random_erasing"):
            from timm.data.random_erasing import RandomErasing as Erasing
        self.probability = probability
        self.erase: Callable[[Tensor], Tensor] = Erasing(1.0, mode="pixel", device="cpu")
        self.mean = 255 * torch.tensor(preprocessing.mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(preprocessing.std).view(-1, 1, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(C, H, W) uint8 -> the same."""
        if random.random() >= self.probability:
            return pixels
        noise = self.erase(torch.full(pixels.shape, torch.nan))
        values = torch.nan_to_num(noise * self.std + self.mean).round().clamp(0, 255).to(torch.uint8)
        return torch.where(noise.isnan(), pixels, values)
