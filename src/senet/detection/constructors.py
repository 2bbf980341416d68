"""`senet.faster_rcnn` and `senet.retinanet`: detectors from a trunk's name and options, as torchvision's functions."""

from pathlib import Path
from typing import Any

from senet.detection.detector_config import DetectorConfig, check_frozen
from senet.detection.detectors import Detector, build_detector
from senet.models.external import tag_of
from senet.nn.block import SEOptions


def faster_rcnn(
    trunk: str = "resnet50",
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    layout: str | None = None,
    key: str | None = None,
    se: SEOptions | None = None,
    trunk_options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Detector:
    """Build Faster R-CNN on a feature pyramid, in training mode.

    Args:
        trunk: a network of this library, "timm/NAME" or "torchvision/NAME"; a tag in such a name loads those weights.
        num_classes: kinds of objects, without the background; None for those of a whole detector's weights.
        weights: see `build_detector`. Without any, nothing may be frozen.
        layout: of the weights, see `load_weights`.
        key: which of several networks in a file of weights, see `load_weights`.
        se: see `DetectorConfig`.
        trunk_options: further arguments of the trunk, such as stride_on.
        **arguments: the other fields of `DetectorConfig`, such as min_size, frozen_stages and norm; and options of
            torchvision's `FasterRCNN`, such as box_nms_thresh.

    Raises:
        SenetError: as `build_detector`.

    >>> import torch
    >>> model = faster_rcnn("cifar_se_resnet20", num_classes=3, frozen_stages=0, norm="train", min_size=(64,))
    >>> sorted(model.eval()([torch.rand(3, 64, 96)])[0])
    ['boxes', 'labels', 'scores']
    """
    config = config_of("faster_rcnn", trunk, num_classes, se, trunk_options, arguments)
    return with_weights(config, weights, layout, key)


def retinanet(
    trunk: str = "resnet50",
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    layout: str | None = None,
    key: str | None = None,
    se: SEOptions | None = None,
    trunk_options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Detector:
    """Build RetinaNet, in training mode.

    Args:
        trunk: see `faster_rcnn`.
        num_classes: see `faster_rcnn`.
        weights: see `faster_rcnn`.
        layout: see `faster_rcnn`.
        key: see `faster_rcnn`.
        se: see `faster_rcnn`.
        trunk_options: see `faster_rcnn`.
        **arguments: the other fields of `DetectorConfig`, and options of torchvision's `RetinaNet`.

    Raises:
        SenetError: as `build_detector`.
    """
    config = config_of("retinanet", trunk, num_classes, se, trunk_options, arguments)
    return with_weights(config, weights, layout, key)


def with_weights(config: DetectorConfig, weights: str | Path | None, layout: str | None, key: str | None) -> Detector:
    """Return a detector with weights, or those that a tag in the name of its trunk means; what is frozen needs some."""
    check_frozen(config, weights or tag_of(config.trunk) or None)
    return build_detector(config, weights=weights, layout=layout, key=key)


def config_of(
    name: Any,
    trunk: str,
    num_classes: int | None,
    se: SEOptions | None,
    trunk_options: dict[str, Any] | None,
    arguments: dict[str, Any],
) -> DetectorConfig:
    """Return the configuration of the arguments of `faster_rcnn` and `retinanet`."""
    own = {key: value for key, value in arguments.items() if key in DetectorConfig.__dataclass_fields__}
    if isinstance(own.get("min_size"), int):
        own["min_size"] = (own["min_size"],)
    options = {**own.pop("options", {}), **{key: value for key, value in arguments.items() if key not in own}}
    options.pop("options", None)
    return DetectorConfig(
        name=name,
        trunk=trunk,
        num_classes=num_classes,
        se=se,
        trunk_options=trunk_options or {},
        options=options,
        **own,
    )
