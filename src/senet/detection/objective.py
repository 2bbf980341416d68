"""What a training step of a detector computes: the sum of its losses, as one module that is distributed whole."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from senet.nn.precision import DTYPES, Precision


def detected(model: Any, precision: Precision, *arguments: Any) -> Any:
    """Call a detector under autocast if the precision is "bf16" or "fp16".

    Args:
        model: called with `arguments`, the first of which are images.
        precision: of the forward pass, not "auto".
        *arguments: images (C, H, W), and in training their targets.
    """
    dtype = DTYPES[precision]
    device = arguments[0][0].device.type
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        return model(*arguments)


class DetectionObjective(nn.Module):
    """A detector and its loss.

    Args:
        network: images and targets to a dictionary of losses.
        precision: of the forward and backward passes, not "auto".
    """

    def __init__(self, network: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Return the sum of the losses of images (C, H, W) with boxes and labels."""
        losses: dict[str, Tensor] = detected(self.network, self.precision, images, targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()
