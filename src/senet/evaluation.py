"""Accuracy on one crop or on many."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.block import check_choice
from senet.data.config import DataConfig, data_config_from_dict
from senet.data.datasets import ImageSplit, open_split
from senet.data.order import BatchOrder
from senet.data.streaming import StreamingLoader
from senet.errors import SenetError
from senet.models.checkpoints import CONFIG_FILE
from senet.models.folder import load_model
from senet.preprocessing import Preprocessing
from senet.progress import tracked

Crops = Literal["center", "ten"]


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


class Views(nn.Module):
    """Cut the views of an image: PIL image -> uint8 (views, C, size, size).

    Args:
        preprocessing: for the number of channels.
        size: side of a crop, in pixels.
        scales: lengths the shorter side is scaled to, each at least `size`.
        crops: "center", or "ten": the four corners and the centre, each also mirrored.

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
        self.colour = v2.Compose(preprocessing.colour())
        self.resizes = [v2.Resize(scale) for scale in scales]
        self.crop = v2.CenterCrop(size) if crops == "center" else v2.TenCrop(size)
        self.count = len(scales) * (1 if crops == "center" else 10)

    def forward(self, image: Any) -> Tensor:
        """PIL image of any size -> uint8 (views, C, size, size)."""
        image = self.colour(image)
        views: list[Any] = []
        for resize in self.resizes:
            cut = self.crop(resize(image))
            views += cut if isinstance(cut, tuple) else [cut]
        return torch.stack([v2.functional.pil_to_tensor(view) for view in views])


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


def check_classes(model: nn.Module, images: ImageSplit) -> None:
    """Raise a SenetError unless the network's classes are those of the data."""
    names = getattr(model, "class_names", None)
    num_classes = len(names) if names else getattr(model, "num_classes", None)
    if num_classes is not None and num_classes != len(images.class_names):
        raise SenetError(f"the network has {num_classes} classes, but {images.source} has {len(images.class_names)}")
    unnamed = all(name.isdigit() for name in images.class_names)
    if names and not unnamed and tuple(names) != images.class_names:
        ours, theirs = next((a, b) for a, b in zip(names, images.class_names, strict=True) if a != b)
        raise SenetError(f"the classes differ: the network has {ours!r} where {images.source} has {theirs!r}")


def evaluate(
    run_or_model: nn.Module | str | Path,
    data: DataConfig | str | Path | None = None,
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
        data: a `DataConfig` or its `dataset`; None for what the run was trained on. Its preprocessing counts only for
            networks that do not bring their own.
        crop: side of the crops in pixels; None for the network's own.
        scales: lengths the shorter side is scaled to; several average over scales. () keeps the network's own ratio of
            scale to crop.
        crops: "center", or "ten" (corners and centre, each mirrored too). The probabilities of all views are averaged.
        batch_size: images at once, before they are divided among views.
        bf16: compute in bfloat16.
        device: None for a GPU if there is one.

    Raises:
        SenetError: a folder, data set or option that does not fit.
    """
    model = run_or_model if isinstance(run_or_model, nn.Module) else load_model(run_or_model)
    if data is None:
        data = None if isinstance(run_or_model, nn.Module) else run_data(run_or_model)
        if data is None:
            raise SenetError("data is missing: say what to evaluate on, such as 'digits' or a folder")
    config = data if isinstance(data, DataConfig) else DataConfig(dataset=str(data))
    preprocessing = getattr(model, "preprocessing", None) or config.preprocessing
    size = crop or preprocessing.image_size
    scales = scales or (round(size * preprocessing.resize / preprocessing.image_size),)
    views = Views(preprocessing, size, scales, crops)
    if batch_size < 1:
        raise SenetError(f"batch_size is {batch_size}; expected at least 1")
    config = replace(config, preprocessing=preprocessing)
    images = open_split(config, "eval")
    check_classes(model, images)

    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    order = BatchOrder(num_images=len(images), batch_size=max(1, batch_size // views.count), shuffle=False)
    loader = StreamingLoader(images, views, order, preprocessing, target, config.num_workers)
    was_training = model.training
    model.to(target).to(memory_format=torch.channels_last)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        batched = tracked(loader.batches(0), f"Evaluating on {images.source}", len(loader))
        for pixels, labels in batched:
            yield (pixels.squeeze(1) if views.count == 1 else pixels), labels

    autocast = torch.autocast(target.type, torch.bfloat16) if bf16 else nullcontext()
    with autocast:
        result = score(model, batches())
    model.train(was_training)
    return result
