"""Suppression of overlapping boxes as one operator without a branch, which runtimes compute for no boxes too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops
from torchvision.ops import nms


@contextmanager
def without_branches() -> Iterator[None]:
    """Trace torchvision's detectors with `batched_nms` of this module.

    torchvision's own returns early where there are no boxes, which becomes an If in the graph. OpenVINO 2026.4 makes of
    the empty result of an If one number, and returns a box of whatever is in memory for a picture without objects.
    """
    own, box_ops.batched_nms = box_ops.batched_nms, batched_nms
    try:
        yield
    finally:
        box_ops.batched_nms = own


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Return the numbers of the boxes that are kept, the best first, as torchvision's function of this name.

    Boxes of different classes are moved so far apart that they do not overlap. One box more, of no area and with the
    lowest score, is there always, and taken out again.

    Args:
        boxes: (n, 4), corners of at least 0.
        scores: (n,), at least 0.
        idxs: classes (n,), within which boxes are suppressed.
        iou_threshold: overlap above which the box with the lower score goes.
    """
    origin, lowest = boxes.new_zeros(1, 4), scores.new_full((1,), -1.0)
    apart = torch.cat([boxes, origin]).max() + 1
    moved = boxes + (idxs.to(boxes) * apart)[:, None]
    kept: Tensor = nms(torch.cat([moved, origin - 2 * apart]), torch.cat([scores, lowest]), iou_threshold)
    is_given: Tensor = kept < boxes.shape[0]
    return kept[is_given]
