"""Numbers that describe the gates of a block: how much they vary, whether by class, whether they are saturated."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from senet.analysis.recording import BlockRecord, Recording
from senet.terminal import Table

Verdict = Literal["class-specific", "class-agnostic", "saturated", "constant"]
SATURATED = 0.9
"""Share of gates in the outer tenths of the range from which a block is called saturated."""
SPECIFIC = 0.25
"""Share of the variance between classes from which a block can be called class-specific."""
VISIBLE = 0.025
"""Effect from which a block can be called class-specific: classes one standard deviation to either side are then a
twentieth of the range apart, three times the width of a line in the paper's Figure 6, and visibly separate."""
CONSTANT = 0.01
"""Spread below which a block is called constant."""


@dataclass(frozen=True, kw_only=True)
class BlockStatistics:
    """The numbers that describe the gates of a block.

    Args:
        block: the block's name in the paper's style, such as SE_4_6.
        module: the name of its module.
        mean: see `mean_gate`.
        spread: see `spread`.
        specificity: see `specificity`; None without labels, or with one class.
        effect: see `effect`; likewise.
        agreement: see `agreement`; likewise.
        low: see `share_low`.
        high: see `share_high`.
        verdict: "constant" if the spread is below 0.01; else "saturated" if 0.9 of the gates are in the outer tenths;
            else "class-specific" if the specificity is at least 0.25 and the effect at least 0.025 (much of the
            variation is between classes, and large enough to be seen); else "class-agnostic". None where
            only labels could decide.
    """

    block: str
    module: str
    mean: float
    spread: float
    specificity: float | None
    effect: float | None
    agreement: float | None
    low: float
    high: float
    verdict: Verdict | None


def spread(record: BlockRecord) -> float:
    """Return how much a channel's gate varies from image to image, as a fraction of the gate's range.

    sqrt(mean_c Var_i g_ic) / (high - low), for images i and channels c.
    """
    return float(record.overall_variance.mean().sqrt()) / (record.block.high - record.block.low)


def specificity(record: BlockRecord) -> float | None:
    """Return the share of the gates' variance over images that is between classes; None for fewer than two classes.

    sum_c sum_k n_k (m_kc - m_c)^2 / sum_c sum_i (g_ic - m_c)^2, where m_kc is the mean of channel c over the n_k images
    of class k and m_c over all: eta squared of an analysis of variance, 0 if classes do not differ and 1 if images of a
    class do not. K classes of n images each that differ by chance alone give (K - 1) / (K n - 1).
    """
    between, total = between_classes(record), record.overall_variance
    if between is None:
        return None
    return float(between.sum() / total.sum()) if total.sum() > 0 else 0.0


def effect(record: BlockRecord) -> float | None:
    """Return how much a gate varies from class to class, as a fraction of its range; None for fewer than two classes.

    sqrt(mean_c sum_k n_k (m_kc - m_c)^2 / n) / (high - low), with the letters of `specificity` and n images: the
    standard deviation of the classes' means, which is what is visible in the paper's Figure 6. It is the spread times
    the square root of the specificity, so a large share of almost no variation is a small effect.
    """
    between = between_classes(record)
    return None if between is None else float(between.mean().sqrt()) / (record.block.high - record.block.low)


def between_classes(record: BlockRecord) -> Tensor | None:
    """Return the variance of the classes' means, weighted by images, (C,); None for fewer than two classes."""
    if int((record.count > 0).sum()) < 2:
        return None
    squares = (record.mean - record.overall_mean).square()
    return (record.count[:, None] * squares).sum(0) / record.count.sum()


def agreement(record: BlockRecord) -> float | None:
    """Return how similar the classes' patterns over the channels are; None for fewer than two classes.

    The mean over all pairs of classes k, l of the correlation (Pearson) of (m_k1 ... m_kC) and (m_l1 ... m_lC): 1 if
    all classes have the same pattern up to scale and shift.
    """
    means = record.mean[record.count > 0]
    if len(means) < 2 or means.shape[1] < 2:
        return None
    centered = means - means.mean(1, keepdim=True)
    norms = centered.norm(dim=1)
    if (norms == 0).any():  # a class whose channels are all equal has no pattern
        return None
    unit = centered / norms[:, None]
    k = len(unit)
    return float((unit.sum(0).square().sum() - k) / (k * (k - 1)))


def share_low(record: BlockRecord) -> float:
    """Return the share of gates in the lowest tenth of the gate's range."""
    return tenth(record, 0)


def share_high(record: BlockRecord) -> float:
    """Return the share of gates in the highest tenth of the gate's range."""
    return tenth(record, 9)


def tenth(record: BlockRecord, number: int) -> float:
    """Return the share of gates in one tenth of the gate's range, counted from 0."""
    counts = record.histogram.sum((0, 1), dtype=torch.int64).unflatten(0, (10, -1)).sum(1)
    return float(counts[number] / counts.sum())


def mean_gate(record: BlockRecord) -> float:
    """Return the mean of all gates: over channels and images."""
    return float(record.overall_mean.mean())


def block_statistics(recording: Recording) -> tuple[BlockStatistics, ...]:
    """Return the numbers of every block, in the order of computation."""
    rows = []
    for record in recording.blocks:
        low, high = share_low(record), share_high(record)
        moves, share, moved_by_classes = spread(record), specificity(record), effect(record)
        verdict: Verdict | None = None if share is None else "class-agnostic"
        if moves < CONSTANT:
            verdict = "constant"
        elif low + high >= SATURATED:
            verdict = "saturated"
        elif share is not None and moved_by_classes is not None and share >= SPECIFIC and moved_by_classes >= VISIBLE:
            verdict = "class-specific"
        rows.append(
            BlockStatistics(
                block=record.block.name,
                module=record.block.module,
                mean=mean_gate(record),
                spread=moves,
                specificity=share,
                effect=moved_by_classes,
                agreement=agreement(record),
                low=low,
                high=high,
                verdict=verdict,
            )
        )
    return tuple(rows)


def statistics_table(recording: Recording) -> Table:
    """Return the numbers of all blocks as a table to print."""
    table = Table()
    for heading in ("block", "module", "verdict"):
        table.add_column(heading)
    for heading in ("mean gate", "spread", "specificity", "effect", "agreement", "at the low end", "at the high end"):
        table.add_column(heading, justify="right")
    for of in block_statistics(recording):
        values = (of.mean, of.spread, of.specificity, of.effect, of.agreement, of.low, of.high)
        shown = ["no labels" if value is None else f"{value:.3f}" for value in values]
        table.add_row(of.block, of.module, of.verdict or "no labels", *shown)
    return table


def sampled_channels(channels: int, number: int = 50) -> Tensor:
    """Return `number` channels at equal distances, as the paper's Figure 6 samples them; all if there are fewer."""
    return torch.linspace(0, channels - 1, min(number, channels)).round().long()
