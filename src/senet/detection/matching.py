"""Which detections are right, which objects are found, and from which score on a detection counts best."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from senet.detection.evaluation import MAX_DETECTIONS, objects_of

Outcome = Literal["right", "wrong", "ignored"]
"""Of a detection: of an object; of none; or of a crowd, which is neither."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Which detection is of which object, at one IoU.

    A threshold on the score takes detections away without changing the matches of the others, for each takes its object
    before those of lower scores.

    Args:
        outcomes: of each detection.
        objects: for each detection the number of the annotation that it is of; None unless it is right.
        found: for each annotation the number of the detection that finds it; None if it is missed, or a crowd.
    """

    outcomes: tuple[Outcome, ...]
    objects: tuple[int | None, ...]
    found: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class ThresholdFigures:
    """How detections do of which only those of a score or more count.

    Args:
        threshold: the score.
        precision: share of the detections that are right, in %; None without detections.
        recall: share of the objects that are found, in %; None without objects.
        right: detections of objects.
        wrong: detections of none.
        missed: objects that are not found.
    """

    threshold: float
    precision: float | None
    recall: float | None
    right: int
    wrong: int
    missed: int


def match_detections(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], *, iou: float = 0.5
) -> Matches:
    """Match detections with objects as COCO does: each, highest score first, takes the free object it overlaps most.

    Of the detections of one class in an image the 100 with the highest scores are matched; the others are wrong.

    Args:
        ground_truth: see `senet.detection.evaluation.score_detections`.
        detections: likewise.
        iou: smallest intersection over union of a match, 0 to 1.

    Source: pycocotools 2.0, `COCOeval.evaluateImg`.
    """
    objects: dict[tuple[int, int], list[int]] = defaultdict(list)
    given: dict[tuple[int, int], list[int]] = defaultdict(list)
    annotations = ground_truth["annotations"]
    for i, each in enumerate(annotations):
        objects[each["image_id"], each["category_id"]].append(i)
    for i, each in enumerate(detections):
        given[each["image_id"], each["category_id"]].append(i)
    outcomes: list[Outcome] = ["wrong"] * len(detections)
    taken: list[int | None] = [None] * len(detections)
    found: list[int | None] = [None] * len(annotations)
    for place, numbers in given.items():
        there = objects.get(place, [])
        numbers = sorted(numbers, key=lambda i: -detections[i]["score"])[: MAX_DETECTIONS[-1]]
        crowds = np.array([bool(annotations[j].get("iscrowd", 0)) for j in there], dtype=bool)
        overlaps = overlap([detections[i]["bbox"] for i in numbers], [annotations[j]["bbox"] for j in there], crowds)
        free = ~crowds
        for row, i in zip(overlaps, numbers, strict=True):
            best = best_match(row, free, iou)
            if best is not None:
                outcomes[i], taken[i], found[there[best]] = "right", there[best], i
                free[best] = False
            elif (row[crowds] >= iou).any():
                outcomes[i] = "ignored"
    return Matches(outcomes=tuple(outcomes), objects=tuple(taken), found=tuple(found))


def best_match(overlaps: np.ndarray, free: np.ndarray, iou: float) -> int | None:
    """Return the last of the free objects that are overlapped most, if that is enough; as pycocotools breaks ties."""
    allowed = np.where(free, overlaps, -1.0)
    if not allowed.size or allowed.max() < min(iou, 1 - 1e-10):
        return None
    return int(np.flatnonzero(allowed == allowed.max())[-1])


def overlap(boxes: Sequence[Sequence[float]], others: Sequence[Sequence[float]], crowds: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes (x, y, width, height) with others, (N, M); of a crowd, the share of the box inside it."""
    a, b = (np.array(each, dtype=np.float64).reshape(-1, 4) for each in (boxes, others))
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides.clip(min=0).prod(-1)
    own, other = a[..., 2:].prod(-1), b[..., 2:].prod(-1)
    union = np.where(crowds, own, own + other - common)
    shares: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


# ---- a threshold on the score ----------------------------------------------------------------------------------------


def at_threshold(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    matches: Matches,
    threshold: float,
    category_id: int | None = None,
) -> ThresholdFigures:
    """Return precision and recall when detections of a lower score are left out.

    Args:
        ground_truth: that was matched.
        detections: that were matched.
        matches: of the two.
        threshold: the score.
        category_id: count one class; None for all classes together.
    """
    counted = [
        outcome
        for each, outcome in zip(detections, matches.outcomes, strict=True)
        if each["score"] >= threshold and category_id in (None, each["category_id"])
    ]
    right, wrong = counted.count("right"), counted.count("wrong")
    objects = sum(
        not each.get("iscrowd", 0) and category_id in (None, each["category_id"])
        for each in ground_truth["annotations"]
    )
    return ThresholdFigures(
        threshold=threshold,
        precision=100 * right / (right + wrong) if right + wrong else None,
        recall=100 * right / objects if objects else None,
        right=right,
        wrong=wrong,
        missed=objects - right,
    )


def best_threshold(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], matches: Matches) -> float:
    """Return the score from which on detections have the highest F1 over all objects; 1 if none is right.

    F1 is 2 right / (detections + objects). Of several such scores it is the highest. It is chosen on the images that
    are then looked at: on others precision and recall at it are a little lower.
    """
    counted = [i for i, outcome in enumerate(matches.outcomes) if outcome != "ignored"]
    order = sorted(counted, key=lambda i: -detections[i]["score"])
    scores = np.array([detections[i]["score"] for i in order])
    right = np.cumsum([matches.outcomes[i] == "right" for i in order])
    if not len(order) or not right[-1]:
        return 1.0
    objects = sum(1 for _ in objects_of(ground_truth))
    f1 = 2 * right / (np.arange(1, len(order) + 1) + objects)
    f1[:-1][scores[1:] == scores[:-1]] = 0  # detections of one score count together
    return float(scores[int(f1.argmax())])
