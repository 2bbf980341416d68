"""What a training step computes: the loss of a batch, as one module that is compiled and distributed whole."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.data.balance import class_offsets, class_weights
from senet.errors import SenetError
from senet.nn.precision import DTYPES, Precision
from senet.training.sections import ObjectiveConfig

ONE_VALUE = "more than 1 value per channel"
"""Part of PyTorch's message when BatchNorm gets one value per channel."""


def logits_of(network: Callable[[Tensor], Tensor], images: Tensor, precision: Precision) -> Tensor:
    """Call a network under autocast if the precision is "bf16" or "fp16"; float32 logits."""
    dtype = DTYPES[precision]
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        logits = network(images)
    return logits.float()


class Objective(nn.Module):
    """A network and its loss.

    Args:
        network: images to logits.
        precision: of the forward and backward passes, not "auto".
        label_smoothing: share of the target that is spread over all classes.
        config: the loss, and the teacher's share of it; None for the cross entropy.
        class_weights: (num_classes,) float32, of the images of each class, 1 on average over the training images; None
            for the same weight for all.
        class_offsets: (num_classes,) float32, added to the logits in the loss, but not in the teacher's share of it;
            None for 0.
        teacher: images to logits, in the order of the network's classes; None for none.
    """

    class_weights: Tensor | None
    class_offsets: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        precision: Precision,
        label_smoothing: float,
        *,
        config: ObjectiveConfig | None = None,
        class_weights: Tensor | None = None,
        class_offsets: Tensor | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network, self.precision, self.label_smoothing = network, precision, label_smoothing
        self.config = config or ObjectiveConfig()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("class_offsets", class_offsets, persistent=False)
        self.teacher = teacher
        if teacher is not None:  # it does not change, so that processes have nothing to tell each other of it
            names = [name for name, _ in (*self.named_parameters(), *self.named_buffers())]
            ignored = [name for name in names if name.startswith("teacher.")]
            nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, ignored)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of images (N, C, H, W) with classes (N,) or shares of classes (N, num_classes)."""
        logits = logits_of(self.network, images, self.precision)
        loss = self.loss(logits, targets)
        if self.teacher is None:
            return loss
        share = self.config.distillation
        return (1 - share) * loss + share * distillation(logits, self.teacher(images), self.config.temperature)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, num_classes), without the teacher's share."""
        if self.class_offsets is not None:
            logits = logits + self.class_offsets
        if self.config.loss == "cross_entropy":
            return cross_entropy(logits, targets, self.label_smoothing, self.class_weights)
        threshold = self.config.target_threshold
        return binary_cross_entropy(logits, targets, self.label_smoothing, threshold, self.class_weights)


def by_class(config: ObjectiveConfig, counts: np.ndarray) -> dict[str, Tensor]:
    """Return the arguments of an `Objective` that make up for classes of few images.

    Args:
        config: its `balance` is resolved, not "auto".
        counts: training images of each class, (num_classes,).
    """
    if config.balance == "weights":
        return {"class_weights": torch.from_numpy(class_weights(counts))}
    return {"class_offsets": torch.from_numpy(class_offsets(counts))} if config.balance == "logits" else {}


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Return the mean cross entropy.

    The term of each class is multiplied by the weight of the class. Of a mixed image, which is 0.7 one class and 0.3
    another, these are the losses that it has as either, each with its class's weight, in these shares. The sum is
    divided by the number of images, not by the sum of their weights, so that an image counts as much in any batch.

    Args:
        logits: (N, num_classes).
        targets: classes (N,), or shares of classes (N, num_classes).
        label_smoothing: share of the target that is spread over all classes.
        class_weights: (num_classes,); None for 1.
    """
    if class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses_N = F.cross_entropy(logits, targets, class_weights, label_smoothing=label_smoothing, reduction="none")
    return losses_N.mean()


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float, threshold: float | None, class_weights: Tensor | None
) -> Tensor:
    """Return the mean over images and classes of the binary cross entropy of each class by itself.

    The loss of an image, over all classes, is multiplied by the weight of its class; if it is mixed, by the weights of
    its classes in their shares.

    Args:
        logits: (N, num_classes).
        targets: classes (N,), or shares of classes (N, num_classes).
        label_smoothing: share of the target that is spread over all classes.
        threshold: a class whose share is larger is present as a whole, any other is absent; None keeps the shares. The
            smoothing comes after it, as in the paper; in timm's `BinaryCrossEntropy` the threshold undoes it.
        class_weights: (num_classes,); None for 1.

    Source: arXiv:2110.00476, section 3; timm, loss/binary_cross_entropy.py.
    """
    num_classes = logits.shape[1]
    if targets.ndim == 1:
        targets = (targets[:, None] == torch.arange(num_classes, device=targets.device)).to(logits.dtype)
    present = targets if threshold is None else (targets > threshold).to(logits.dtype)
    present = present * (1 - label_smoothing) + label_smoothing / num_classes
    losses_NC = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    if class_weights is None:
        return losses_NC.mean()
    return ((targets @ class_weights) * losses_NC.mean(1)).mean()


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return how far a network's probabilities are from its teacher's, at a temperature.

    This is the Kullback-Leibler divergence, whose gradient falls with the square of the temperature: it is multiplied
    by that, so that the teacher's share of the loss does not depend on the temperature. Class weights do not enter.

    Args:
        logits: (N, num_classes).
        taught: the teacher's logits, likewise.
        temperature: by which both are divided.

    Source: Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.
    """
    own, goal = (F.log_softmax(each / temperature, dim=1) for each in (logits, taught))
    return temperature**2 * F.kl_div(own, goal, reduction="batchmean", log_target=True)


def loss_of(objective: Callable[[Tensor, Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
    """Call an objective; one image whose last map is one pixel leaves BatchNorm nothing to average.

    Raises:
        SenetError: it is such an image.
    """
    try:
        return objective(images, targets)
    except (ValueError, RuntimeError) as error:
        if ONE_VALUE not in str(error):
            raise
        raise SenetError(
            f"a batch of {len(images)} image whose feature maps shrink to one pixel gives BatchNorm nothing to "
            "average; set batch_size to at least 2, or data.preprocessing.image_size to more pixels"
        ) from error
