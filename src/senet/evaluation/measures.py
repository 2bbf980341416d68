"""Measures of predictions: class by class, calibration, confidence intervals, and whether two networks differ."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from senet.errors import needed_for

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

BINS = 15
"""Of the confidence, for calibration; as in arXiv:1706.04599."""
LEVEL = 0.95
"""Of confidence intervals."""
RESAMPLES = 1000
"""Of the bootstrap."""
AT_ONCE = 4_000_000
"""Images of resamples that are in memory at once."""


@dataclass(frozen=True, kw_only=True)
class ClassMeasures:
    """How well a network knows one class.

    Args:
        class_name: its name.
        support: images of it.
        predicted: images that are predicted to be of it.
        precision: of these, the share that is of it, in %; None if there are none.
        recall: of its images, the share that is predicted right, in %; None if there are none.
        f1: 2 right / (support + predicted), in %.
    """

    class_name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """The images whose predicted class has a probability in a range.

    Args:
        low: end of the range, exclusive.
        high: end of the range, inclusive.
        count: images.
        confidence: mean probability of their predicted class, in %.
        accuracy: share of them that are predicted right, in %.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def check_packages() -> None:
    """Raise a MissingExtraError now, before the work, if a package is missing that the measures need."""
    with needed_for("an evaluation in detail"):
        import scipy.stats  # noqa: F401
        import sklearn.metrics  # noqa: F401


def confusion(labels: Ints, predicted: Ints, num_classes: int) -> Ints:
    """Return the counts (C, C): images of the row's class that are predicted to be of the column's."""
    with needed_for("an evaluation in detail"):
        from sklearn.metrics import confusion_matrix

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a single class, which is given here
        counts: Ints = confusion_matrix(labels, predicted, labels=np.arange(num_classes))
    return counts


def by_class(labels: Ints, predicted: Ints, class_names: tuple[str, ...]) -> tuple[ClassMeasures, ...]:
    """Return the measures of each class that has images or predictions."""
    with needed_for("an evaluation in detail"):
        from sklearn.metrics import precision_recall_fscore_support

    places = np.unique(np.concatenate([labels, predicted]))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=places, zero_division=np.nan
    )
    counts = np.bincount(predicted, minlength=len(class_names))

    def percent(value: float) -> float | None:
        return None if np.isnan(value) else 100 * float(value)

    return tuple(
        ClassMeasures(
            class_name=class_names[place],
            support=int(support[i]),
            predicted=int(counts[place]),
            precision=percent(precision[i]),
            recall=percent(recall[i]),
            f1=percent(f1[i]) or 0.0,
        )
        for i, place in enumerate(places.tolist())
    )


def calibration(right: npt.NDArray[np.bool_], confidence: Floats) -> tuple[CalibrationBin, ...]:
    """Return the reliability curve: accuracy against confidence, in `BINS` ranges of equal width that have images.

    Args:
        right: (N,), whether the predicted class is the image's.
        confidence: (N,), the probability of the predicted class.
    """
    with needed_for("an evaluation in detail"):
        from sklearn.calibration import calibration_curve

    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS, strategy="uniform", pos_label=True)
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
    return tuple(
        CalibrationBin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            count=int(counts[place]),
            confidence=100 * float(mean[i]),
            accuracy=100 * float(accuracy[i]),
        )
        for i, place in enumerate(np.flatnonzero(counts).tolist())
    )


def expected_calibration_error(bins: tuple[CalibrationBin, ...]) -> float:
    """Return the mean distance of accuracy and confidence over the images' ranges, in percentage points.

    Source: arXiv:1706.04599, equation 3.
    """
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.accuracy - each.confidence) for each in bins) / total


