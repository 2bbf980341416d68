"""The CPU's random generators seeded for a while, and restored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def restored() -> Iterator[None]:
    """Restore the states of the CPU's random generators afterwards: Python's, NumPy's and PyTorch's.

    It takes a few tenths of a millisecond, ten times as long as `seed_generators`: once a batch, not for each image.
    """
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def seed_generators(seed: int) -> None:
    """Seed the CPU's random generators: timm's augmentations draw from all three.

    Args:
        seed: not negative.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU's random generators for a while, and restore their states afterwards.

    Args:
        seed: not negative.
    """
    with restored():
        seed_generators(seed)
        yield
