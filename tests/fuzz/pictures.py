"""Small pictures with known pixels, and names that file systems allow."""

from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

import senet

SIDE = 32
NAMES = (
    *("a", "IMG 0001", "[red]x", "x[/b]", ":smile:", "<b>&amp;", "猫 ä", "line\nend", "tab\t\x1b[31m", "%s{0}", "$A"),
    *("a'b\"c", "--top", "#1", "*?", "a" * 200, "e\u0301", "100%", "..a", "a.tar.gz", "\\", "null", "\udcff"),
)


def pixels(random: Random, channels: int = 3) -> np.ndarray:
    """Return the uint8 pixels (32, 32, channels) of a smooth picture, as a photograph is."""
    rough = np.random.default_rng(random.getrandbits(32)).integers(0, 256, (5, 5, channels), dtype=np.uint8)
    planes = [Image.fromarray(rough[..., c]).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for c in range(channels)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def named(random: Random, folder: Path, extension: str) -> Path:
    """Return a new path of a strange name."""
    stem = random.choice(NAMES)
    return folder / ("./" + stem + extension)


@torch.no_grad()
def logits_of(model: torch.nn.Module, rgb: np.ndarray) -> torch.Tensor:
    """Return a network's logits (classes,) of a picture (32, 32, 3) of the very side that it takes, by hand."""
    preprocessing = model.preprocessing
    assert preprocessing.image_size == preprocessing.resize == rgb.shape[0] == rgb.shape[1]
    if preprocessing.in_channels == 1:
        rgb = np.asarray(Image.fromarray(rgb).convert("L"))[..., None]
    values = torch.tensor((rgb / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std))
    return model.eval()(values.permute(2, 0, 1)[None].float())[0]


def packaged() -> torch.nn.Module:
    """Return the network that answers `senet predict`."""
    return senet.from_pretrained("cifar_se_resnet20")
