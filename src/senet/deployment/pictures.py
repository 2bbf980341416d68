"""The pictures on which an exported network is compared with its original: evaluation data, or generated ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from senet.data.images import ImageSplit
from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.errors import SenetError
from senet.evaluation.batches import Batches, DataSource, open_batches
from senet.evaluation.functions import class_names_of
from senet.terminal import tracked

BATCH = 16
"""Images of a batch."""
GENERATED = 16
"""Pictures where there are no data."""
MOST, PIXELS = 500, 10_050_000
"""How many images are compared unless others are asked for, and how many pixels they have together at most: 200 of 224
pixels, for which SE-ResNet-50 and its file take 25 seconds on two cores."""
NO_DATA = "there are no data"
"""Why pictures are generated."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures as a network takes them, in batches.

    Args:
        source: what to call them.
        each: yields (images, labels): (N, C, H, W) normalized, and their labels, which mean nothing if `unscored`.
        number: of batches; None if it is not known.
        unscored: why no accuracy can be measured on them; empty if it can.
        class_names: of the network's outputs; empty if it has none.
        images: one by one; None if they are no data set.
        preprocessing: of these; None likewise.
        indices: in `images`, of the pictures in the order of the batches; None for all.
    """

    source: str
    each: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    number: int | None
    unscored: str
    class_names: tuple[str, ...]
    images: ImageSplit | None = None
    preprocessing: Preprocessing | None = None
    indices: tuple[int, ...] | None = None

    def index(self, place: int) -> int:
        """Return the number in the data set of the picture that came as number `place`."""
        return place if self.indices is None else self.indices[place]

    def name(self, place: int) -> str:
        """Return what to call the picture that came as number `place`."""
        return f"picture {place}" if self.images is None else self.images.name(self.index(place))

    def tracked(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, with a bar on a terminal."""
        return tracked(self.each(), f"Comparing on {self.source}", self.number)


def usual_number(side: int) -> int:
    """Return how many images are compared unless others are asked for, at least `GENERATED`.

    Args:
        side: of the images, in pixels.
    """
    return max(GENERATED, min(MOST, PIXELS // side**2))


def check_limit(limit: int | None) -> None:
    """Raise a SenetError for a number of pictures out of its range."""
    if limit is not None and limit < 1:
        raise SenetError(f"images is {limit}; expected at least 1, or None for all")


def pictures_for(
    model: nn.Module, data: DataSource | None, limit: int | None, size: tuple[int, int] | None = None
) -> Pictures:
    """Return the pictures to compare on: the data, at equal distances, or generated pictures.

    Args:
        model: whose preprocessing and classes they are for, on the CPU.
        data: as for `senet.evaluate`; None for generated pictures.
        limit: number of pictures; None for all of the data.
        size: rows and columns that the network takes; None if they are free.

    Raises:
        SenetError: the data do not fit the network, or limit is out of its range.
    """
    check_limit(limit)
    number = GENERATED if limit is None else min(limit, GENERATED)
    if data is None:
        return generated(model, number, size, NO_DATA)
    side = preprocessing_of(model).image_size
    if size not in (None, (side, side)):
        shape = "x".join(map(str, size or ()))
        return generated(model, number, size, f"the file takes images of {shape} pixels, and data are cut to squares")
    batches = open_batches(model, data, batch_size=BATCH, device="cpu")
    names = class_names_of(model) or batches.class_names
    if batches.images is not None and limit is not None and limit < len(batches.images):
        return spread(batches, batches.images, limit, names)
    return Pictures(
        source=batches.source,
        each=batches.each if limit is None else lambda: first_of(batches.each(), limit),
        number=batches.number,
        unscored=batches.unscored,
        class_names=names,
        images=batches.images,
        preprocessing=batches.preprocessing,
    )


def first_of(batches: Iterator[tuple[Tensor, Tensor]], limit: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches until there are enough images."""
    for images, labels in batches:
        yield images[:limit], labels[:limit]
        limit -= len(images)
        if limit <= 0:
            return


def spread(batches: Batches, images: ImageSplit, limit: int, class_names: tuple[str, ...]) -> Pictures:
    """Return some of the images of a data set, at equal distances, for their order is often that of the classes."""
    assert batches.preprocessing is not None
    indices = np.linspace(0, len(images) - 1, limit).round().astype(int).tolist()
    transform = batches.preprocessing.build()

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, limit, BATCH):
            read = [images.prepared(index, transform) for index in indices[start : start + BATCH]]
            yield torch.stack([pixels for pixels, _ in read]), torch.tensor([label for _, label in read])

    return Pictures(
        source=batches.source,
        each=each,
        number=-(-limit // BATCH),
        unscored=batches.unscored,
        class_names=class_names,
        images=images,
        preprocessing=batches.preprocessing,
        indices=tuple(indices),
    )


def generated(model: nn.Module, number: int, size: tuple[int, int] | None, why: str) -> Pictures:
    """Return pictures of random soft colors with some grain, normalized as the network wants them.

    Args:
        model: see `pictures_for`.
        number: of pictures.
        size: see `pictures_for`.
        why: there are no others.

    Raises:
        SenetError: the network has no preprocessing, so nothing says which pictures it takes.
    """
    preprocessing = preprocessing_of(model)

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, number, BATCH):
            count = min(BATCH, number - start)
            yield generate(preprocessing, count, size, generator), torch.zeros(count, dtype=torch.int64)

    return Pictures(
        source=f"{number} generated pictures",
        each=each,
        number=-(-number // BATCH),
        unscored=why,
        class_names=class_names_of(model),
    )


def generate(
    preprocessing: Preprocessing, count: int, size: tuple[int, int] | None, generator: torch.Generator
) -> Tensor:
    """Return generated pictures (count, C, H, W) of 8-bit values, normalized; size None for that of preprocessing."""
    channels, sides = preprocessing.in_channels, size or (preprocessing.image_size,) * 2
    soft = interpolate(torch.rand(count, channels, 5, 5, generator=generator), sides, mode="bicubic")
    grain = torch.randn(soft.shape, generator=generator) * 0.05
    pixels = (soft + grain).clamp(0, 1).mul(255).round() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels - mean) / std
