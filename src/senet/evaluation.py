"""Accuracy on one crop or on many."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    flat = model(images.flatten(0, 1)).float().softmax(1)
    return flat.unflatten(0, images.shape[:2]).mean(1).log()


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
    return Evaluation(
        top1=100 * top1 / count, top5=100 * top5 / count, loss=loss_sum / count, num_images=int(count)
    )
