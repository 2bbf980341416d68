"""How well a network does: the sums over batches, and the figures made of them."""

import math
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
        balanced_accuracy: the mean over the classes of the share of their images that are predicted right, in %.
        macro_f1: the mean over the classes of F1, 2 right / (images + predictions of the class), in %.
        largest_class: images of the class that has most, in %: the top-1 accuracy of always predicting it.
        num_classes: that have images.

    Classes without images count in neither mean.
    """

    top1: float
    top5: float
    loss: float
    num_images: int
    balanced_accuracy: float
    macro_f1: float
    largest_class: float
    num_classes: int


def log_probabilities(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Predict a batch; the probabilities of several crops of an image are averaged.

    Args:
        model: images to logits.
        images: (N, C, H, W), or (N, crops, C, H, W).

    Returns:
        (N, num_classes), float32.
    """
    if images.dim() == 4:
        return model(images).float().log_softmax(1)
    by_crop = model(images.flatten(0, 1)).float().log_softmax(1).view(*images.shape[:2], -1)
    return by_crop.logsumexp(1) - math.log(images.shape[1])  # of the mean probability, which may underflow


@torch.no_grad()
def score(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    forward: Callable[[Tensor], Tensor] | None = None,
    reduce: Callable[[Tensor | None], Tensor] | None = None,
) -> Evaluation:
    """Evaluate a network, which is left in evaluation mode.

    Args:
        model: images to logits.
        batches: (images, labels); several crops as in `log_probabilities`.
        forward: calls the model, for autocast or a compiled form of it; None calls the model itself.
        reduce: adds up the sums of all processes, None of one without images; None for one process.
    """
    model.eval()
    totals = None
    for images, labels in batches:
        if not len(images):  # the last batch, shared by more processes than it has images
            continue
        sums = sums_of(log_probabilities(forward or model, images), labels)
        totals = sums if totals is None else totals + sums
    if reduce is not None:
        totals = reduce(totals)
    if totals is None:
        raise ValueError("there are no batches to evaluate")
    return evaluation_of(totals)


def sums_of(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return what `evaluation_of` needs to know of a batch, to be added up: float64 (2 + 3 num_classes,).

    Args:
        predicted: log probabilities (N, num_classes).
        labels: (N,).
    """
    num_classes = predicted.shape[1]
    first = likeliest(predicted, min(5, num_classes))
    hits = first == labels[:, None]
    loss = F.nll_loss(predicted, labels, reduction="sum")
    by_class = [torch.bincount(of, minlength=num_classes) for of in (labels, first[:, 0], labels[hits[:, 0]])]
    return torch.cat([torch.stack([loss, hits.sum()]).double(), *by_class])


def likeliest(scores: Tensor, number: int) -> Tensor:
    """Return the likeliest classes, the best first, of equal ones the first: as argmax does, and topk does not.

    Equal scores are usual in int8.

    Args:
        scores: logits or probabilities (N, num_classes).
        number: of classes.

    Returns:
        indices (N, number).
    """
    return scores.sort(descending=True, stable=True).indices[:, :number]


def class_counts(sums: Tensor) -> Tensor:
    """Return of each class its images, the predictions of it, and those that are right, (3, C); see `sums_of`."""
    return sums[2:].view(3, -1)


def evaluation_of(sums: Tensor) -> Evaluation:
    """Return the evaluation of all images from the sums over their batches, see `sums_of`."""
    loss, top5 = sums[:2].tolist()
    images_C, predictions_C, right_C = class_counts(sums)
    count, present = images_C.sum().item(), images_C > 0
    recall_C = right_C[present] / images_C[present]
    f1_C = 2 * right_C[present] / (images_C + predictions_C)[present]
    return Evaluation(
        top1=100 * right_C.sum().item() / count,
        top5=100 * top5 / count,
        loss=loss / count,
        num_images=int(count),
        balanced_accuracy=100 * recall_C.mean().item(),
        macro_f1=100 * f1_C.mean().item(),
        largest_class=100 * images_C.max().item() / count,
        num_classes=int(present.sum()),
    )
