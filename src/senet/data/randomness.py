"""The CPU's random generators seeded for a while, and restored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random generators for a while, and restore their states afterwards.

    They are Python's, NumPy's and PyTorch's: timm's augmentations draw from the first two. Otherwise reading images in
    the main process would change what dropout and mixup draw.

    Args:
        seed: not negative.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)  # noqa: NPY002
