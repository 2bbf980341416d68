"""A detector small enough for tests, by torchvision's parts, with an SE block in its trunk."""

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

import senet


class Trunk(nn.Sequential):
    """A trunk with an SE block."""

    out_channels = 8

    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), senet.SEBlock(8, reduction=2))


def tiny_detector(seed=0, **options):
    torch.manual_seed(seed)
    anchors = AnchorGenerator(sizes=((16, 32),), aspect_ratios=((1.0,),))
    settings = {"min_size": 64, "max_size": 96, "box_score_thresh": 0.0, "box_detections_per_img": 20, **options}
    model = FasterRCNN(Trunk(), num_classes=3, rpn_anchor_generator=anchors, **settings)
    model.class_names = ("cat", "dog")
    with torch.no_grad():  # gates that depend on the picture
        for name, weight in model.backbone[2].named_parameters():
            weight.normal_(0, 3 if "weight" in name else 0.1)
    return model
