"""What a detector weighs before it selects boxes: each box with its scores, and the limits of selection."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_iou, clip_boxes_to_image

NEAR = 0.3
"""Overlap of a proposal and the box that its second stage makes of it, at least: those that move further are rare."""
MOST = 8000
"""Proposals in the second stage, roughly: 34,000 overlap one of the 100 boxes that an untrained SE-ResNet-50 finds in a
picture of 800 pixels, and would take longer than all else of its export."""
AT_ONCE = 2000
"""Proposals in the second stage at once: 100 MB in a Faster R-CNN with 256 channels."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """By what a detector selects boxes.

    Args:
        score: the lowest, in [0, 1].
        overlap: of two boxes of one class, from which on the one with the lower score is left out.
        number: of boxes of a picture, at most.
        of_level: of pairs of box and class of a level of the pyramid, at most; None where there is no such limit.
    """

    score: float
    overlap: float
    number: int
    of_level: int | None = None


@dataclass(frozen=True, kw_only=True)
class Unselected:
    """All boxes of a picture, A of them, of K classes; class 0 is none.

    Args:
        boxes: (A, K, 4) in pixels of the picture; or (A, 1, 4), the same for all classes.
        scores: (A, K).
        levels: of the pyramid, (A,).
    """

    boxes: Tensor
    scores: Tensor
    levels: Tensor

    def nearest(self, box: Tensor, label: int, score: float) -> tuple[float, float, int]:
        """Return how far the best of the boxes is from a box (4,): its corners, its score; and its level.

        Args:
            box: in pixels.
            label: of its class.
            score: of it; of boxes within a thousandth of a pixel of the nearest, the one with the nearest score counts.
        """
        if label >= self.scores.shape[1] or not len(self.boxes):
            return float("inf"), float("inf"), 0
        own = self.boxes[:, label if self.boxes.shape[1] > 1 else 0]
        corners, scores = (own - box).abs().amax(1), (self.scores[:, label] - score).abs()
        near = corners <= corners.min() + 1e-3
        best = int(scores.where(near, torch.inf).argmin())
        return float(corners[best]), float(scores[best]), int(self.levels[best])


def limits_of(detector: nn.Module) -> Limits | None:
    """Return by what a detector selects; None for a kind that is not known."""
    model: Any = detector
    if isinstance(detector, FasterRCNN):
        heads = model.roi_heads
        return Limits(score=heads.score_thresh, overlap=heads.nms_thresh, number=heads.detections_per_img)
    if isinstance(detector, RetinaNet):
        number, of_level = model.detections_per_img, model.topk_candidates
        return Limits(score=model.score_thresh, overlap=model.nms_thresh, number=number, of_level=of_level)
    return None


def unselected(detector: nn.Module, picture: Tensor, around: Tensor) -> Unselected:
    """Return what a detector weighs before it selects.

    Args:
        detector: one of which `limits_of` knows the limits, in evaluation mode.
        picture: (3, H, W) in [0, 1].
        around: boxes (n, 4); of two stages the second is computed for proposals that overlap one of them, see `MOST`.

    Source: torchvision 0.29, `RetinaNet.postprocess_detections`, `RegionProposalNetwork.forward` and
    `RoIHeads.postprocess_detections`, without their selection.
    """
    model: Any = detector
    images, _ = model.transform([picture])
    found = model.backbone(images.tensors)
    size, old = images.image_sizes[0], tuple(picture.shape[-2:])
    maps = [found] if isinstance(found, Tensor) else list(found.values())
    if isinstance(detector, RetinaNet):
        head = model.head(maps)
        anchors = model.anchor_generator(images, maps)[0]
        boxes = model.box_coder.decode_single(head["bbox_regression"][0], anchors)[:, None]
        scores = head["cls_logits"][0].sigmoid()
        per_cell = model.anchor_generator.num_anchors_per_location()
        levels = levels_of([each.shape[-2] * each.shape[-1] * n for each, n in zip(maps, per_cell, strict=True)])
    else:
        boxes, scores, levels = second_stage(model, images, maps, resize_boxes(around, old, size))
    boxes = clip_boxes_to_image(boxes.reshape(-1, 4), size)
    return Unselected(boxes=resize_boxes(boxes, size, old).reshape(len(scores), -1, 4), scores=scores, levels=levels)


def second_stage(model: Any, images: Any, maps: list[Tensor], around: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and levels of the proposals that overlap one of some boxes, see `unselected`."""
    rpn, heads = model.rpn, model.roi_heads
    objectness, deltas = rpn.head(maps)
    anchors = rpn.anchor_generator(images, maps)
    levels = levels_of([each[0].numel() for each in objectness])
    _, deltas = concat_box_prediction_layers(objectness, deltas)
    proposals = clip_boxes_to_image(rpn.box_coder.decode(deltas, anchors)[:, 0], images.image_sizes[0])
    near = overlapping(around, proposals)
    names = [str(i) for i in range(len(maps))] if len(maps) > 1 else list(heads.box_roi_pool.featmap_names)[:1]
    named = dict(zip(names, maps, strict=True))
    boxes, scores = [], []
    for part in proposals[near].split(AT_ONCE):
        of_boxes = heads.box_head(heads.box_roi_pool(named, [part], images.image_sizes))
        logits, regression = heads.box_predictor(of_boxes)
        boxes.append(heads.box_coder.decode(regression, [part]))
        scores.append(logits.softmax(-1))
    return torch.cat(boxes), torch.cat(scores), levels[near]


def overlapping(around: Tensor, proposals: Tensor) -> Tensor:
    """Return which proposals (A, 4) overlap one of some boxes (n, 4): of more than `MOST` the best of each box."""
    overlap: Tensor = box_iou(around, proposals)
    near: Tensor = (overlap >= NEAR).any(0)
    if int(near.sum()) > MOST:
        best = overlap.topk(min(len(proposals), -(-MOST // len(around))), dim=1).indices
        near &= torch.zeros_like(near).index_fill(0, best.flatten(), True)
    return near


def levels_of(numbers: list[int]) -> Tensor:
    """Return the level of each of so many boxes of each level, (A,)."""
    return torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers))