def share_interval(count: int, total: int) -> Interval:
    """Return Wilson's interval of a share, in %; unlike the bootstrap's it has a width at 0 and 100 %.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    z, share = NormalDist().inv_cdf((1 + LEVEL) / 2), count / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return 100 * max(0.0, center - half), 100 * min(1.0, center + half)


def bootstrap_intervals(labels: Ints, measure: Callable[[Ints], Floats], seed: int = 0) -> tuple[Interval, ...] | None:
    """Return percentile intervals of measures, from resamples of the images of each class.

    The classes keep their numbers of images, so that none is ever without; a class of one image does not vary.

    Args:
        labels: (N,).
        measure: numbers of images (R, N), those of a class together, in the order of the labels -> (M, R).
        seed: of the resamples.

    Returns:
        An interval for each measure; None if no class has two images.
    """
    with needed_for("an evaluation in detail"):
        from scipy.stats import bootstrap

    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    varied = [group for group in groups if len(group) > 1]
    if not varied:
        return None

    def statistic(*samples: Ints, axis: int = -1) -> Floats:
        drawn = iter(samples)
        shape = samples[0].shape[:-1]
        parts = [next(drawn) if len(group) > 1 else np.broadcast_to(group, (*shape, 1)) for group in groups]
        images = np.concatenate(parts, axis=-1).reshape(-1, len(labels))
        return measure(images).reshape(-1, *shape)

    with np.errstate(invalid="ignore"):  # of an infinite loss
        found: Any = bootstrap(
            varied,
            statistic,
            n_resamples=RESAMPLES,
            batch=max(1, AT_ONCE // len(labels)),
            vectorized=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return tuple(zip(found.low.tolist(), found.high.tolist(), strict=True))


def class_starts(labels: Ints) -> Ints:
    """Return where each class begins in the sorted labels, for `np.add.reduceat`."""
    ordered = np.sort(labels)
    return np.concatenate([[0], np.flatnonzero(np.diff(ordered)) + 1])


def mean_over_classes(values: Floats, starts: Ints) -> Floats:
    """Return the mean over the classes of their images' mean: (R, N) -> (R,)."""
    counts = np.diff(starts, append=values.shape[1])
    found: Floats = (np.add.reduceat(values, starts, axis=1) / counts).mean(1)
    return found


def mean_interval(values: Floats) -> Interval | None:
    """Return the interval of the mean of one value for each image, from resamples of all images; None of one image."""
    found = bootstrap_intervals(np.zeros(len(values), np.int64), lambda images: values[images].mean(1)[None])
    return None if found is None else found[0]


def interval_measures(labels: Ints, predicted: Ints, num_classes: int) -> Callable[[Ints], Floats]:
    """Return what measures balanced accuracy and macro F1 of resamples in %, see `bootstrap_intervals`."""
    right, starts = (labels == predicted).astype(np.float64), class_starts(labels)
    present, support = np.unique(labels, return_counts=True)

    def measure(images: Ints) -> Floats:
        hits = right[images]
        offset = num_classes * np.arange(len(images))[:, None]
        drawn = np.bincount((predicted[images] + offset).ravel(), minlength=num_classes * len(images))
        f1 = 2 * np.add.reduceat(hits, starts, axis=1) / (drawn.reshape(len(images), -1)[:, present] + support)
        return 100 * np.stack([mean_over_classes(hits, starts), f1.mean(1)])

    return measure


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Whether a network differs from another on the same images.

    Args:
        first: name of the network that is compared with.
        second: name of the network that is compared.
        only_first_right: images that only the first predicts right.
        only_second_right: images that only the second predicts right.
        p_value: of McNemar's exact test, two-sided: how likely a split at least as uneven is if both are equally good.
        top1_difference: second less first, in percentage points.
        top1_interval: of it, 95 %, by a bootstrap over all images; None of one image.
        balanced_difference: of the balanced accuracies, likewise.
        balanced_interval: of it, by a bootstrap within the classes; None if no class has two images.
    """

    first: str
    second: str
    only_first_right: int
    only_second_right: int
    p_value: float
    top1_difference: float
    top1_interval: Interval | None
    balanced_difference: float
    balanced_interval: Interval | None


def paired_test(
    first: str, second: str, labels: Ints, first_right: npt.NDArray[np.bool_], second_right: npt.NDArray[np.bool_]
) -> PairedTest:
    """Compare two networks on the same images.

    Args:
        first: name of the network to compare with.
        second: name of the network to compare.
        labels: (N,), of the images.
        first_right: (N,), whether the first network predicts an image right.
        second_right: (N,), the same of the second.
    """
    with needed_for("an evaluation in detail"):
        from scipy.stats import binomtest

    better, worse = int((second_right & ~first_right).sum()), int((first_right & ~second_right).sum())
    change = second_right.astype(np.float64) - first_right
    starts = class_starts(labels)

    def measure(images: Ints) -> Floats:
        return 100 * mean_over_classes(change[images], starts)[None]

    balanced = bootstrap_intervals(labels, measure)
    return PairedTest(
        first=first,
        second=second,
        only_first_right=worse,
        only_second_right=better,
        p_value=float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
        top1_difference=100 * float(change.mean()),
        top1_interval=mean_interval(100 * change),
        balanced_difference=float(measure(np.argsort(labels, kind="stable")[None])[0, 0]),
        balanced_interval=None if balanced is None else balanced[0],
    )
