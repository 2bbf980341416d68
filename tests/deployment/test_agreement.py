"""Intervals of paired accuracies against the bootstrap and SciPy, and what a tolerance lets pass."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from senet.deployment.agreement import Difference, PairedAccuracy, Tolerance, problems
from senet.evaluation.measures import paired_test, share_interval


@pytest.mark.parametrize(("count", "total"), [(0, 7), (7, 7), (1, 1), (8840, 10_000), (3, 10)])
def test_the_interval_of_a_share_is_that_of_scipy(count, total):
    theirs = binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert share_interval(count, total) == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=1e-9)


def paired(right, other_right):
    return PairedAccuracy(
        num_images=len(right),
        both_right=int((right & other_right).sum()),
        only_original_right=int((right & ~other_right).sum()),
        only_exported_right=int((~right & other_right).sum()),
    )


def test_the_interval_of_a_difference_is_near_the_bootstrap_s():
    draw = np.random.default_rng(0)
    right = draw.random(4000) < 0.88
    other = np.where(draw.random(4000) < 0.04, draw.random(4000) < 0.4, right)
    found = paired(right, other)
    expected = paired_test("a", "b", np.zeros(4000, np.int64), right, other)
    assert found.difference == pytest.approx(expected.top1_difference)
    assert found.original == pytest.approx(100 * right.mean())
    assert found.exported == pytest.approx(100 * other.mean())
    assert found.difference_interval == pytest.approx(expected.top1_interval, abs=0.1)
    low, high = found.difference_interval
    assert high - low < 0.6 * sum(b - a for a, b in (found.original_interval, found.exported_interval))


def test_the_interval_of_a_difference_holds_the_truth_of_few_images():
    """Of 60 images the exported network loses 5 points: about 95 of 100 intervals hold that."""
    draw, held = np.random.default_rng(1), 0
    for _ in range(400):
        right = draw.random(60) < 0.8
        other = right & (draw.random(60) < 1 - 0.05 / 0.8)
        low, high = paired(right, other).difference_interval
        held += low <= -5 <= high
    assert 0.92 <= held / 400 <= 0.99


def test_no_image_differs_and_the_interval_still_has_a_width():
    right = np.arange(50) % 10 > 0
    low, high = paired(right, right).difference_interval
    assert low < 0 < high
    all_right = paired(np.ones(50, bool), np.ones(50, bool))
    assert all_right.difference_interval[0] < 0 <= all_right.difference_interval[1]


def counts(lost, gained=0, both=80, total=100):
    return PairedAccuracy(num_images=total, both_right=both, only_original_right=lost, only_exported_right=gained)


SMALL = Difference(largest=1e-6, mean=1e-7, scale=10.0)


@pytest.mark.parametrize(
    ("tolerance", "difference", "agreeing", "accuracy", "said"),
    [
        (Tolerance(relative=1e-6), SMALL, 0, counts(20), ()),
        (Tolerance(relative=1e-8), SMALL, 100, None, ("the largest difference of the logits is 1e-07 of the largest",)),
        (Tolerance(agreement=97), SMALL, 97, None, ()),
        (Tolerance(agreement=97), SMALL, 96, None, ("both predict the same class of 96.00 % of the images",)),
        (Tolerance(accuracy=2), SMALL, 0, counts(5, 3), ()),
        (Tolerance(accuracy=2), SMALL, 0, counts(5, 2), ("the accuracy is 3.00 points lower; 2 points are allowed",)),
        (Tolerance(agreement=99.9, accuracy=0.1), SMALL, 99, counts(1), ()),  # one image may differ
        (Tolerance(), Difference(largest=math.nan, mean=math.nan, scale=1.0), 100, None, ("the exported network's",)),
    ],
)
def test_what_a_tolerance_lets_pass(tolerance, difference, agreeing, accuracy, said):
    found = problems(tolerance, difference, agreeing, 100, accuracy)
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True))
