"""Accuracy on one crop or on many."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from senet.borrowing import borrowed, default_device, device_of, dtype_of
from senet.data.classes import match_classes
from senet.data.config import DataConfig, data_config_from_dict
from senet.data.datasets import ImageSplit, open_split
from senet.data.order import BatchOrder
from senet.data.streaming import StreamingLoader
from senet.data.views import Crops, Views
from senet.errors import SenetError
from senet.examples import on_example
from senet.models.checkpoints import CONFIG_FILE
from senet.models.folder import load_model
from senet.preprocessing import Preprocessing, preprocessing_of
from senet.terminal import tracked

Data = DataConfig | str | Path | Iterable[Any]
"""A data set's configuration, its name or its folder; or batches."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a network does on a data set.

    Args:
        top1: images whose class is predicted first, in %.
        top5: images whose class is among the five predicted first, in %.
        loss: mean cross entropy, in nats.
        num_images: evaluated.
    """

    top1: float
    top5: float
    loss: float
    num_images: int


def log_probabilities(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Predict a batch; several views of an image are averaged by their probabilities.

    Args:
        model: images to logits.
        images: (N, C, H, W), or (N, views, C, H, W).

    Returns:
        (N, num_classes), float32.
    """
    if images.dim() == 4:
        return model(images).float().log_softmax(1)
    by_view = model(images.flatten(0, 1)).float().log_softmax(1).view(*images.shape[:2], -1)
    return by_view.logsumexp(1) - math.log(images.shape[1])  # of the mean probability, which may underflow


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Evaluation:
    """Evaluate a network, which is left in evaluation mode.

    Args:
        model: images to logits.
        batches: (images, labels); several views as in `log_probabilities`.
        forward: calls the model, for autocast or a compiled form of it; None calls it as it is.
        reduce: sums a tensor over processes; None for one process.
    """
    model.eval()
    totals = None
    for images, labels in batches:
        predicted = log_probabilities(forward or model, images)
        hits = predicted.topk(min(5, predicted.shape[1])).indices == labels[:, None]
        loss = F.nll_loss(predicted, labels, reduction="sum")
        sums = torch.stack([loss, hits[:, 0].sum(), hits.sum(), labels.new_tensor(len(labels))]).double()
        totals = sums if totals is None else totals + sums
    if totals is None:
        raise ValueError("there are no batches to evaluate")
    loss_sum, top1, top5, count = (reduce(totals) if reduce else totals).tolist()
    return Evaluation(top1=100 * top1 / count, top5=100 * top5 / count, loss=loss_sum / count, num_images=int(count))


def run_data(source: str | Path) -> DataConfig | None:
    """Return the data that a run was trained on; None if `source` is not a run folder or a model folder in one.

    Raises:
        SenetError: the run's configuration cannot be read.
    """
    for folder in (Path(source), Path(source).parent):
        path = folder / CONFIG_FILE
        try:
            values = json.loads(path.read_text()).get("data")
            if values is not None:
                return data_config_from_dict(values)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SenetError(f"{path} is not the configuration of a run or model ({error})") from error
    return None


def number_of_classes(model: nn.Module, image: Tensor) -> int:
    """Return how many classes a network has, by its word or by its output for an image (1, C, H, W)."""
    return getattr(model, "num_classes", None) or int(on_example(model, image, model).shape[1])


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Images to run a network on, in batches.

    Args:
        source: what to call them in messages.
        class_names: of their labels; empty where they have none.
        device: where they arrive.
        number: of batches; None if nobody knows.
        unscored: why no accuracy can be measured on them; empty if it can.
        each: yields (images, labels); labels are 0 where there are none.
        images: one by one, where the source is a data set.
        preprocessing: of these images for the network.
    """

    source: str
    class_names: tuple[str, ...]
    device: torch.device
    number: int | None
    unscored: str
    each: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    images: ImageSplit | None = None
    preprocessing: Preprocessing | None = None

    def tracked(self, doing: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches, with a bar on a terminal."""
        return tracked(self.each(), f"{doing} {self.source}", self.number)


def model_and_data(run_or_model: nn.Module | str | Path, data: Data | None) -> tuple[nn.Module, Data]:
    """Return the network, and what to run it on; None for what a run was trained on.

    A network that is loaded here goes to a GPU if there is one.

    Raises:
        SenetError: there is no such network, or nothing says what to run it on.
    """
    if isinstance(run_or_model, nn.Module):
        model, trained_on = run_or_model, None
    else:
        model, trained_on = load_model(run_or_model).to(default_device()), run_data(run_or_model)
    found = trained_on if data is None else data
    if found is None:
        raise SenetError("data is missing: say what to evaluate on, such as 'digits' or a folder")
    return model, found


