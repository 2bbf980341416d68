"""Accuracy on one crop or on many."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.data.views import Crops
from senet.errors import SenetError
from senet.evaluation.batches import Data, model_and_data, open_batches
from senet.nn.modes import borrowed


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
        crops: "center", or "ten" (corners and center, each mirrored too). The probabilities of all views are averaged.
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
