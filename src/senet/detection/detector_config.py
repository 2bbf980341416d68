"""The configuration of a detector: its kind, its trunk, the sizes of its images, and what of it stays fixed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Annotated, Any, Literal, get_args

from tyro.conf import Fixed, Suppress

from senet.errors import SenetError, check_choice, nearest
from senet.models.description import Surgery
from senet.nn.block import SEOptions

DetectorName = Literal["faster_rcnn", "retinanet"]
Norm = Literal["frozen", "train"]

OF_FASTER_RCNN = ("box_features", "rpn_beta")
"""Fields that have no effect on RetinaNet, which has no second stage."""
NAMES_HERE = {
    "backbone": "trunk",
    "backbone_name": "trunk",
    "conf": "box_score_thresh",
    "image_size": "min_size",
    "imgsz": "min_size",
    "iou": "box_nms_thresh",
    "norm_layer": "norm",
    "pretrained": "weights",
    "trainable_backbone_layers": "frozen_stages (3 trainable layers are 2 frozen stages)",
    "trainable_layers": "frozen_stages (3 trainable layers are 2 frozen stages)",
    "weights_backbone": "weights",
}
"""Arguments of torchvision's functions and of Ultralytics -> this library's names."""
OF_THE_TRANSFORM = ("size_divisible",)
"""Options that torchvision's classes hand on to their transform."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Everything that `build_detector` needs to build a detector again.

    The defaults are the schedule of Detectron's FPN models, which the paper's Table 7 starts from, as far as they are
    the network's.

    Args:
        name: "faster_rcnn" or "retinanet".
        trunk: a network of this library, "timm/NAME" or "torchvision/NAME", with a pyramid of feature maps.
        num_classes: kinds of objects, without the background; None for those of a whole detector's weights.
        se: for a trunk with SE, its SE options; for one without, the blocks that are inserted into it, in those stages
            that are trained: its outputs stay equal at first. None for the paper's, and for none.
        trunk_options: further arguments of the trunk, such as stride_on or stem_pool.
        min_size: length to which the shorter side of an image is scaled, in pixels. Of several, each image in training
            gets one at random, and the last is for evaluation.
        max_size: longest side of a scaled image, in pixels.
        image_mean: of each channel, for values in [0, 1]; None for what the trunk's weights were trained with.
        image_std: likewise.
        frozen_stages: how many stages of the trunk are not trained; 2 for the stem and the first stage after it, 0 for
            none.
        norm: "frozen" makes every BatchNorm of the trunk a fixed affine function; "train" trains them as in
            classification.
        pyramid_channels: of each map of the feature pyramid.
        box_features: hidden units of each layer of Faster R-CNN's second stage.
        anchor_sizes: side of a square anchor on each level, in pixels, the finest first; None for 8 times the level's
            stride in Faster R-CNN, and 4 times in RetinaNet.
        rpn_beta: where the smooth L1 loss of the region proposals turns linear; None for 1/9.
        box_beta: likewise for the boxes; None for 1 in Faster R-CNN and 0.11 in RetinaNet. torchvision has 1/9 in
            Faster R-CNN and 0 (the L1 loss) in RetinaNet.
        options: further arguments of torchvision's `FasterRCNN` or `RetinaNet`, such as box_nms_thresh, by their names
            there.
        surgery: the SE blocks that were inserted into the trunk and removed from it; `build_detector` fills this in.

    Raises:
        SenetError: a value out of its range, an option that torchvision's class does not have, or one without effect.

    Source: Detectron, configs/12_2017_baselines/e2e_faster_rcnn_R-50-FPN_2x.yaml and detectron/core/config.py
        (BBOX_XFORM_WEIGHTS, RPN and RETINANET.BBOX_REG_BETA); Girshick, arXiv:1504.08083, equation 3 (beta 1); Ren et
        al., py-faster-rcnn (sigma 3 in the RPN: beta 1/9).
    """

    name: DetectorName = "faster_rcnn"
    trunk: str = "resnet50"
    num_classes: int | None = None
    se: SEOptions | None = None
    trunk_options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    min_size: tuple[int, ...] = (800,)
    max_size: int = 1333
    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None
    frozen_stages: int = 2
    norm: Norm = "frozen"
    pyramid_channels: int = 256
    box_features: int = 1024
    anchor_sizes: tuple[int, ...] | None = None
    rpn_beta: float | None = None
    box_beta: float | None = None
    options: Mapping[str, bool | int | float] = field(default_factory=dict)
    surgery: Annotated[Surgery, Suppress, Fixed] = field(default_factory=Surgery)

    def __post_init__(self) -> None:
        check_choice("name", self.name, get_args(DetectorName))
        check_choice("norm", self.norm, get_args(Norm))
        lowest = {"num_classes": 1, "frozen_stages": 0, "pyramid_channels": 1, "box_features": 1}
        for argument, low in {**lowest, "rpn_beta": 0, "box_beta": 0}.items():
            value = getattr(self, argument)
            if value is not None and value < low:
                raise SenetError(f"{argument} is {value}; expected at least {low}")
        if not self.min_size or min(self.min_size) < 1 or max(self.min_size) > self.max_size:
            raise SenetError(
                f"min_size is {self.min_size} and max_size {self.max_size}; expected one length or more, in pixels, "
                "each at most max_size"
            )
        if self.anchor_sizes is not None and min(self.anchor_sizes, default=0) < 1:
            raise SenetError(f"anchor_sizes is {self.anchor_sizes}; expected one length for each level, in pixels")
        self.check_normalization()
        self.check_effects()

    def check_normalization(self) -> None:
        """Raise a SenetError for a mean without a standard deviation, or for values that are none of an image's."""
        if (self.image_mean is None) != (self.image_std is None):
            raise SenetError("image_mean and image_std are given one without the other; give both or neither")
        if self.image_mean is None or self.image_std is None:
            return
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise SenetError(
                f"image_mean is {self.image_mean} and image_std {self.image_std}; expected three numbers each, and a "
                "positive image_std"
            )

    def check_effects(self) -> None:
        """Raise a SenetError for a field or an option that the detector does not have."""
        if self.name == "retinanet":
            for each in fields(self):
                if each.name in OF_FASTER_RCNN and getattr(self, each.name) != each.default:
                    raise SenetError(f"{each.name} has no effect on RetinaNet, which has one stage; leave it out")
        if not self.options:
            return
        known = torchvision_options(self.name)
        for option in self.options:
            if option in {each.name for each in fields(self)}:
                raise SenetError(f"options has {option!r}, which is an argument of its own; pass {option}=")
            if option in NAMES_HERE:
                raise SenetError(f"{option} is unknown; here that is {NAMES_HERE[option]}")
            if option not in known:
                raise SenetError(
                    f"options has {option!r}, which torchvision's {class_name(self.name)} does not take; the nearest "
                    f"are {nearest(option, known)}"
                )

    @property
    def smooth_l1(self) -> tuple[float, float]:
        """Where the losses of the region proposals and of the boxes turn linear."""
        published = 1.0 if self.name == "faster_rcnn" else 0.11
        return (
            1 / 9 if self.rpn_beta is None else self.rpn_beta,
            published if self.box_beta is None else self.box_beta,
        )


