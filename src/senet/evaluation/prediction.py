"""Classification of single images: classes with probabilities."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.channels import Picture
from senet.data.preprocessing import create_transform
from senet.data.reading import naming, read_named, read_picture
from senet.errors import SenetError, check_choice
from senet.evaluation.batches import open_model
from senet.nn.modes import borrowed, device_of, dtype_of

OnError = Literal["raise", "keep"]


@dataclass(frozen=True, kw_only=True)
class ClassProbability:
    """One class of one prediction; `probability` is in [0, 1]."""

    class_name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network predicts for one image.

    Args:
        image: what was given.
        classes: the likeliest ones, likeliest first; empty for an image that cannot be read.
        error: why it cannot be read, in one sentence; None if it can.
    """

    image: str | Path | Picture
    classes: tuple[ClassProbability, ...] = ()
    error: SenetError | None = None


def open_image(path: str | Path) -> Picture:
    """Read an image file, turned upright as its EXIF data says.

    Raises:
        SenetError: the file is absent, not an image, or truncated.
    """
    return read_named(str(path), partial(read_picture, path))


def predict(
    run_or_model: nn.Module | str | Path,
    images: Iterable[str | Path | Picture],
    *,
    top: int = 5,
    batch_size: int = 64,
) -> list[list[ClassProbability]]:
    """Classify images.

    Args:
        run_or_model: a network with `preprocessing`, or what `senet.from_pretrained` opens: a run or model folder, a
            name, a hub id.
        images: files; PIL images of any size, which are not turned by their EXIF data as files are; or arrays (H, W),
            (H, W, C) or (C, H, W) of uint8 or uint16.
        top: how many classes to return for each; at least 1.
        batch_size: images at once; no more are held in memory.

    Returns:
        For every image its `top` likeliest classes, likeliest first.

    Raises:
        SenetError: a model or image that cannot be read. `predict_each` goes on after such an image.
    """
    return [list(found.classes) for found in predict_each(run_or_model, images, top=top, batch_size=batch_size)]


def predict_each(
    run_or_model: nn.Module | str | Path,
    images: Iterable[str | Path | Picture],
    *,
    top: int = 5,
    batch_size: int = 64,
    on_error: OnError = "raise",
) -> Iterator[Prediction]:
    """Classify images one batch after the other, and yield the predictions as they come.

    Args:
        run_or_model: see `predict`.
        images: see `predict`; each is read when its batch comes.
        top: see `predict`.
        batch_size: see `predict`.
        on_error: "raise" stops at an image that cannot be read; "keep" yields its prediction with an `error`.

    Raises:
        SenetError: a model or, on request, an image that cannot be read.
    """
    check_choice("on_error", on_error, get_args(OnError))
    if isinstance(images, str | Path):
        raise SenetError(f"images is {str(images)!r}, one file; pass a list of files")
    for name, value in (("top", top), ("batch_size", batch_size)):
        if value < 1:
            raise SenetError(f"{name} is {value}; expected at least 1")
    model = open_model(run_or_model)
    return predicted(model, iter(images), create_transform(model), top, batch_size, on_error)


def predicted(
    model: nn.Module,
    images: Iterator[str | Path | Picture],
    to_tensor: v2.Compose,
    top: int,
    batch_size: int,
    on_error: OnError,
) -> Iterator[Prediction]:
    """Yield the predictions for images, see `predict_each`."""
    numbered = enumerate(images)
    while batch := list(islice(numbered, batch_size)):
        prepared: list[Tensor | SenetError] = []
        for number, image in batch:
            try:
                prepared.append(prepare(image, number, to_tensor))
            except SenetError as refusal:
                if on_error == "raise":
                    raise
                prepared.append(refusal)
        tensors = [tensor for tensor in prepared if isinstance(tensor, Tensor)]
        classes = iter(classify(model, torch.stack(tensors), top) if tensors else ())
        for (_, image), result in zip(batch, prepared, strict=True):
            error = result if isinstance(result, SenetError) else None
            yield Prediction(image=image, classes=() if error else next(classes), error=error)


def prepare(image: str | Path | Picture, number: int, to_tensor: v2.Compose) -> Tensor:
    """Return an image, read first if it is a file, as the network takes it: (C, H, W).

    Raises:
        SenetError: it cannot be read, or the network cannot take it.
    """
    is_file = isinstance(image, str | Path)
    with naming(str(image) if is_file else f"image number {number}"):
        tensor: Tensor = to_tensor(open_image(image) if isinstance(image, str | Path) else image)
    return tensor


@torch.no_grad()
def classify(model: nn.Module, images: Tensor, top: int) -> list[tuple[ClassProbability, ...]]:
    """Return the likeliest classes for each of the images (N, C, H, W)."""
    with borrowed(model):
        probabilities = model(images.to(device_of(model), dtype_of(model))).float().softmax(1)
    names: Sequence[str] = getattr(model, "class_names", None) or [str(i) for i in range(probabilities.shape[1])]
    values, indices = probabilities.topk(min(top, probabilities.shape[1]))
    return [
        tuple(ClassProbability(class_name=names[i], probability=p) for p, i in zip(row, chosen, strict=True))
        for row, chosen in zip(values.tolist(), indices.tolist(), strict=True)
    ]