def open_batches(
    model: nn.Module,
    data: Data,
    *,
    crop: int | None = None,
    scales: tuple[int, ...] = (),
    crops: Crops = "center",
    batch_size: int = 64,
    device: torch.device | str | None = None,
    shared: bool = False,
) -> Batches:
    """Open the evaluation images of a data set for a network, which stays where it is.

    Args:
        model: the network.
        data: as for `evaluate`; a folder of images without classes; or batches, (images, labels) or images alone.
        crop: see `evaluate`.
        scales: see `evaluate`.
        crops: see `evaluate`.
        batch_size: see `evaluate`.
        device: see `evaluate`.
        shared: each process under torch.distributed gets its part of a data set.

    Raises:
        SenetError: a data set or option that does not fit.
    """
    if batch_size < 1:
        raise SenetError(f"batch_size is {batch_size}; expected at least 1")
    target = torch.device(device or device_of(model))
    if not isinstance(data, DataConfig | str | Path):
        return given_batches(model, data, target)
    config = data if isinstance(data, DataConfig) else DataConfig(dataset=str(data))
    preprocessing = preprocessing_of(model, data.preprocessing if isinstance(data, DataConfig) else None)
    size = crop or preprocessing.image_size
    scales = scales or (round(size * preprocessing.resize / preprocessing.image_size),)
    views = Views(preprocessing, size, scales, crops)
    images = open_split(replace(config, preprocessing=preprocessing), "eval")
    dtype = dtype_of(model)
    images, unscored = labelled_for(model, images, (1, preprocessing.in_channels, size, size))
    shared = shared and dist.is_available() and dist.is_initialized()
    order = BatchOrder(
        num_images=len(images),
        batch_size=max(1, batch_size // views.count),
        shuffle=False,
        rank=dist.get_rank() if shared else 0,
        num_processes=dist.get_world_size() if shared else 1,
    )
    loader = StreamingLoader(images, views, order, preprocessing, target, config.num_workers)

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in loader.batches(0):
            yield (pixels.squeeze(1) if views.count == 1 else pixels).to(dtype), labels

    return Batches(
        source=images.source,
        class_names=images.class_names,
        device=target,
        number=len(loader),
        unscored=unscored,
        each=each,
        images=images,
        preprocessing=preprocessing,
    )


def given_batches(model: nn.Module, data: Iterable[Any], device: torch.device) -> Batches:
    """Describe batches that the caller made: (images, labels), or images alone.

    Raises:
        SenetError: there are none, or they are of another kind.
    """
    iterator = iter(data)
    first = next(iterator, None)
    if first is None:
        raise SenetError("data has no batches")
    labelled = isinstance(first, tuple | list) and len(first) == 2
    names: Sequence[str] = getattr(model, "class_names", None) or ()
    if labelled and not names:
        names = tuple(str(i) for i in range(number_of_classes(model, first[0][:1].to(device_of(model)))))

    def each() -> Iterator[tuple[Tensor, Tensor]]:
        again = data if iter(data) is not data else chain((first,), iterator)
        for batch in again:
            images, labels = batch if labelled else (batch, None)
            if not isinstance(images, Tensor) or images.dim() != 4:
                raise SenetError("data is not batches of images; expected tensors (N, C, H, W), or pairs with labels")
            labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
            if labelled and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
                raise SenetError(f"a label of the batches given is not one of the network's 0 to {len(names) - 1}")
            yield images.to(device), labels.to(device)

    return Batches(
        source="the batches given",
        class_names=tuple(names) if labelled else (),
        device=device,
        number=len(data) if isinstance(data, Sized) else None,
        unscored="" if labelled else unlabelled("the batches given"),
        each=each,
    )


def labelled_for(model: nn.Module, images: ImageSplit, shape: tuple[int, ...]) -> tuple[ImageSplit, str]:
    """Return the images with the network's labels, or as they are, and why no accuracy can be measured on them.

    Args:
        model: the network.
        images: with labels or without.
        shape: of one image for it, (1, C, H, W).
    """
    if not images.class_names:
        return images, unlabelled(images.source)
    names: Sequence[str] | None = getattr(model, "class_names", None)
    blank = torch.zeros(shape, device=device_of(model), dtype=dtype_of(model))
    try:
        return match_classes(images, tuple(names) if names else None, partial(number_of_classes, model, blank)), ""
    except SenetError as error:
        return images, str(error)


def unlabelled(source: str) -> str:
    """Say that data without labels give no accuracy."""
    return f"{source} has no labels; accuracy needs a folder of images for each class"


def evaluate(
    run_or_model: nn.Module | str | Path,
    data: Data | None = None,
    *,
    crop: int | None = None,
    scales: tuple[int, ...] = (),
    crops: Crops = "center",
    batch_size: int = 64,
    bf16: bool = False,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Measure the accuracy of a network on the evaluation images of a data set.

    Args:
        run_or_model: a network, a run or model folder, or the name of a network with weights in the package.
        data: a `DataConfig` or its `dataset`, or batches (images, labels); None for what the run was trained on. The
            preprocessing of a `DataConfig` counts only for networks that do not bring their own (ours and timm's do).
        crop: side of the crops in pixels; None for the network's own.
        scales: lengths the shorter side is scaled to; several average over scales. () keeps the network's own ratio of
            scale to crop.
        crops: "center", or "ten" (corners and centre, each mirrored too). The probabilities of all views are averaged.
        batch_size: images at once, before they are divided among views.
        bf16: compute in bfloat16.
        device: to compute on; the network is moved and put back. None for where it is, or for a GPU, if there is one,
            where it is loaded by name. It comes back as it was: device, type, memory format and mode.

    Raises:
        SenetError: a folder, data set or option that does not fit.
    """
    model, data = model_and_data(run_or_model, data)
    batches = open_batches(model, data, crop=crop, scales=scales, crops=crops, batch_size=batch_size, device=device)
    if batches.unscored:
        raise SenetError(batches.unscored)
    autocast = torch.autocast(batches.device.type, torch.bfloat16, enabled=bf16)
    with borrowed(model, batches.device, torch.channels_last), autocast:
        return score(model, batches.tracked("Evaluating on"))
