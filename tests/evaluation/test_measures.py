"""Measures against scikit-learn on the same predictions, and against formulas written out."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics

from senet.evaluation.comparison import report_on
from senet.evaluation.measures import paired_test
from senet.evaluation.scores import Scores

NAMES = tuple("abcdefg")
SHARES = (0.5, 0.2, 0.1, 0.1, 0.07, 0.03, 0.0)  # imbalanced, the last class without images
LABELS = torch.multinomial(torch.tensor(SHARES), 300, True, generator=torch.Generator().manual_seed(0))


def scores(strength=1.0, seed=1, labels=LABELS, names=NAMES):
    logits = torch.randn(len(labels), len(names), generator=torch.Generator().manual_seed(seed))
    logits[torch.arange(len(labels)), labels] += strength
    return Scores(
        name=f"net {seed}", source="x", class_names=names, log_probabilities=logits.log_softmax(1), labels=labels
    )


@pytest.fixture(scope="module")
def report():
    return report_on(scores())


def test_accuracies_are_those_of_scikit_learn(report):
    p, y = scores().log_probabilities.exp().numpy(), LABELS.numpy()
    predicted, found = p.argmax(1), report.evaluation
    assert found.top1 == pytest.approx(100 * metrics.accuracy_score(y, predicted))
    top5 = metrics.top_k_accuracy_score(y, p, k=5, labels=range(7))
    assert found.top5 == pytest.approx(100 * top5)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found.balanced_accuracy == pytest.approx(100 * metrics.balanced_accuracy_score(y, predicted))
    f1 = metrics.f1_score(y, predicted, average="macro", labels=np.unique(y))
    assert found.macro_f1 == pytest.approx(100 * f1)
    assert found.loss == pytest.approx(metrics.log_loss(y, p, labels=range(7)), rel=1e-6)
    assert found.largest_class == pytest.approx(100 * (y == 0).mean())
    assert found.num_classes == 6


def test_class_by_class(report):
    y, predicted = LABELS.numpy(), report.predicted
    assert [each.class_name for each in report.classes] == list(NAMES)
    for k, each in enumerate(report.classes):
        hits = ((y == k) & (predicted == k)).sum()
        assert (each.support, each.predicted) == ((y == k).sum(), (predicted == k).sum())
        assert each.precision == pytest.approx(100 * hits / each.predicted)
        assert each.recall == (pytest.approx(100 * hits / each.support) if each.support else None)
        assert each.f1 == pytest.approx(200 * hits / (each.support + each.predicted))
    assert report.confusion.sum() == 300
    assert report.confusion[0, 1] == ((y == 0) & (predicted == 1)).sum()


def test_classes_that_do_not_occur_are_left_out():
    found = report_on(scores(50.0, names=tuple(map(str, range(40)))))
    assert [each.class_name for each in found.classes] == list("012345")
    assert found.confusion.shape == (6, 6)
    assert found.mistakes == ()


def test_calibration_by_its_formula(report):
    p = scores().log_probabilities.double().exp().numpy()
    confidence, right = p.max(1), p.argmax(1) == LABELS.numpy()
    error, seen = 0.0, 0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
            bin_ = report.bins[seen]
            assert (bin_.low, bin_.high) == (pytest.approx(k / 15), pytest.approx((k + 1) / 15))
            assert bin_.count == inside.sum()
            assert bin_.accuracy == pytest.approx(100 * right[inside].mean())
            seen += 1
    assert report.ece == pytest.approx(100 * error)
    assert seen == len(report.bins)


def test_intervals_of_resamples_by_hand(report):
    y, predicted, rng = LABELS.numpy(), report.predicted, np.random.default_rng(5)
    own = -scores().log_probabilities.numpy()[np.arange(300), y]
    drawn = []
    for _ in range(1000):
        images = np.concatenate([rng.choice(where, len(where)) for where in (np.flatnonzero(y == k) for k in range(6))])
        of, said = y[images], predicted[images]
        recall = [(said[of == k] == k).mean() for k in range(6)]
        f1 = [2 * ((of == k) & (said == k)).sum() / ((of == k).sum() + (said == k).sum()) for k in range(6)]
        drawn.append((100 * np.mean(recall), 100 * np.mean(f1), rng.choice(own, 300).mean()))
    for name, ends, width in zip(
        ("balanced_accuracy", "macro_f1", "loss"),
        np.percentile(drawn, [2.5, 97.5], axis=0).T,
        np.ptp(drawn, axis=0),
        strict=True,
    ):
        assert report.intervals[name] == pytest.approx(tuple(ends), abs=0.08 * width), name
    assert report_on(scores()).intervals == report.intervals  # seeded


def test_the_interval_of_a_share_is_wilson_s(report):
    n, p, z = 300, report.evaluation.top1 / 100, 1.959963985
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    by_hand = tuple(100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    assert report.intervals["top1"] == pytest.approx(by_hand)
    assert report_on(scores(50.0)).intervals["top1"][0] < 99  # also where nothing was wrong


def test_two_networks():
    first, second = report_on(scores()), report_on(scores(1.8, seed=2))
    found = paired_test("a", "b", LABELS.numpy(), first.right, second.right)
    better, worse = (second.right & ~first.right).sum(), (first.right & ~second.right).sum()
    assert (found.only_second_right, found.only_first_right) == (better, worse)
    assert found.p_value == binomtest(int(better), int(better + worse)).pvalue
    assert found.p_value < 0.01
    assert found.top1_difference == pytest.approx(second.evaluation.top1 - first.evaluation.top1)
    change = second.evaluation.balanced_accuracy - first.evaluation.balanced_accuracy
    assert found.balanced_difference == pytest.approx(change)
    assert 0 < found.top1_interval[0] < found.top1_difference < found.top1_interval[1]
    same = paired_test("a", "a", LABELS.numpy(), first.right, first.right)
    assert (same.p_value, same.top1_difference, same.top1_interval) == (1.0, 0.0, (0.0, 0.0))


def test_the_most_confident_mistakes_come_first(report):
    p = scores().log_probabilities.exp().numpy()
    wrong = [i for i in range(300) if p[i].argmax() != LABELS[i]]
    wrong.sort(key=lambda i: -p[i].max())
    assert [mistake.index for mistake in report.mistakes] == wrong[:24]
    first = report.mistakes[0]
    assert first.probability == pytest.approx(p[wrong[0]].max())
    assert first.own_probability == pytest.approx(p[wrong[0], LABELS[wrong[0]]])
    assert first.image == f"image {wrong[0]} of x"


@pytest.mark.parametrize("labels", [[3], [2, 2, 2], [0, 1]], ids=["one image", "one class", "one image a class"])
def test_few_images(labels):
    found = report_on(scores(labels=torch.tensor(labels)))
    assert found.evaluation.num_images == len(labels)
    assert sum(each.count for each in found.bins) == len(labels)
    assert (found.intervals["loss"] is None) == (len(labels) == 1)
    assert (found.intervals["balanced_accuracy"] is None) == (len(labels) < 3)
    found = paired_test("a", "b", found.labels, found.right, ~found.right)
    assert (found.top1_interval is None) == (len(labels) == 1)
    assert (found.balanced_interval is None) == (len(labels) < 3)


def test_a_difference_in_top1_varies_with_the_shares_of_the_classes():
    """Each of two networks knows one class: within the classes nothing varies."""
    labels = np.arange(100) % 4 // 3
    found = paired_test("a", "b", labels, labels == 0, labels == 1)
    assert (found.top1_difference, found.balanced_difference, found.balanced_interval) == (-50.0, 0.0, (0.0, 0.0))
    by_hand = [200 * np.random.default_rng(i).choice(labels, 100).mean() - 100 for i in range(1000)]
    assert found.top1_interval == pytest.approx(np.percentile(by_hand, [2.5, 97.5]), abs=3)
