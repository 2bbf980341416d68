"""The average precision of two detectors on the same pictures, with intervals from drawing the pictures again."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from senet.detection.evaluation import score_detections
from senet.evaluation.measures import Interval

DRAWS = 100
"""Of the bootstrap: on 50 photos of COCO's 80 classes they take seconds."""
FIGURES = ("ap", "ap50")

Detections = Sequence[Mapping[str, Any]]
"""As COCO's results."""


@dataclass(frozen=True, kw_only=True)
class PairedFigure:
    """A figure of both detectors, in %, with 95 % intervals.

    Args:
        original: of the original.
        exported: of the exported one.
        original_interval: of the original.
        exported_interval: of the exported one.
        difference_interval: of exported less original, on the same pictures.
    """

    original: float
    exported: float
    original_interval: Interval
    exported_interval: Interval
    difference_interval: Interval

    @property
    def difference(self) -> float:
        """Exported less original, in points."""
        return self.exported - self.original


@dataclass(frozen=True, kw_only=True)
class PairedPrecision:
    """COCO's average precision of two detectors on the same pictures.

    Args:
        num_objects: in the pictures.
        ap: the mean over the ten overlaps from 0.5 to 0.95.
        ap50: at an overlap of 0.5.
    """

    num_objects: int
    ap: PairedFigure
    ap50: PairedFigure


def paired_precision(truth: Mapping[str, Any], original: Detections, exported: Detections) -> PairedPrecision:
    """Return the average precision of two detectors, by `senet.detection.evaluation`.

    Args:
        truth: as COCO's json.
        original: what the original finds.
        exported: what the exported one finds.

    Raises:
        SenetError: there are no objects.
        MissingExtraError: faster-coco-eval is not installed.

    Source: B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979; the interval is
    that of the percentiles, and the pictures are what is drawn.
    """
    whole = score_detections(truth, original), score_detections(truth, exported)
    drawn = draws(truth, (original, exported)) if len(truth["images"]) > 1 else []
    found = {}
    for name in FIGURES:
        values = [getattr(each, name) for each in whole]
        pairs = np.array([[getattr(each, name) for each in pair] for pair in drawn]).reshape(-1, 2)
        found[name] = PairedFigure(
            original=values[0],
            exported=values[1],
            original_interval=percentiles(pairs[:, 0]),
            exported_interval=percentiles(pairs[:, 1]),
            difference_interval=percentiles(pairs[:, 1] - pairs[:, 0], whole=(-100.0, 100.0)),
        )
    return PairedPrecision(num_objects=whole[0].num_objects, **found)


def percentiles(values: np.ndarray, whole: Interval = (0.0, 100.0)) -> Interval:
    """Return what 95 % of the values are between; `whole`, which says nothing, if there are no values."""
    if not len(values):
        return whole
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def draws(truth: Mapping[str, Any], detections: tuple[Detections, Detections]) -> list[Any]:
    """Return the evaluations of both detectors on pictures that are drawn with replacement, the same for both."""
    objects = by_image(truth["annotations"])
    found = [by_image(each) for each in detections]
    ids = [image["id"] for image in truth["images"]]
    random, drawn = np.random.default_rng(0), []
    for _ in range(DRAWS):
        chosen = [ids[i] for i in random.integers(0, len(ids), len(ids))]
        annotations = renumbered(objects, chosen)
        if not any(not each.get("iscrowd", 0) for each in annotations):
            continue
        images = [{"id": number} for number in range(len(chosen))]
        own = {"images": images, "annotations": annotations, "categories": truth["categories"]}
        drawn.append([score_detections(own, renumbered(each, chosen)) for each in found])
    return drawn


def by_image(values: Detections) -> dict[int, list[Mapping[str, Any]]]:
    """Return objects or detections by the number of their picture."""
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for each in values:
        found[each["image_id"]].append(each)
    return found


def renumbered(values: Mapping[int, Detections], chosen: Sequence[int]) -> list[dict[str, Any]]:
    """Return the objects or detections of chosen pictures, which get the numbers 0, 1, ..."""
    return [{**each, "image_id": number} for number, image in enumerate(chosen) for each in values.get(image, ())]
