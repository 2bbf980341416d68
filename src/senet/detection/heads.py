"""torchvision's heads of detectors with the losses and the initialization of Detectron, in single precision."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import (
    RetinaNetClassificationHead,
    RetinaNetHead,
    RetinaNetRegressionHead,
)
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors."""


class Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision has no types
    """Anchors whose coordinates are float32 at least: in bfloat16 those beyond 1024 pixels would be multiples of 8."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Convert the anchors of one position to the type of the maps, or to float32."""
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


def box_loss(predicted: Tensor, wanted: Tensor, beta: float) -> Tensor:
    """Return the sum of the smooth L1 losses of boxes: x**2 / (2 beta) below beta, |x| - beta / 2 beyond."""
    return F.smooth_l1_loss(predicted, wanted, beta=beta, reduction="sum")


# ---- Faster R-CNN ----------------------------------------------------------------------------------------------------


class ProposalHead(RPNHead):  # type: ignore[misc]
    """The convolutions of the region proposals; what they return is float32 also under autocast."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Compute the objectness and the boxes of each anchor on each map."""
        objectness, deltas = super().forward(maps)
        return [single(x) for x in objectness], [single(x) for x in deltas]


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]
    """Region proposals whose box loss turns linear at `beta`, an attribute."""

    beta: float

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of objectness and boxes of a sample of the anchors, 256 of each image by default."""
        positive, negative = (torch.cat(mask) > 0 for mask in self.fg_bg_sampler(labels))
        sampled = torch.cat([torch.where(positive)[0], torch.where(negative)[0]])
        boxes = box_loss(pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], self.beta)
        logits, wanted = objectness.flatten()[sampled], torch.cat(labels)[sampled]
        return F.binary_cross_entropy_with_logits(logits, wanted), boxes / sampled.numel()


class RegionPool(MultiScaleRoIAlign):  # type: ignore[misc]
    """The features of regions, also of maps of fewer bits than the regions have, as in a detector in bfloat16."""

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Compute (regions, C, 7, 7), in the type of the maps."""
        dtype = next(iter(maps.values())).dtype
        found: Tensor
        if boxes[0].dtype == dtype or torch.is_autocast_enabled(boxes[0].device.type):  # which converts by itself
            found = super().forward(maps, boxes, image_shapes)
        else:
            wide = {name: x.to(boxes[0].dtype) for name, x in maps.items()}
            found = super().forward(wide, boxes, image_shapes).to(dtype)
        return found


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """The last layers of the second stage; what they return is float32 also under autocast."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits and the boxes of each region, those of each class."""
        logits, deltas = super().forward(x)
        return single(logits), single(deltas)


class RegionHeads(RoIHeads):  # type: ignore[misc]
    """The second stage of Faster R-CNN, whose box loss turns linear at `beta`, an attribute."""

    beta: float

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return no detections and the losses in training, and the detections and no losses in evaluation."""
        if not self.training:
            found: Any = super().forward(features, proposals, image_shapes, targets)
            return found[0], {}
        proposals, _, of_image, wanted = self.select_training_samples(proposals, targets)
        regions = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, deltas = self.box_predictor(regions)
        labels, positive = torch.cat(of_image), torch.cat(of_image) > 0
        if not len(labels):  # images without boxes and proposals, of which there is no mean
            return [], {"loss_classifier": logits.sum(), "loss_box_reg": deltas.sum()}
        own = deltas.view(len(labels), -1, 4)[positive, labels[positive]]
        boxes = box_loss(own, torch.cat(wanted)[positive], self.beta) / labels.numel()
        return [], {"loss_classifier": F.cross_entropy(logits, labels), "loss_box_reg": boxes}


def build_box_head(channels: int, features: int, side: int = 7) -> nn.Module:
    """Build the two layers of the second stage, initialized as in Detectron.

    Source: Detectron, modeling/fast_rcnn_heads.py, add_roi_2mlp_head (XavierFill of Caffe2: uniform over the fan-in).
    """
    head: nn.Module = TwoMLPHead(channels * side * side, features)
    for layer in head.children():
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    return head


def build_box_predictor(features: int, num_classes: int) -> nn.Module:
    """Build the last layers of the second stage, initialized as published.

    Args:
        features: of a region.
        num_classes: kinds of objects; the background comes on top, as class 0.

    Source: Girshick, arXiv:1504.08083, section 2.3: Gaussians of standard deviation 0.01 and 0.001.
    """
    predictor: nn.Module = BoxPredictor(features, num_classes + 1)
    for name, std in (("cls_score", 0.01), ("bbox_pred", 0.001)):
        layer: Any = predictor.get_submodule(name)
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return predictor


# ---- RetinaNet -------------------------------------------------------------------------------------------------------


class RegressionHead(RetinaNetRegressionHead):  # type: ignore[misc]
    """The boxes of RetinaNet, with a smooth L1 loss that turns linear at `beta`, an attribute."""

    beta: float

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Tensor:
        """Return the mean over the images of the loss of the boxes of anchors that match an object."""
        losses = []
        for target, deltas, own, matches in zip(
            targets, head_outputs["bbox_regression"], anchors, matched_idxs, strict=True
        ):
            positive = matches >= 0
            wanted = self.box_coder.encode_single(target["boxes"][matches[positive]], own[positive])
            losses.append(box_loss(deltas[positive], wanted, self.beta) / positive.sum().clamp(min=1))
        return torch.stack(losses).mean()


class SingleStageHead(RetinaNetHead):  # type: ignore[misc]
    """The heads of RetinaNet; what they return is float32 also under autocast.

    Args:
        channels: of each map of the pyramid.
        anchors: at each position.
        num_classes: kinds of objects; class 0 is never predicted, so that labels start at 1.
        beta: see `RegressionHead`.
    """

    def __init__(self, channels: int, anchors: int, num_classes: int, beta: float) -> None:
        nn.Module.__init__(self)
        self.classification_head = RetinaNetClassificationHead(channels, anchors, num_classes + 1)
        self.regression_head = RegressionHead(channels, anchors)
        self.regression_head.beta = beta

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Compute the logits and the boxes of each anchor on all maps."""
        return {name: single(x) for name, x in super().forward(maps).items()}


def single(x: Tensor) -> Tensor:
    """Return a tensor as float32 if it is of fewer bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- anchors ---------------------------------------------------------------------------------------------------------


def build_anchors(sizes: Sequence[int], *, scales: int = 1) -> Anchors:
    """Build the anchors: three shapes of each size on each level.

    Args:
        sizes: one for each level, in pixels.
        scales: sizes of a level within a factor of 2; RetinaNet has 3.

    Source: Lin et al., arXiv:1612.03144, section 4.1; arXiv:1708.02002, section 4 (three scales).
    """
    of_levels = tuple(tuple(int(size * 2 ** (i / scales)) for i in range(scales)) for size in sizes)
    return Anchors(of_levels, (RATIOS,) * len(of_levels))
