"""Networks on one data set, side by side: their measures in detail, paired tests, and their ensemble."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from senet.data.images import ImageSplit
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.evaluation.accuracy import Evaluation
from senet.evaluation.batches import DataSource
from senet.evaluation.functions import Network
from senet.evaluation.measures import (
    CalibrationBin,
    ClassMeasures,
    Interval,
    Ints,
    PairedTest,
    bootstrap_intervals,
    by_class,
    calibration,
    check_packages,
    confusion,
    expected_calibration_error,
    interval_measures,
    mean_interval,
    paired_test,
    share_interval,
)
from senet.evaluation.outcomes import Outcomes
from senet.evaluation.scores import (
    Scores,
    average_scores,
    check_weights,
    opened_once,
    scored_each,
    unique_names,
)
from senet.nn.precision import Precision

MISTAKES = 24
"""Of which the JSON and the page tell."""
MISLEADING = 10.0
"""Points of top-1 accuracy for nothing from which on the balanced accuracy is told too."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image that is predicted to be of another class.

    Args:
        index: its number in the data set.
        image: its file, or number and data set.
        class_name: its class.
        prediction: the class that is predicted.
        probability: of the prediction, 0 to 1.
        own_probability: of its class, 0 to 1.
    """

    index: int
    image: str
    class_name: str
    prediction: str
    probability: float
    own_probability: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationReport:
    """What is known of a network, or an ensemble, on a data set.

    Args:
        name: of the network.
        source: of the images.
        evaluation: accuracies and loss.
        ece: expected calibration error, in percentage points.
        intervals: 95 % confidence intervals: of "top1" and "top5" Wilson's; of "balanced_accuracy" and "macro_f1" by a
            seeded bootstrap within the classes, None if no class has two images; of "loss" by one over all images.
        bins: the reliability curve.
        classes: the classes that have images or predictions, in the order of the network.
        confusion: (C, C) for these classes: images of the row's class that are predicted to be of the column's.
        mistakes: the most confident ones.
        seconds: that the network took for all images.
        labels: (N,), numbers in `class_names`.
        predicted: (N,), the same of the predictions.
        class_names: of all classes.
        images: one by one; None if the images were given as batches.
        preprocessing: of the images; None likewise.
    """

    name: str
    source: str
    evaluation: Evaluation
    ece: float
    intervals: Mapping[str, Interval | None]
    bins: tuple[CalibrationBin, ...]
    classes: tuple[ClassMeasures, ...]
    confusion: Ints
    mistakes: tuple[Mistake, ...]
    seconds: float
    labels: Ints
    predicted: Ints
    class_names: tuple[str, ...]
    images: ImageSplit | None
    preprocessing: Preprocessing | None

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each image is predicted right, (N,)."""
        return np.equal(self.labels, self.predicted)

    @property
    def is_imbalanced(self) -> bool:
        """Whether always predicting the largest class has a top-1 accuracy that misleads."""
        return is_imbalanced(self.evaluation)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; docs/evaluation.md describes them."""
        return {
            "name": self.name,
            "data": self.source,
            **{key: finite(value) for key, value in asdict(self.evaluation).items()},
            "ece": self.ece,
            "seconds": self.seconds,
            "intervals": {
                key: None if ends is None else list(map(finite, ends)) for key, ends in self.intervals.items()
            },
            "calibration": [asdict(each) for each in self.bins],
            "classes": [asdict(each) for each in self.classes],
            "confusion": self.confusion.tolist(),
            "mistakes": [asdict(each) for each in self.mistakes],
        }


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None for an infinite loss, where a class has no probability at all."""
    return value if math.isfinite(value) else None


def is_imbalanced(evaluation: Evaluation) -> bool:
    """Return whether always predicting the largest class has a top-1 accuracy that misleads.

    That is at least `MISLEADING` points more than it had if all classes had the same number of images.
    """
    return evaluation.largest_class - 100 / evaluation.num_classes >= MISLEADING


def report_on(scores: Scores) -> EvaluationReport:
    """Return all that is known of a network from what it predicts.

    Raises:
        MissingExtraError: scikit-learn or scipy is not installed.
    """
    found = scores.outcomes()
    labels, predicted, evaluation = found.labels, found.predicted, found.evaluation
    right = np.equal(labels, predicted)
    classes = by_class(labels, predicted, scores.class_names)
    places = np.unique(np.concatenate([labels, predicted]))
    bins = calibration(right, found.confidence)
    compact = np.searchsorted(places, labels), np.searchsorted(places, predicted)
    drawn = bootstrap_intervals(labels, interval_measures(*compact, len(places))) or (None, None)
    count = evaluation.num_images
    intervals: dict[str, Interval | None] = {
        name: share_interval(round(share * count / 100), count)
        for name, share in (("top1", evaluation.top1), ("top5", evaluation.top5))
    }
    return EvaluationReport(
        name=scores.name,
        source=scores.source,
        evaluation=evaluation,
        ece=expected_calibration_error(bins),
        intervals=intervals
        | dict(zip(("balanced_accuracy", "macro_f1"), drawn, strict=True))
        | {"loss": mean_interval(-found.own)},
        bins=bins,
        classes=classes,
        confusion=confusion(*compact, len(places)),
        mistakes=mistakes_of(scores, found),
        seconds=found.seconds,
        labels=labels,
        predicted=predicted,
        class_names=scores.class_names,
        images=scores.images,
        preprocessing=scores.preprocessing,
    )


