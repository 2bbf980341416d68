"""What a training step computes: the loss of a batch, as one module that is compiled and distributed whole."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn.precision import DTYPES, Precision

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
    """

    def __init__(self, network: nn.Module, precision: Precision, label_smoothing: float) -> None:
        super().__init__()
        self.network, self.precision, self.label_smoothing = network, precision, label_smoothing

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy of images (N, C, H, W) with classes (N,) or shares of classes (N, classes)."""
        logits = logits_of(self.network, images, self.precision)
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)


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
