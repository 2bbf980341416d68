"""Classes of different size: what is done about it, and how much an image then counts."""

from typing import Literal

import numpy as np

from senet.errors import SenetError

Balance = Literal["off", "auto", "sampler", "weights"]
Balanced = Literal["off", "sampler", "weights"]
LARGE_RATIO = 1.5
"""From this ratio of the largest class to the smallest on, "auto" balances."""


def resolve_balance(balance: Balance, counts: np.ndarray) -> Balanced:
    """Return what is done about classes of different size.

    Args:
        balance: as configured.
        counts: training images of each class, (C,), all positive.

    Raises:
        SenetError: balancing is asked for, and all classes have the same size.
    """
    if balance == "auto":
        return "sampler" if ratio(counts) >= LARGE_RATIO else "off"
    if balance != "off" and ratio(counts) == 1:
        raise SenetError(f"objective.balance {balance} has no effect on classes of equal size; leave it out")
    return balance


def ratio(counts: np.ndarray) -> float:
    """Return how many times as large as the smallest class the largest is."""
    return float(counts.max() / counts.min())


def balance_note(balance: Balance, counts: np.ndarray) -> str:
    """Return a sentence for the log on what is done about classes of different size; empty if there is nothing to say.

    Args:
        balance: as configured.
        counts: training images of each class, (C,), all positive.
    """
    chosen = resolve_balance(balance, counts)
    why = f"the largest class has {counts.max():,} training images and the smallest {counts.min():,}"
    if chosen == "off":
        return f"classes are not balanced: {why}" if balance == "auto" and ratio(counts) > 1 else ""
    if chosen == "weights":
        return f"{why}: in the loss an image of the smallest counts {ratio(counts):.3g} times one of the largest"
    share = counts.sum() / len(counts)
    return (
        f"{why}: all classes are drawn equally often, so that in an epoch an image of the smallest comes "
        f"{share / counts.min():.3g} times, and one of the largest {share / counts.max():.2g} times"
    )


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Return what an image of each class counts in the loss, float32 (C,): all classes together count the same.

    The mean over the images is 1, so that the learning rate keeps its meaning.

    Args:
        counts: training images of each class, (C,), all positive.
    """
    weights: np.ndarray = (counts.sum() / (len(counts) * counts)).astype(np.float32)
    return weights
