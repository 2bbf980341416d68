"""How far an exported network is from its original: logits, classes and accuracy, and how far it may be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from senet.deployment.rounding import AMPLIFIED
from senet.evaluation.measures import Interval, share_interval


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the logits of two networks are apart.

    Args:
        largest: absolute difference over all images and classes.
        mean: absolute difference, likewise.
        scale: the largest absolute logit of the original.
        rounding: how far the original is from itself in float64 on the pictures of the largest difference, absolute;
            None if that was not measured, for the difference is within the tolerance.
    """

    largest: float
    mean: float
    scale: float
    rounding: float | None = None

    @property
    def relative_largest(self) -> float:
        """The largest difference as a share of the largest logit."""
        return self.largest / self.scale if self.scale else self.largest

    @property
    def relative_mean(self) -> float:
        """The mean difference as a share of the largest logit."""
        return self.mean / self.scale if self.scale else self.mean

    @property
    def is_rounding(self) -> bool:
        """Whether rounding alone explains the largest difference, although it is beyond the tolerance."""
        return self.rounding is not None and self.largest <= AMPLIFIED * self.rounding


@dataclass(frozen=True, kw_only=True)
class PairedAccuracy:
    """The top-1 accuracy of two networks on the same images, in %, with 95 % confidence intervals.

    Args:
        num_images: with labels.
        both_right: images that both predict right.
        only_original_right: images that only the original predicts right.
        only_exported_right: images that only the exported network predicts right.
    """

    num_images: int
    both_right: int
    only_original_right: int
    only_exported_right: int

    @property
    def original(self) -> float:
        """Accuracy of the original, in %."""
        return 100 * (self.both_right + self.only_original_right) / self.num_images

    @property
    def exported(self) -> float:
        """Accuracy of the exported network, in %."""
        return 100 * (self.both_right + self.only_exported_right) / self.num_images

    @property
    def difference(self) -> float:
        """Exported less original, in percentage points."""
        return 100 * (self.only_exported_right - self.only_original_right) / self.num_images

    @property
    def original_interval(self) -> Interval:
        """Wilson's interval of the original's accuracy."""
        return share_interval(self.both_right + self.only_original_right, self.num_images)

    @property
    def exported_interval(self) -> Interval:
        """Wilson's interval of the exported network's accuracy."""
        return share_interval(self.both_right + self.only_exported_right, self.num_images)

    @property
    def difference_interval(self) -> Interval:
        """Interval of the difference of two shares of the same images.

        Source: R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on
        paired data, Statistics in Medicine 17, 1998, method 10: the two Wilson intervals, squared and added, less what
        the two shares have in common. Unlike the bootstrap's it has a width where no image differs.
        """
        both, gained, lost = self.both_right, self.only_exported_right, self.only_original_right
        neither = self.num_images - both - gained - lost
        product, step = float(both * neither - gained * lost), self.num_images / 2
        product = product - step if product > step else min(product, 0.0)
        sides = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
        common = product / math.sqrt(sides) if sides else 0.0
        (low, high), (own_low, own_high) = self.exported_interval, self.original_interval
        below = combined(self.exported - low, own_high - self.original, common)
        above = combined(high - self.exported, self.original - own_low, common)
        return self.difference - below, self.difference + above


def combined(one: float, other: float, common: float) -> float:
    """Return the length of the difference of two deviations that are correlated."""
    return math.sqrt(max(0.0, one**2 - 2 * common * one * other + other**2))


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far an exported network may be from its original.

    Args:
        relative: the largest difference of the logits, as a share of the largest logit; None for any.
        agreement: the least share of the images of which both predict the same class, in %; None for any.
        accuracy: the most top-1 accuracy that may be lost, in percentage points; None for any.
    """

    relative: float | None = None
    agreement: float | None = None
    accuracy: float | None = None


TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "fp32": Tolerance(relative=1e-4),
        "fp16": Tolerance(relative=0.02, agreement=98.0, accuracy=0.5),
        "bf16": Tolerance(relative=0.1, agreement=97.0, accuracy=0.5),
        "int8_weights": Tolerance(agreement=90.0, accuracy=1.0),
        "int8": Tolerance(agreement=90.0, accuracy=1.0),
    }
)
"""By precision. Of float32 only rounding may differ."""


def problems(
    tolerance: Tolerance, difference: Difference, agreeing: int, num_images: int, accuracy: PairedAccuracy | None
) -> tuple[str, ...]:
    """Return what is beyond the tolerance, a sentence each; none if all is within it.

    One image may always differ, for of few images one is more than any share that is allowed.

    Args:
        tolerance: what is allowed.
        difference: of the logits.
        agreeing: images of which both predict the same class.
        num_images: of all.
        accuracy: of both; None if it is not known.
    """
    found = []
    if not math.isfinite(difference.largest):
        found.append("the exported network's outputs are not finite numbers")
    elif is_beyond(tolerance, difference) and not difference.is_rounding:
        found.append(
            f"the largest difference of the logits is {difference.relative_largest:.2g} of the largest logit; "
            f"{tolerance.relative:.2g} is allowed"
        )
    if tolerance.agreement is not None and num_images - agreeing > allowed(100 - tolerance.agreement, num_images):
        share = 100 * agreeing / num_images
        found.append(f"both predict the same class of {share:.2f} % of the images; expected {tolerance.agreement:g} %")
    if tolerance.accuracy is not None and accuracy is not None:
        lost = accuracy.only_original_right - accuracy.only_exported_right
        if lost > allowed(tolerance.accuracy, accuracy.num_images):
            found.append(
                f"the accuracy is {-accuracy.difference:.2f} points lower; {tolerance.accuracy:g} points are allowed"
            )
    return tuple(found)


def is_beyond(tolerance: Tolerance, difference: Difference) -> bool:
    """Return whether the logits are further apart than a tolerance allows, whatever the reason."""
    return tolerance.relative is not None and difference.relative_largest > tolerance.relative


def allowed(percent: float, num_images: int) -> float:
    """Return how many images may differ."""
    return max(1.0, percent * num_images / 100 + 1e-9)
