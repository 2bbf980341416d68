"""Decoding all images of a split once, to the pixels that the evaluation transform gives."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from senet.data.channels import MODES, Picture
from senet.data.images import ImageSplit
from senet.data.jpeg import decoded, decoders_agree, shape_of
from senet.data.preprocessing import Preprocessing
from senet.data.readers import Arrays, contents_of
from senet.data.reading import read_picture
from senet.data.transforms import OnePicture
from senet.errors import SenetError
from senet.terminal import tracked

CHUNK = 64
"""Most images that a thread takes at once: handing over each by itself costs as much as decoding a small one."""
PIXELS_A_THREAD = 8_000
"""Pixels that PIL decodes in the 30 microseconds for which it holds Python's lock, whatever the size of the picture."""


def physical_memory() -> float:
    """Return this machine's memory in bytes; infinity if the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):
        return math.inf


def decode(split: ImageSplit, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Decode, resize and crop every image once.

    Returns:
        images (N, C, H, W) in uint8 and channels-last memory, labels (N,) in int64.

    Raises:
        SenetError: the images do not fit in this machine's memory, or one cannot be read.
    """
    size, channels = preprocessing.image_size, preprocessing.in_channels
    needed = len(split) * channels * size**2
    if needed > physical_memory():
        raise SenetError(
            f"{split.source} takes {needed / 2**30:,.0f} GiB decoded, more than this machine has; "
            "set data.in_memory to False and leave out padding and cutout"
        )
    if isinstance(split.read_image, Arrays) and fits(split.read_image.pixels, preprocessing):
        return copied(split.read_image, len(split))
    images = np.empty((len(split), size, size, channels), dtype=np.uint8)
    labels = np.empty(len(split), dtype=np.int64)
    to_array, expected = to_array_of(preprocessing), (size, size, channels)
    unscaled = preprocessing.resize == size
    to_pixels = v2.Compose([*preprocessing.geometry(), v2.PILToTensor()])

    def decode_one(index: int, content: bytes | None, label: int) -> None:
        if unscaled and content is not None and shape_of(content) == expected and decoders_agree():
            images[index] = decoded(content)
        else:
            picture, label = split.read_image(index) if content is None else (read_picture(content), label)
            images[index] = to_array(picture)
        labels[index] = label

    def decode_chunk(first: int) -> range:
        chunk = range(first, min(first + step, len(split)))
        for index, (content, label) in zip(chunk, contents_of(split.read_image, chunk), strict=True):
            try:
                decode_one(index, content, label)
            except Exception:  # of any kind: read it once more, to name it in the error
                pixels, labels[index] = split.prepared(index, to_pixels)
                images[index] = pixels.permute(1, 2, 0).numpy()
        return chunk

    threads = number_of_threads(split)
    step = max(1, min(CHUNK, len(split) // (8 * threads)))  # so that few images are shared evenly too
    with ThreadPoolExecutor(threads) as pool:
        chunks = pool.map(decode_chunk, range(0, len(split), step))
        for _ in tracked(chain.from_iterable(chunks), f"Decoding {split.source}", len(split)):
            pass
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)


def fits(pixels: np.ndarray, preprocessing: Preprocessing) -> bool:
    """Return whether the evaluation transform leaves arrays (N, H, W) or (N, H, W, 3) as they are."""
    size, channels = preprocessing.image_size, preprocessing.in_channels
    same = pixels.dtype == np.uint8 and (*pixels.shape[1:], 1)[:3] == (size, size, channels)
    return same and channels in (1, 3) and preprocessing.resize == size


def copied(arrays: Arrays, number: int) -> tuple[Tensor, Tensor]:
    """Return the first images (N, C, H, W) of arrays, and their labels (N,)."""
    pixels, labels = torch.tensor(arrays.pixels[:number]), torch.tensor(arrays.labels[:number], dtype=torch.int64)
    return pixels.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2), labels


def number_of_threads(split: ImageSplit) -> int:
    """Return how many threads decode pictures as large as the first.

    Threads that decode small pictures mostly wait for Python's lock, and the more they are, the longer.
    """
    picture = split[0][0] if len(split) else None
    pixels = math.prod(picture.size) if isinstance(picture, Image.Image) else 0
    return min(os.cpu_count() or 1, 2 + pixels // PIXELS_A_THREAD)


def to_array_of(preprocessing: Preprocessing) -> Callable[[Picture], np.ndarray]:
    """Return the evaluation transform up to uint8 (H, W, C), which leaves out what does not change a picture."""
    size, channels = preprocessing.image_size, preprocessing.in_channels
    mode = MODES[channels] if channels in (1, 3) and preprocessing.resize == size else None
    steps = [OnePicture(step) for step in preprocessing.geometry()]

    def to_array(picture: Picture) -> np.ndarray:
        given: Any = picture
        if not (isinstance(given, Image.Image) and given.mode == mode and given.size == (size, size)):
            for step in steps:
                given = step(given)
        array = given.permute(1, 2, 0).numpy() if isinstance(given, Tensor) else np.asarray(given)
        return array.reshape(size, size, channels)

    return to_array
