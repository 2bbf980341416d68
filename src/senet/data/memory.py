"""Data that fit in memory: decoded once, augmented in batches on the device."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from senet.data.config import Augmentation
from senet.data.datasets import ImageSplit
from senet.data.order import BatchOrder, seed_of
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.terminal import tracked


def physical_memory() -> float:
    """Return this machine's memory in bytes; infinity if the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):
        return math.inf


def decode(split: ImageSplit, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Decode, resize and crop every image once.

    Returns:
        images (N, C, H, W) in uint8, labels (N,) in int64.

    Raises:
        SenetError: the images do not fit in this machine's memory, or one cannot be read.
    """
    size = preprocessing.image_size
    needed = len(split) * preprocessing.in_channels * size**2
    if needed > physical_memory():
        raise SenetError(
            f"{split.source} takes {needed / 2**30:,.0f} GiB decoded, more than this machine has; "
            "set data.in_memory to False and leave out padding and cutout"
        )
    to_pixels = v2.Compose([*preprocessing.geometry(), v2.PILToTensor()])
    images = torch.empty(len(split), preprocessing.in_channels, size, size, dtype=torch.uint8)
    labels = torch.empty(len(split), dtype=torch.int64)

    def decode_one(i: int) -> None:
        images[i], labels[i] = split.prepared(i, to_pixels)

    with ThreadPoolExecutor() as pool:
        decoded = pool.map(decode_one, range(len(split)))
        for _ in tracked(decoded, f"Decoding {split.source}", len(split)):
            pass
    return images, labels


def flip_and_crop(x_NCHW: Tensor, flip: bool, padding: int, generator: torch.Generator) -> Tensor:
    """Mirror and shift every image of a batch by its own random choice, in one gather.

    Args:
        x_NCHW: normalized images, so that the zeros of the padding are the mean color.
        flip: mirror left to right with probability one half.
        padding: pixels on each side before the random crop back to (H, W).
        generator: on the images' device.

    Returns:
        (N, C, H, W), in channels-last memory.
    """
    n, _, height, width = x_NCHW.shape
    device = x_NCHW.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (n, 1), generator=generator, device=device)

    rows = torch.arange(height, device=device) + draw(2 * padding + 1)
    columns = torch.arange(width, device=device).expand(n, width)
    if flip:
        columns = torch.where(draw(2) == 1, width - 1 - columns, columns)
    columns = columns + draw(2 * padding + 1)
    padded = F.pad(x_NCHW, (padding,) * 4)
    images = torch.arange(n, device=device)
    gathered: Tensor = padded.permute(0, 2, 3, 1)[images[:, None, None], rows[:, :, None], columns[:, None, :]]
    return gathered.permute(0, 3, 1, 2)


def cutout(x_NCHW: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a square around a uniformly drawn center to zero, the mean color; it may extend beyond the border.

    Source: DeVries and Taylor, arXiv:1708.04552.
    """
    n, _, height, width = x_NCHW.shape

    def hit(length: int) -> Tensor:
        center = torch.randint(length, (n, 1), generator=generator, device=x_NCHW.device)
        offset = torch.arange(length, device=x_NCHW.device) - (center - side // 2)
        return (offset >= 0) & (offset < side)

    square = hit(height)[:, None, :, None] & hit(width)[:, None, None, :]
    return x_NCHW * ~square  # masked_fill would change the memory format


class MemoryLoader:
    """Yields batches of images that are kept on the device.

    The randomness of a batch is a function of (seed, epoch, batch, rank): an epoch resumed in the middle has the
    same batches as an uninterrupted one.

    Args:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        order: which images make a batch.
        preprocessing: for the normalization.
        augmentation: None for evaluation.
        device: where the images are kept and augmented.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: BatchOrder,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None,
        device: torch.device,
    ) -> None:
        self.images = images.to(device)
        self.labels = labels.to(device)
        self.order = order
        self.augmentation = augmentation
        self.device = device
        scale_C11 = torch.tensor(preprocessing.std, device=device).view(-1, 1, 1) * 255
        self.scale = 1 / scale_C11
        self.offset = -torch.tensor(preprocessing.mean, device=device).view(-1, 1, 1) * 255 / scale_C11

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (N, C, H, W) float32, labels (N,)) of `epoch` from batch `start` on."""
        for number, chosen in enumerate(self.order.batches(epoch, start), start):
            indices = torch.from_numpy(chosen).to(self.device)
            x = self.images[indices] * self.scale + self.offset
            if self.augmentation is not None:
                generator = torch.Generator(self.device)
                generator.manual_seed(seed_of(self.order.seed, epoch, number, self.order.rank))
                x = augment(x, self.augmentation, generator)
            yield x, self.labels[indices]


def augment(x_NCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Apply the batch augmentations to normalized images (N, C, H, W)."""
    if augmentation.flip or augmentation.padding:
        x_NCHW = flip_and_crop(x_NCHW, augmentation.flip, augmentation.padding, generator)
    if augmentation.cutout:
        x_NCHW = cutout(x_NCHW, augmentation.cutout, generator)
    return x_NCHW
