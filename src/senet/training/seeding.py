"""Randomness as a function of integers, such as seed, epoch and step: a run that goes on needs no random states."""

import random

import numpy as np
import torch

from senet.data.order import seed_of

STEP_STREAM = 1
"""Keeps the random numbers of the steps apart from those of the data loaders, which share seed, epoch and batch."""


def seed_everything(*parts: int, device: torch.device | None = None) -> None:
    """Seed Python, NumPy and PyTorch with a mix of `parts`.

    Args:
        parts: integers, not negative.
        device: where random numbers are drawn besides the CPU; None for everywhere. For a named device this takes 14
            microseconds instead of up to 130, for `torch.manual_seed` looks for devices of every kind.
    """
    seed = seed_of(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # timm's Mixup draws from the global state
    if device is None or device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
