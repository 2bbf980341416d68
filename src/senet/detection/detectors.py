"""Detectors: torchvision's Faster R-CNN and RetinaNet on the trunks of this library, timm and torchvision."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

from torch import nn
from torchvision.models import detection
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from senet.configs import to_dict
from senet.data.preprocessing import Preprocessing
from senet.detection.detector_config import DetectorConfig
from senet.detection.heads import (
    ProposalHead,
    ProposalNetwork,
    RegionHeads,
    RegionPool,
    SingleStageHead,
    build_anchors,
    build_box_head,
    build_box_predictor,
)
from senet.detection.torchvision_weights import load_published, published_detector, with_published
from senet.detection.trunk import (
    Backbone,
    Level,
    NamedMaps,
    PyramidMaps,
    freeze,
    frozen_modules,
    levels_of,
    norm_layers,
    pyramid_levels,
)
from senet.detection.trunk_weights import build_body, without_classifier
from senet.errors import SenetError
from senet.models.description import FORMATS, derive_surgery
from senet.models.hub_methods import HubMethods
from senet.nn.recompute import recompute_blocks
from senet.weights.tensors import DESCRIPTION_KEY

TASK = "detection"


class Detector(HubMethods, nn.Module):
    """What the detectors have in common.

    Called with a list of images (3, H, W) of any size, with values in [0, 1], a detector returns for each a dictionary
    of boxes (n, 4), x1 y1 x2 y2 in pixels of that image, labels (n,), from 1, and scores (n,), the best first. In
    training mode it is called with targets, too, one dictionary for each image (boxes and labels), and returns a
    dictionary of losses, whose sum is trained.

    Attributes:
        config: the configuration from which `build_detector` makes the same detector.
        preprocessing: of the trunk; its mean and standard deviation are used.
        class_names: label k is `class_names[k - 1]`; None until it is trained or loaded.
        frozen: the layers of the trunk that are not trained; they stay in evaluation mode.
    """

    task: ClassVar[str] = TASK
    config: DetectorConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    frozen: tuple[str, ...]
    backbone: Backbone

    @property
    def num_classes(self) -> int:
        """Kinds of objects, without the background."""
        return cast(int, self.config.num_classes)

    def train(self, mode: bool = True) -> "Detector":
        """Set the mode; what is frozen stays in evaluation mode.

        Raises:
            SenetError: training mode, and the detector is optimized for inference.
        """
        if mode and isinstance(self.backbone, NamedMaps):
            raise SenetError("this detector is optimized for inference; train the detector that it was made from")
        super().train(mode)
        for name in self.frozen:
            self.backbone.body.get_submodule(name).training = False
        return self

    def with_maps(self, optimize: Callable[[nn.Module], nn.Module]) -> "Detector":
        """Return a copy for inference, see `optimize_for_inference`.

        Args:
            optimize: makes of a module, which computes the maps of the pyramid from images (N, 3, H, W), one that
                computes the same maps.

        Raises:
            SenetError: it is such a copy.
        """
        if not isinstance(self.backbone, Backbone):
            raise SenetError("this detector is optimized for inference already")
        maps = optimize(PyramidMaps(self.backbone))
        backbone = NamedMaps(maps, self.backbone.names, self.backbone.out_channels)
        fast = copy.deepcopy(self, {id(self.backbone): backbone})
        fast.frozen = ()
        return fast.eval().requires_grad_(False)

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse `torch.jit.script`, which would leave the detector changed halfway.

        Raises:
            SenetError: always.
        """
        raise SenetError(
            f"{type(self).__name__} cannot become TorchScript, which PyTorch has deprecated; torch.compile takes it, "
            "and torch.onnx.export with dynamo=False"
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks of the trunk again in the backward pass instead of keeping their activations.

        Raises:
            SenetError: the trunk has none, so that this would have no effect.
        """
        body: Any = self.backbone.body
        if hasattr(body, "set_grad_checkpointing"):
            body.set_grad_checkpointing(enable)
        elif enable and not recompute_blocks(body):
            raise SenetError(f"{self.config.trunk} is not made of blocks, which could be computed again")


class FasterRCNN(Detector, detection.FasterRCNN):  # type: ignore[misc]  # torchvision has no types
    """Faster R-CNN on a feature pyramid, from `faster_rcnn` or `build_detector`.

    Args:
        config: with all values that depend on the trunk filled in.
        backbone: trunk and pyramid.
        anchor_sizes: of each level of the pyramid, in pixels.

    Source: Ren et al., arXiv:1506.01497; Lin et al., arXiv:1612.03144.
    """

    def __init__(self, config: DetectorConfig, backbone: Backbone, anchor_sizes: Sequence[int]) -> None:
        anchors = build_anchors(anchor_sizes)
        channels, names = backbone.out_channels, [str(i) for i in range(len(backbone.levels))]
        detection.FasterRCNN.__init__(
            self,
            backbone,
            min_size=list(config.min_size),
            max_size=config.max_size,
            image_mean=config.image_mean,
            image_std=config.image_std,
            rpn_anchor_generator=anchors,
            rpn_head=ProposalHead(channels, anchors.num_anchors_per_location()[0]),
            box_roi_pool=RegionPool(names, output_size=7, sampling_ratio=2),
            box_head=build_box_head(channels, config.box_features),
            box_predictor=build_box_predictor(config.box_features, cast(int, config.num_classes)),
            **config.options,
        )
        # torchvision builds these two from its arguments and leaves no place for another class of them.
        self.rpn.__class__, self.roi_heads.__class__ = ProposalNetwork, RegionHeads
        first, second = cast(ProposalNetwork, self.rpn), cast(RegionHeads, self.roi_heads)
        first.beta, second.beta = config.smooth_l1


class RetinaNet(Detector, detection.RetinaNet):  # type: ignore[misc]
    """RetinaNet, from `retinanet` or `build_detector`.

    As published and in torchvision, the level after the last of the trunk's is made of the trunk's map, not of the
    pyramid's.

    Args:
        config: with all values that depend on the trunk filled in.
        backbone: trunk and pyramid.
        anchor_sizes: of each level of the pyramid, in pixels.

    Source: Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002.
    """

    def __init__(self, config: DetectorConfig, backbone: Backbone, anchor_sizes: Sequence[int]) -> None:
        anchors = build_anchors(anchor_sizes, scales=3)
        number, classes = anchors.num_anchors_per_location()[0], cast(int, config.num_classes)
        detection.RetinaNet.__init__(
            self,
            backbone,
            classes + 1,
            min_size=list(config.min_size),
            max_size=config.max_size,
            image_mean=config.image_mean,
            image_std=config.image_std,
            anchor_generator=anchors,
            head=SingleStageHead(backbone.out_channels, number, classes, config.smooth_l1[1]),
            **config.options,
        )


# ---- building --------------------------------------------------------------------------------------------------------


def build_detector(
    config: DetectorConfig,
    *,
    weights: str | Path | None = None,
    layout: str | None = None,
    key: str | None = None,
) -> Detector:
    """Build a detector, in training mode.

    Its `config` is then complete: `build_detector(detector.config)` builds the same one again, at random.

    Args:
        config: what to build; `num_classes` must be given.
        weights: of the trunk, as `create_model` takes them; or of a whole detector of torchvision's, such as
            "torchvision/fasterrcnn_resnet50_fpn.COCO_V1", whose last layers start at random for another number of
            classes. None for random ones.
        layout: of the weights, see `load_weights`.
        key: which of several networks in a file of weights, see `load_weights`.

    Raises:
        SenetError: no such trunk, one that makes no pyramid of feature maps, an option without effect, or weights that
            do not fit.
    """
    published = published_detector(weights)
    if published:
        for argument, value in (("layout", layout), ("key", key)):
            if value is not None:
                raise SenetError(
                    f"{argument}={value!r} has no effect on {weights}, which torchvision loads; leave it out"
                )
        config, weights = with_published(config, published), None
    if config.num_classes is None:
        raise SenetError("num_classes is missing; pass the number of kinds of objects, without the background")
    body, config = build_body(config, weights, layout, key)
    model = assemble_detector(config, body)
    if published:
        load_published(model, published)
    return model


def assemble_detector(config: DetectorConfig, body: nn.Module) -> Detector:
    """Return the detector on a trunk.

    Args:
        config: what to build; its mean and standard deviation are given.
        body: a classification network, which is taken apart.

    Raises:
        SenetError: as `build_detector`.
    """
    two_stages = config.name == "faster_rcnn"
    levels = levels_of(body, config.trunk)
    chosen = pyramid_levels(levels, config.trunk, 4 if two_stages else 3)
    frozen = frozen_modules(body, levels, config.frozen_stages, config.trunk)
    if config.norm == "frozen":
        frozen += [name for name in norm_layers(body) if name not in frozen]
    without_classifier(body, chosen)
    channels = config.pyramid_channels
    extra = LastLevelMaxPool() if two_stages else coarser_levels(chosen[-1], channels)
    backbone = Backbone(body, chosen, channels, extra)
    kind = FasterRCNN if two_stages else RetinaNet
    model = kind(config, backbone, sizes_of_anchors(config, chosen))
    preprocessing: Any = body.preprocessing
    model.config, model.class_names = config, None
    model.preprocessing = replace(preprocessing, mean=config.image_mean, std=config.image_std)
    names = {name for name, _ in body.named_modules()}
    model.frozen = tuple(name for name in frozen if name in names)  # the others went with the classifier
    freeze(body, model.frozen)
    model.register_state_dict_post_hook(describe_state)  # type: ignore[no-untyped-call]
    return model.train()


def coarser_levels(last: Level, channels: int) -> nn.Module:
    """Build the convolutions that make RetinaNet's two coarsest levels of the trunk's last one."""
    extra = LastLevelP6P7(last.channels, channels)
    extra.use_P5 = False  # torchvision's choice for a trunk of as many channels as the pyramid
    return cast(nn.Module, extra)


def sizes_of_anchors(config: DetectorConfig, levels: Sequence[Level]) -> tuple[int, ...]:
    """Return the side of the anchors on each level of the pyramid, those that are added to the trunk's included.

    Raises:
        SenetError: the configuration has another number of sizes.
    """
    strides = [level.stride for level in levels]
    added = 1 if config.name == "faster_rcnn" else 2
    strides += [strides[-1] * 2 ** (i + 1) for i in range(added)]
    if config.anchor_sizes is None:
        return tuple(stride * (8 if config.name == "faster_rcnn" else 4) for stride in strides)
    if len(config.anchor_sizes) != len(strides):
        raise SenetError(
            f"anchor_sizes is {config.anchor_sizes}; expected {len(strides)} lengths, for the levels of stride "
            f"{', '.join(map(str, strides))}"
        )
    return config.anchor_sizes


# ---- description -----------------------------------------------------------------------------------------------------


def config_now(model: Detector) -> DetectorConfig:
    """Return the configuration of a detector with the SE blocks that its trunk has now, see `senet.insert_se`."""
    surgery, own = model.config.surgery, derive_surgery(model.backbone.body)
    return replace(model.config, surgery=replace(own, removed=surgery.removed))


def describe(model: Detector) -> dict[str, Any]:
    """Return the content of config.json for a detector."""
    return {
        "format": FORMATS[-1],
        "task": TASK,
        "detector": to_dict(config_now(model), name="detector"),
        "preprocessing": to_dict(model.preprocessing),
        "class_names": None if model.class_names is None else list(model.class_names),
    }


def describe_state(model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Add the detector's description to a state dict's metadata."""
    if not isinstance(model.backbone, NamedMaps):  # of which no description builds a copy
        metadata[DESCRIPTION_KEY] = json.dumps(describe(cast(Detector, model)))
