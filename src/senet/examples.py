"""Running a model once on images that it takes, to see what it does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.fused import Fusible

SIDES = (224, 299, 64, 32)
"""Pixels of the images that are tried on a model that does not say what it takes."""
Found = TypeVar("Found")


class CannotRunError(SenetError):
    """A model that does not run on the example."""


def examples(model: nn.Module) -> Iterator[Tensor]:
    """Yield noise of the sizes that a model may take, what it says itself first."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    preprocessing = getattr(model, "preprocessing", None)
    sizes = [tuple(config["input_size"])] if "input_size" in config else []
    if preprocessing is not None:
        sizes.append((preprocessing.in_channels, preprocessing.image_size, preprocessing.image_size))
    like = next(model.parameters())
    for size in sizes + [(channels, side, side) for side in SIDES]:
        noise = torch.randn(1, channels, *size[1:], generator=torch.Generator().manual_seed(0))
        yield noise.to(like.device, like.dtype)


@torch.no_grad()
def on_example(model: nn.Module, example: Tensor | None, compute: Callable[[Tensor], Found]) -> Found:
    """Compute something of a model in evaluation mode on the first images that it takes.

    Args:
        model: left as it was.
        example: images (N, C, H, W); None for `examples`.
        compute: images -> what is wanted; raises whatever the model does on images that it does not take.

    Raises:
        CannotRunError: the model runs on none.
    """
    complaint: Exception | None = None
    with as_written(model):
        for images in examples(model) if example is None else (example,):
            try:
                return compute(images)
            except Exception as error:  # whatever somebody's model may raise
                complaint = complaint or error
    said = str(complaint).strip().splitlines()
    what = "images of 224, 299, 64 or 32 pixels" if example is None else f"the example {tuple(example.shape)}"
    remedy = "pass example" if example is None else "pass images that it takes"
    raise CannotRunError(
        f"{type(model).__name__} does not run on {what} ({said[0] if said else type(complaint).__name__}); {remedy}"
    ) from complaint


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, layer by layer, and back."""
    modes = {module: module.training for module in model.modules()}
    fused = {fusible: fusible.fused for fusible in model.modules() if isinstance(fusible, Fusible)}
    try:
        model.eval()
        for fusible in fused:
            fusible.fused = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for fusible, value in fused.items():
            fusible.fused = value
