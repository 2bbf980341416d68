"""How detectors are described in their folders, and built again from the description."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from senet.configs import from_dict
from senet.data.preprocessing import Preprocessing
from senet.detection.detector_config import DetectorConfig
from senet.detection.detectors import Detector, build_detector, config_now, describe
from senet.detection.trunk import NamedMaps
from senet.errors import SenetError

__all__ = ["build", "check_readable", "describe", "summary"]


def build(description: Mapping[str, Any]) -> Detector:
    """Build the detector that a config.json describes, with random weights.

    Raises:
        SenetError: it describes none that this version builds.
    """
    config = from_dict(DetectorConfig, description["detector"], name="detector")
    model = build_detector(config)
    model.preprocessing = from_dict(Preprocessing, description["preprocessing"], name="preprocessing")
    names = description["class_names"]
    model.class_names = None if names is None else tuple(names)
    return model


def check_readable(model: Detector) -> None:
    """Raise a SenetError unless what is written of a detector, read back, builds that detector.

    Raises:
        SenetError: it names the first tensor that is of another shape; or the detector is optimized for inference.
    """
    if isinstance(model.backbone, NamedMaps):
        raise SenetError("this detector is optimized for inference; save the detector that it was made from")
    with torch.device("meta"):
        again = build(describe(model)).state_dict()
    own = model.state_dict()
    shapes = [{key: tensor.shape for key, tensor in state.items()} for state in (own, again)]
    differing = [key for key in {**own, **again} if shapes[0].get(key) != shapes[1].get(key)]
    if differing:
        raise SenetError(
            f"{type(model).__name__} cannot be saved: {differing[0]} is not what its config describes; save its "
            "state_dict() by torch.save instead"
        )


def summary(model: Detector) -> str:
    """Return what a detector is, in a few lines."""
    config = config_now(model)
    parameters = sum(parameter.numel() for parameter in nn.Module.parameters(model))
    sides = ", ".join(map(str, config.min_size))
    lines = [
        f"{type(model).__name__} on {config.trunk}: {parameters:,} parameters; {config.num_classes} kinds of objects; "
        f"images scaled to {sides} pixels at the short side, at most {config.max_size} at the long one."
    ]
    if config.surgery.inserted:
        lines.append(
            f"{len(config.surgery.inserted)} SE blocks were inserted into the trunk: {config.surgery.inserted_se}."
        )
    return "\n".join(lines)
