"""Running a model once on images that it takes, to see what it does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn.fused import Fusible
from senet.nn.modes import evaluating

Example = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a model is run on: its first argument, such as images (N, C, H, W) or a detector's list of images; a tuple of
all arguments; or a dictionary of them by keyword."""
SIZES: Mapping[type[nn.Module], tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        nn.Conv2d: ((224, 224), (299, 299), (64, 64), (32, 32)),
        nn.Conv1d: ((1024,), (16000,)),
        nn.Conv3d: ((16, 112, 112), (16, 64, 64)),
    }
)
"""Sizes of the noise for a model that does not say what it takes, by the class of its first convolution."""
Found = TypeVar("Found")


class CannotRunError(SenetError):
    """A model that does not run on the example."""


def first_convolution(model: nn.Module) -> tuple[type[nn.Module], int]:
    """Return the class of a model's first convolution, as in `SIZES`, and the channels that it takes."""
    found = ((kind, m.in_channels) for m in model.modules() for kind in SIZES if isinstance(m, kind))
    return next(found, (nn.Conv2d, 3))  # type: ignore[return-value]


def examples(model: nn.Module) -> Iterator[Tensor]:
    """Yield noise of the sizes that a model may take, what it says itself first."""
    kind, channels = first_convolution(model)
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    preprocessing = getattr(model, "preprocessing", None)
    sizes = [tuple(config["input_size"][1:])] if "input_size" in config else []
    if preprocessing is not None:
        channels = preprocessing.in_channels
        sizes.append((preprocessing.image_size, preprocessing.image_size))
    like = next(model.parameters())
    for size in (*sizes, *SIZES[kind]):
        noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
        yield noise.to(like.device, like.dtype)


def run_on(model: nn.Module, example: Example) -> Any:
    """Run a model on an example."""
    if isinstance(example, tuple):
        return model(*example)
    return model(**example) if isinstance(example, Mapping) else model(example)


def words(example: Any) -> str:
    """Return the shapes of an example, for a message."""
    if isinstance(example, Tensor):
        return str(tuple(example.shape))
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{key}: {words(value)}" for key, value in example.items()) + "}"
    if isinstance(example, list | tuple):
        inside = ", ".join(map(words, example))
        return f"({inside})" if isinstance(example, tuple) else f"[{inside}]"
    return type(example).__name__


@torch.no_grad()
def on_example(model: nn.Module, example: Any, compute: Callable[[Any], Found]) -> Found:
    """Compute something of a model in evaluation mode on the first images that it takes.

    Args:
        model: left as it was.
        example: see `Example`; None for `examples`.
        compute: example -> what is wanted; raises whatever the model does on images that it does not take.

    Raises:
        CannotRunError: the model runs on none.
    """
    if example is not None and not isinstance(example, Tensor | tuple | list | Mapping):
        raise SenetError(f"example is a {type(example).__name__}; expected a tensor, a list, a tuple or a dictionary")
    complaint: Exception | None = None
    with as_written(model):
        for images in examples(model) if example is None else (example,):
            try:
                return compute(images)
            except Exception as error:  # whatever somebody's model may raise
                complaint = complaint or error
    said = str(complaint).strip().splitlines()
    sizes = ["x".join(map(str, size)) for size in SIZES[first_convolution(model)[0]]]
    what = f"the example {words(example)}"
    if example is None:
        what = f"images of {', '.join(sizes[:-1])} or {sizes[-1]}"
    remedy = "pass example" if example is None else "pass an example that it takes"
    raise CannotRunError(
        f"{type(model).__name__} does not run on {what} ({said[0] if said else type(complaint).__name__}); {remedy}"
    ) from complaint


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, layer by layer, and back."""
    fused = {fusible: fusible.fused for fusible in model.modules() if isinstance(fusible, Fusible)}
    try:
        for fusible in fused:
            fusible.fused = False
        with evaluating(model):
            yield
    finally:
        for fusible, value in fused.items():
            fusible.fused = value
