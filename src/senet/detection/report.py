"""All that is told of a detector: COCO's figures, its curves, and what it does from a threshold on the score on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from senet.detection.evaluation import Curves, DetectionEvaluation, curves_of, evaluation_of
from senet.detection.matching import Matches, ThresholdFigures, at_threshold, best_threshold, match_detections
from senet.errors import SenetError

IOU = 0.5
"""Of a detection that counts as right in the report."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionReport:
    """How well a detector finds the objects of a data set, with what is needed to show it.

    Args:
        name: of the detector.
        source: of the images.
        ground_truth: the objects, as COCO's json.
        detections: what was found, as COCO's results.
        evaluation: COCO's figures.
        curves: precision and recall.
        matches: of detections and objects, at an IoU of 0.5.
        overall: precision and recall from the threshold on.
        by_class: likewise for each class, by its category's number.
        picture_of: reads the RGB picture to which an image's boxes refer, by its number; None if there is none.
        model: the detector; None for detections that were saved.
        seconds: that finding them took.
    """

    name: str
    source: str
    ground_truth: Mapping[str, Any]
    detections: Sequence[Mapping[str, Any]]
    evaluation: DetectionEvaluation
    curves: Curves
    matches: Matches
    overall: ThresholdFigures
    by_class: Mapping[int, ThresholdFigures]
    picture_of: Callable[[int], Image.Image] | None = None
    model: nn.Module | None = None
    seconds: float = 0.0

    @property
    def threshold(self) -> float:
        """The lowest score that counts for what is said of single detections."""
        return self.overall.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        found = asdict(self.evaluation)
        for each in found["classes"]:
            each["at_threshold"] = asdict(self.by_class[each["category_id"]])
        return {
            "name": self.name,
            "source": self.source,
            **found,
            "threshold": self.threshold,
            "at_threshold": asdict(self.overall),
            "seconds": round(self.seconds, 3),
        }


def report_on(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    name: str | Path,
    source: str,
    threshold: float | None = None,
    picture_of: Callable[[int], Image.Image] | None = None,
    model: nn.Module | None = None,
    seconds: float = 0.0,
) -> DetectionReport:
    """Return the report on detections.

    Args:
        ground_truth: see `senet.detection.evaluation.score_detections`.
        detections: likewise.
        name: see `DetectionReport`, as are the others.
        source: of the images.
        threshold: the lowest score that counts, 0 to 1; None for the one with the highest F1, see `best_threshold`.
        picture_of: reads a picture.
        model: the detector.
        seconds: that it took.

    Raises:
        SenetError: see `score_detections`; or the threshold is no score.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise SenetError(f"threshold is {threshold}; expected 0 to 1, such as 0.5")
    curves = curves_of(ground_truth, detections)
    matches = match_detections(ground_truth, detections, iou=IOU)
    if threshold is None:
        threshold = best_threshold(ground_truth, detections, matches)
    categories = [category["id"] for category in ground_truth["categories"]]
    return DetectionReport(
        name=str(name),
        source=source,
        ground_truth=ground_truth,
        detections=detections,
        evaluation=evaluation_of(ground_truth, detections, curves),
        curves=curves,
        matches=matches,
        overall=at_threshold(ground_truth, detections, matches, threshold),
        by_class={i: at_threshold(ground_truth, detections, matches, threshold, i) for i in categories},
        picture_of=picture_of,
        model=model,
        seconds=seconds,
    )
