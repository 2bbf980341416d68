"""How well a detector finds objects: COCO's average precision and recall, equal to COCO's own program."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from senet.errors import NotFiniteError, SenetError, needed_for
from senet.nn.modes import eval_mode
from senet.processes import Team

AREAS: Mapping[str, tuple[float, float]] = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
"""Sizes of objects by their area in square pixels, both ends included. Source: pycocotools, `Params.setDetParams`."""
MAX_DETECTIONS = (1, 10, 100)
"""Of an image and class, those of the highest scores: how many count."""
AP50, AP75 = 0, 5
"""Where the intersection over union (IoU) of 0.5 and of 0.75 stand among the ten from 0.5 to 0.95."""

Outputs = Mapping[str, Tensor]
"""What a detector finds in an image: boxes (n, 4), x1 y1 x2 y2 in pixels; labels (n,) from 1; scores (n,) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class BoxFigures:
    """COCO's twelve figures, in %, each a mean over the classes that have objects.

    Args:
        ap: average precision, the mean over the ten IoU from 0.5 to 0.95.
        ap50: at an IoU of 0.5.
        ap75: at an IoU of 0.75.
        ap_small: of objects of up to 32 x 32 pixels; None if there are none, as for the other sizes.
        ap_medium: of up to 96 x 96 pixels.
        ap_large: of more.
        ar1: average recall over the ten IoU, with one detection for an image and class.
        ar10: with ten.
        ar100: with a hundred.
        ar_small: average recall of small objects, with a hundred detections.
        ar_medium: of medium ones.
        ar_large: of large ones.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float
    ar10: float
    ar100: float
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None


@dataclass(frozen=True, kw_only=True)
class ClassFigures:
    """How well a detector finds the objects of one class.

    Args:
        class_name: of the class.
        category_id: its number in the ground truth.
        num_objects: to be found; a crowd is none.
        num_images: that have such objects.
        num_detections: of the class.
        figures: None for a class without objects, which counts in no mean.
    """

    class_name: str
    category_id: int
    num_objects: int
    num_images: int
    num_detections: int
    figures: BoxFigures | None


@dataclass(frozen=True, kw_only=True)
class DetectionEvaluation(BoxFigures):
    """How well a detector finds the objects of a data set.

    Args:
        num_images: evaluated, those without objects among them.
        num_objects: to be found; a crowd is none.
        num_detections: found, right or wrong.
        classes: one by one, in the order of their categories' numbers.
    """

    num_images: int
    num_objects: int
    num_detections: int
    classes: tuple[ClassFigures, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What all figures are means of, for T IoU, R recalls, K classes, A sizes and M numbers of detections.

    Args:
        precision_TRKAM: highest precision at a recall of at least r, in [0, 1]; 0 where none is reached, -1 without
            objects.
        recall_TKAM: highest recall, in [0, 1]; -1 without objects.
        scores_TRKAM: of the detection at which that recall is reached, in [0, 1].
        recalls: the R values, 0, 0.01, ... 1.
    """

    precision_TRKAM: np.ndarray
    recall_TKAM: np.ndarray
    scores_TRKAM: np.ndarray
    recalls: np.ndarray


class EvaluationSplit(Protocol):
    """The images that a detector is evaluated on."""

    @property
    def category_ids(self) -> Sequence[int]:
        """The ground truth's numbers of labels 1, 2, ..."""
        ...

    def ground_truth(self) -> dict[str, Any]:
        """Return the objects in the form of COCO's json."""
        ...


