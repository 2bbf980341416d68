"""How far rounding alone takes a network in float32: from itself in float64.

A network can amplify rounding by orders of magnitude, as untrained ones do whose activations grow from block to block:
then no other order of the same sums is within a fixed tolerance, and float64 says whether the export is to blame.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

AMPLIFIED = 10.0
"""How many times as far from the original an exported network may be as the original is from itself in float64: other
orders of the same sums differ by that much."""


def rounding_of(model: nn.Module, images: Tensor) -> float | None:
    """Return the largest difference of a network's logits from those that it computes in float64.

    Args:
        model: on the CPU, in evaluation mode; it is copied.
        images: (N, C, H, W).

    Returns:
        None if the network cannot compute in float64, as one that converts to float32 inside.
    """
    exact = deepcopy(model).double()
    try:
        with torch.no_grad():
            return float((exact(images.double()) - model(images)).abs().max())
    except RuntimeError:
        return None
