"""Losses and weights that are not finite: found before they are saved."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from senet.errors import NotFiniteError


def first_not_finite(losses: Sequence[float]) -> int | None:
    """Return the index of the first loss that is infinite or not a number; None if all are finite."""
    return next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), None)


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and statistics of a network are finite."""
    tensors: Iterator[Tensor] = (tensor for tensor in model.state_dict().values() if tensor.is_floating_point())
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())  # one wait for the GPU, not many


def not_finite(what: str, batch: int, epoch: int, lr: float) -> NotFiniteError:
    """Return the error that says what is not finite, and where.

    Args:
        what: and that it is not.
        batch: of the epoch, from 1.
        epoch: from 1.
        lr: the learning rate at that moment.
    """
    return NotFiniteError(f"the {what} at batch {batch} of epoch {epoch} with learning rate {lr:.4g}")