def class_name(name: DetectorName) -> str:
    """Return the name of torchvision's class of a detector."""
    return {"faster_rcnn": "FasterRCNN", "retinanet": "RetinaNet"}[name]


def torchvision_options(name: DetectorName) -> dict[str, Any]:
    """Return the options of torchvision's class that are plain values, with their defaults."""
    from torchvision.models import detection
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    own = {each.name for each in fields(DetectorConfig)}
    found = {
        option: parameter.default
        for option, parameter in signature(getattr(detection, class_name(name))).parameters.items()
        if isinstance(parameter.default, bool | int | float) and option not in own
    }
    of_transform = signature(GeneralizedRCNNTransform).parameters
    return found | {option: of_transform[option].default for option in OF_THE_TRANSFORM}


def check_frozen(config: DetectorConfig, weights: object) -> None:
    """Raise a SenetError for a detector whose trunk has no weights, and yet is kept as it is in part.

    Args:
        config: of the detector.
        weights: what it starts from; None for nothing.
    """
    if weights is not None or (config.frozen_stages == 0 and config.norm == "train"):
        return
    kept = f"frozen_stages is {config.frozen_stages}" if config.frozen_stages else f"norm is {config.norm!r}"
    raise SenetError(
        f"{kept}, but {config.trunk} has no weights and would be kept at random; pass weights=SOURCE, or "
        "frozen_stages=0 and norm='train' to train all of it"
    )
