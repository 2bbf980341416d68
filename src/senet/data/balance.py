"""Classes of different size: what is done about it, and how much an image then counts."""

from typing import Literal

import numpy as np

from senet.errors import SenetError

Balance = Literal["off", "auto", "sampler", "weights", "logits"]
Balanced = Literal["off", "sampler", "weights", "logits"]
LARGE_RATIO = 1.5
"""From this ratio of the largest class to the smallest on, "auto" balances.

Measured (docs/results.md): in 100 to 150 steps on crops of blood cells, without balance 33 % balanced accuracy at a
ratio of 12 and 67 % at 3; with any of the three 96 to 98 %, and which of them it is makes hardly a difference.
"""


def resolve_balance(balance: Balance, counts: np.ndarray, *, softmax: bool = True) -> Balanced:
    """Return what is done about classes of different size.

    Args:
        balance: as configured.
        counts: training images of each class, (C,), all positive.
        softmax: whether the loss compares the logits of the classes, as the cross entropy does; "logits" needs that.

    Raises:
        SenetError: balancing is asked for, and all classes have the same size.
    """
    if balance == "auto":
        best: Balanced = "logits" if softmax else "sampler"  # all three reach about the same
        return best if ratio(counts) >= LARGE_RATIO else "off"
    if balance != "off" and ratio(counts) == 1:
        raise SenetError(f"objective.balance {balance} has no effect on classes of equal size; leave it out")
    return balance


def ratio(counts: np.ndarray) -> float:
    """Return how many times as large as the smallest class the largest is."""
    return float(counts.max() / counts.min())


def balance_note(balance: Balance, counts: np.ndarray, *, softmax: bool = True) -> str:
    """Return a sentence for the log on what is done about classes of different size; empty if there is nothing to say.

    Args:
        balance: as configured.
        counts: training images of each class, (C,), all positive.
        softmax: see `resolve_balance`.
    """
    chosen = resolve_balance(balance, counts, softmax=softmax)
    why = f"the largest class has {counts.max():,} training images and the smallest {counts.min():,}"
    if chosen == "off":
        return f"classes are not balanced: {why}" if balance == "auto" and ratio(counts) > 1 else ""
    if chosen == "weights":
        return f"{why}: in the loss an image of the smallest counts {ratio(counts):.3g} times one of the largest"
    if chosen == "logits":
        return (
            f"{why}: in training the logarithm of each class's share of the images is added to its logits, so that the "
            "network itself prefers none"
        )
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


def class_offsets(counts: np.ndarray) -> np.ndarray:
    """Return what is added to the logits of each class in training, float32 (C,): the logarithm of its share.

    How often a class comes is then known without the network, which learns the rest, and at evaluation, without the
    offsets, prefers no class. Equal classes have 0.

    Args:
        counts: training images of each class, (C,), all positive.

    Source: Menon et al., arXiv:2007.07314, section 4.2, with a temperature of 1; Ren et al., arXiv:2007.10740.
    """
    offsets: np.ndarray = np.log(counts * len(counts) / counts.sum()).astype(np.float32)
    return offsets