def mistakes_of(scores: Scores, found: Outcomes) -> tuple[Mistake, ...]:
    """Return the most confident mistakes, most confident first.

    Args:
        scores: of the network.
        found: what came of each image.
    """
    wrong = np.flatnonzero(found.labels != found.predicted)
    chosen = wrong[np.argsort(-found.confidence[wrong], kind="stable")][:MISTAKES].tolist()
    return tuple(
        Mistake(
            index=i,
            image=f"image {i} of {scores.source}" if scores.images is None else scores.images.name(i),
            class_name=scores.class_names[found.labels[i]],
            prediction=scores.class_names[found.predicted[i]],
            probability=float(found.confidence[i]),
            own_probability=math.exp(found.own[i]),
        )
        for i in chosen
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Networks on one data set.

    Args:
        reports: one for each network, in the order given.
        ensemble: of all of them; None if none was asked for.
        tests: the first network against each other one, and against the ensemble.
        networks: as they were given.
    """

    reports: tuple[EvaluationReport, ...]
    ensemble: EvaluationReport | None
    tests: tuple[PairedTest, ...]
    networks: tuple[Network, ...]

    @property
    def all_reports(self) -> tuple[EvaluationReport, ...]:
        """The networks' reports, and last that of the ensemble if there is one."""
        return self.reports if self.ensemble is None else (*self.reports, self.ensemble)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; docs/evaluation.md describes them."""
        return {
            "models": [report.to_dict() for report in self.reports],
            "ensemble": None if self.ensemble is None else self.ensemble.to_dict(),
            "tests": [asdict(test) for test in self.tests],
        }


def compare(
    networks: Sequence[Network],
    data: DataSource | None = None,
    *,
    ensemble: bool = False,
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    crop_size: int | None = None,
    resize_sizes: Sequence[int] | None = None,
    ten_crop: bool = False,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
    classes_of_data: bool = False,
    mapping: Mapping[str, str] | str | Path | None = None,
) -> Comparison:
    """Evaluate networks in detail on the same images: measures by class, calibration, intervals, paired tests.

    Each network runs once; inside `shared_work` every process runs it on its share of the images, and returns the whole
    comparison. The probabilities of one network, and their sum for the ensemble, are in memory at a time, of a share:
    8 N C bytes for N images and C classes.

    Args:
        networks: one or several, see `senet.evaluate`.
        data: see `senet.evaluate`.
        ensemble: whether to evaluate their ensemble too.
        weights: of the networks of the ensemble, positive; None for equal ones.
        names: what to call the networks; None for what they were opened from.
        crop_size: see `senet.evaluate`.
        resize_sizes: see `senet.evaluate`.
        ten_crop: see `senet.evaluate`.
        batch_size: see `senet.evaluate`.
        precision: see `senet.evaluate`.
        device: see `senet.evaluate`.
        classes_of_data: see `senet.evaluate`.
        mapping: see `senet.evaluate`.

    Raises:
        SenetError: see `senet.evaluate`; or a package of the extra "report" is missing.
    """
    check_packages()
    networks, data = opened_once(networks, data)
    check_ensemble(ensemble, weights, names, len(networks))
    called = unique_names(networks) if names is None else tuple(names)
    reports: list[EvaluationReport] = []

    def each() -> Iterator[Scores]:
        for found in scored_each(
            networks,
            called,
            data,
            crop_size=crop_size,
            resize_sizes=resize_sizes,
            ten_crop=ten_crop,
            batch_size=batch_size,
            precision=precision,
            device=device,
            classes_of_data=classes_of_data,
            mapping=mapping,
        ):
            reports.append(report_on(found))
            check_same_images(reports[0], reports[-1])
            yield found

    return compared(each(), reports, networks, ensemble, weights)


def compared(
    scores: Iterator[Scores],
    reports: list[EvaluationReport],
    networks: tuple[Network, ...],
    with_ensemble: bool,
    weights: Sequence[float] | None,
) -> Comparison:
    """Return the comparison of networks whose reports are filled while their scores are drawn, see `compare`."""
    whole = None
    if with_ensemble:
        whole = report_on(average_scores(scores, weights))
    else:
        for _ in scores:
            pass
    first, *others = [*reports, *([] if whole is None else [whole])]
    tests = tuple(paired_test(first.name, other.name, first.labels, first.right, other.right) for other in others)
    return Comparison(reports=tuple(reports), ensemble=whole, tests=tests, networks=networks)


def check_ensemble(
    with_ensemble: bool, weights: Sequence[float] | None, names: Sequence[str] | None, count: int
) -> None:
    """Raise a SenetError for options of an ensemble, or names, that do not fit the number of networks."""
    if with_ensemble and count < 2:
        raise SenetError("ensemble needs several networks; name more than one")
    if weights is not None and not with_ensemble:
        raise SenetError("weights has no effect without an ensemble; set ensemble=True too")
    check_weights(weights, count)
    if names is not None and len(set(names)) != count:
        raise SenetError(f"names is {tuple(names)}; expected a different name for each of the {count} networks")


def check_same_images(first: EvaluationReport, other: EvaluationReport) -> None:
    """Raise a SenetError unless two networks were run on the same images, which their classes may number otherwise."""
    own, others = ([r.class_names[k] for k in r.labels] for r in (first, other))
    if own != others:
        raise SenetError(
            f"{other.name} and {first.name} give the images of {first.source} different classes; name the classes of "
            "both networks alike, or compare networks of the same classes"
        )