def score_detections(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> DetectionEvaluation:
    """Compute COCO's figures, in float64, equal to pycocotools.

    Args:
        ground_truth: as COCO's json: "images", "annotations" and "categories"; an annotation without "area" has that of
            its box, one without "iscrowd" is no crowd.
        detections: as COCO's results: "image_id", "category_id", "bbox" (x, y, width, height) and "score"; may be none.

    Raises:
        SenetError: the ground truth has no objects, or a detection is of no image or class of it.
        MissingExtraError: faster-coco-eval is not installed.

    Source: https://cocodataset.org/#detection-eval; pycocotools 2.0, `COCOeval`.
    """
    return evaluation_of(ground_truth, detections, curves_of(ground_truth, detections))


def curves_of(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Curves:
    """Compute precision and recall of every class, size and IoU; see `score_detections`."""
    with needed_for("the evaluation of a detector"):
        from faster_coco_eval import COCO, COCOeval_faster
    check_ground_truth(ground_truth)
    check_detections(ground_truth, detections)
    truth = COCO(
        {
            "images": [{"id": image["id"]} for image in ground_truth["images"]],
            "categories": [dict(category) for category in ground_truth["categories"]],
            "annotations": [plain_annotation(each, i + 1) for i, each in enumerate(ground_truth["annotations"])],
        }
    )
    found = truth.loadRes([{key: each[key] for key in RESULT} for each in detections])
    ranges = {name: list(ends) for name, ends in AREAS.items() if name != "all"}
    run = COCOeval_faster(truth, found, "bbox", ranges=ranges, print_function=ignored)
    run.evaluate()
    run.accumulate()
    arrays = {name: np.asarray(run.eval[name]) for name in ("precision", "recall", "scores")}
    return Curves(
        precision_TRKAM=arrays["precision"],
        recall_TKAM=arrays["recall"],
        scores_TRKAM=arrays["scores"],
        recalls=np.asarray(run.params.recThrs),
    )


RESULT = ("image_id", "category_id", "bbox", "score")
"""The keys of a detection in COCO's results."""


def ignored(*_: object) -> None:
    """Print nothing, where another library would print how far it is."""


def plain_annotation(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return what counts of an annotation; its number is at least 1, for COCO's program takes 0 for no match."""
    bbox = annotation["bbox"]
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": list(bbox),
        "area": annotation.get("area", bbox[2] * bbox[3]),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_ground_truth(ground_truth: Mapping[str, Any]) -> None:
    """Raise a SenetError for a ground truth without lists of images, annotations and categories, or without objects."""
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), Sequence):
            raise SenetError(f"ground_truth has no list {key!r}; expected COCO's json: images, annotations, categories")
    if not any(True for _ in objects_of(ground_truth)):
        raise SenetError(
            f"the ground truth of {len(ground_truth['images'])} images has no objects of its "
            f"{len(ground_truth['categories'])} categories; name a split whose images have boxes"
        )


def objects_of(ground_truth: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the annotations that are to be found: no crowds, and none of an image or category that is not listed."""
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    for each in ground_truth["annotations"]:
        if not each.get("iscrowd", 0) and each["image_id"] in images and each["category_id"] in categories:
            yield each


def check_detections(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> None:
    """Raise a SenetError for the first detection that is not of the ground truth's images and categories."""
    images = {image["id"] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    for i, each in enumerate(detections):
        if missing := [key for key in RESULT if key not in each]:
            raise SenetError(f"detection number {i} has no {missing[0]}; expected {', '.join(RESULT)}")
        if each["image_id"] not in images:
            raise SenetError(f"detection number {i} is of image {each['image_id']}, which the ground truth lacks")
        if each["category_id"] not in categories:
            raise SenetError(f"detection number {i} is of category {each['category_id']}, which the ground truth lacks")
        if len(each["bbox"]) != 4 or not all(map(math.isfinite, (*each["bbox"], each["score"]))):
            raise NotFiniteError(
                f"detection number {i} of image {each['image_id']} has the box {list(each['bbox'])} and the score "
                f"{each['score']}; expected finite numbers x, y, width, height and score"
            )


# ---- figures ---------------------------------------------------------------------------------------------------------


def evaluation_of(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], curves: Curves
) -> DetectionEvaluation:
    """Return the figures that the curves of a ground truth and detections amount to."""
    objects = list(objects_of(ground_truth))
    by_class = Counter(each["category_id"] for each in objects)
    images = Counter(category for _, category in {(each["image_id"], each["category_id"]) for each in objects})
    found = Counter(each["category_id"] for each in detections)
    classes = tuple(
        ClassFigures(
            class_name=str(category["name"]),
            category_id=category["id"],
            num_objects=by_class[category["id"]],
            num_images=images[category["id"]],
            num_detections=found[category["id"]],
            figures=BoxFigures(**figures(curves, slice(k, k + 1))) if by_class[category["id"]] else None,
        )
        for k, category in enumerate(sorted(ground_truth["categories"], key=lambda each: each["id"]))
    )
    return DetectionEvaluation(
        **figures(curves, slice(None)),
        num_images=len(ground_truth["images"]),
        num_objects=len(objects),
        num_detections=len(detections),
        classes=classes,
    )


def figures(curves: Curves, classes: slice) -> dict[str, Any]:
    """Return the values of `BoxFigures` over some classes."""
    of_all, of_100 = 0, len(MAX_DETECTIONS) - 1
    precision, recall = curves.precision_TRKAM[:, :, classes], curves.recall_TKAM[:, classes]
    sizes = {size: a for a, size in enumerate(AREAS) if size != "all"}
    return {
        "ap": mean(precision[:, :, :, of_all, of_100]),
        "ap50": mean(precision[AP50, :, :, of_all, of_100]),
        "ap75": mean(precision[AP75, :, :, of_all, of_100]),
        **{f"ap_{size}": mean(precision[:, :, :, a, of_100]) for size, a in sizes.items()},
        **{f"ar{number}": mean(recall[:, :, of_all, m]) for m, number in enumerate(MAX_DETECTIONS)},
        **{f"ar_{size}": mean(recall[:, :, a, of_100]) for size, a in sizes.items()},
    }


def mean(values: np.ndarray) -> float | None:
    """Return the mean in % of the values of classes with objects; None if there are none."""
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else None


# ---- detectors -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate_detector(
    model: nn.Module,
    batches: Iterable[tuple[Sequence[Tensor], Sequence[Mapping[str, Tensor]]]],
    split: EvaluationSplit,
    *,
    forward: Callable[[list[Tensor]], list[Outputs]] | None = None,
    team: Team | None = None,
) -> DetectionEvaluation:
    """Evaluate a detector on the images of a split; its mode is restored.

    Args:
        model: a list of images (C, H, W) in [0, 1] to a list of `Outputs`.
        batches: of this process: images and targets, of which the "image_id" counts. An image that several processes
            get, to fill their batches, counts once. Images of one size are run at once, see `outputs_of`.
        split: whose objects are to be found.
        forward: calls the model, for autocast; None calls the model itself.
        team: processes that share the images; None for this one alone.

    Raises:
        SenetError: the split has no objects, or the detector finds classes that it lacks.
        NotFiniteError: a box or score is not a finite number.
    """
    found = detections_of(model, batches, split.category_ids, forward=forward, team=team)
    return score_detections(split.ground_truth(), found)


@torch.no_grad()
def detections_of(
    model: nn.Module,
    batches: Iterable[tuple[Sequence[Tensor], Sequence[Mapping[str, Tensor]]]],
    category_ids: Sequence[int],
    *,
    forward: Callable[[list[Tensor]], list[Outputs]] | None = None,
    team: Team | None = None,
) -> list[dict[str, Any]]:
    """Run a detector on images, and return what all processes find as COCO's results, sorted by image.

    Args:
        model: see `evaluate_detector`, as are `batches` and `forward`.
        batches: of this process.
        category_ids: the ground truth's numbers of labels 1, 2, ...
        forward: calls the model.
        team: see `evaluate_detector`.
    """
    found: dict[int, list[dict[str, Any]]] = {}
    with eval_mode(model):
        for images, targets in batches:
            if not len(images):  # the last batch, shared by more processes than it has images
                continue
            for target, output in zip(targets, outputs_of(forward or model, images), strict=True):
                image_id = int(target["image_id"])
                found[image_id] = coco_results(image_id, output, category_ids)
    parts = (team or Team()).everyone(found)
    found = {image_id: results for part in reversed(parts) for image_id, results in part.items()}
    return [result for image_id in sorted(found) for result in found[image_id]]


def outputs_of(forward: Callable[[list[Tensor]], list[Outputs]], images: Sequence[Tensor]) -> list[Outputs]:
    """Return what a detector finds in each image, those of one size at once.

    Images of several sizes would be padded to the largest, and an SE block averages over the padding too: what is
    found in an image would depend on the others of its batch.

    Args:
        forward: calls the detector.
        images: (C, H, W) each.
    """
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        by_size[tuple(image.shape)].append(i)
    found: dict[int, Outputs] = {}
    for numbers in by_size.values():
        found.update(zip(numbers, forward([images[i] for i in numbers]), strict=True))
    return [found[i] for i in range(len(images))]


def coco_results(image_id: int, output: Outputs, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return what a detector finds in an image as COCO's results; the widths are computed in float64.

    Raises:
        SenetError: a label is of no category.
    """
    boxes = output["boxes"].double().cpu().numpy()
    labels, scores = output["labels"].tolist(), output["scores"].tolist()
    if labels and not 1 <= min(labels) <= max(labels) <= len(category_ids):
        raise SenetError(
            f"the detector finds label {max(labels)} in image {image_id}, but the data have {len(category_ids)} "
            "classes, 1 to that number; evaluate it on data of its own classes"
        )
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), label, score in zip(boxes.tolist(), labels, scores, strict=True)
    ]
