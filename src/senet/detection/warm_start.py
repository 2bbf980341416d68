"""A detector that starts from another one: its weights for other kinds of objects."""

from dataclasses import fields, replace
from typing import Any

import torch

from senet.data.classes import order_of
from senet.detection.detector_config import DetectorConfig
from senet.detection.detectors import Detector, FasterRCNN, build_detector
from senet.detection.torchvision_weights import OF_CLASSES
from senet.errors import SenetError

OF_THE_RUN = ("min_size", "max_size", "frozen_stages", "norm", "rpn_beta", "box_beta", "options")
"""Fields that a run decides; the others are those of the weights, which would not fit otherwise."""


def from_detector(config: DetectorConfig, source: Any, name: str, class_names: tuple[str, ...]) -> Detector:
    """Build a detector for some classes from the weights of another one, in training mode.

    The last layers, which tell classes apart, start at random unless the classes are the same.

    Args:
        config: of the run.
        source: the other detector.
        name: of the other one, for messages.
        class_names: of the data, for labels 1, 2, ...

    Raises:
        SenetError: the weights are of another kind of detector, or of none of this library's.
    """
    if not isinstance(source, Detector):
        raise SenetError(f"weights is {name}, a detector of another library; load its state_dict into build_detector's")
    if source.config.name != config.name:
        raise SenetError(f"weights is {name}, a {source.config.name}, but model.name is {config.name}; set that")
    asked = {each.name: getattr(config, each.name) for each in fields(config) if each.name in OF_THE_RUN}
    model = build_detector(replace(source.config, num_classes=len(class_names), **asked))
    state, own = source.state_dict(), model.state_dict()
    order, two_stages = kept_order(source, class_names), isinstance(model, FasterRCNN)
    for key in filter(OF_CLASSES.match, own):
        state[key] = own[key] if order is None else reordered(state[key], order, two_stages)
    model.load_state_dict(state)
    model.preprocessing = source.preprocessing
    return model


def kept_order(source: Detector, class_names: tuple[str, ...]) -> list[int] | None:
    """Return the place of each class among those of a detector; None if they differ: its last layers are not kept."""
    return None if source.class_names is None else order_of(class_names, source.class_names)


def reordered(tensor: torch.Tensor, order: list[int], by_class: bool) -> torch.Tensor:
    """Return the values of the classes in another order; those of the background, class 0, stay first.

    Args:
        tensor: (classes * k, ...) with `by_class`, else (k * classes, ...); the background is one of the classes.
        order: for each new class the place of the old one, from 0.
        by_class: whether the values of a class lie side by side, as in Faster R-CNN, or those of an anchor, as in
            RetinaNet.
    """
    places = torch.tensor([0, *(place + 1 for place in order)])
    if by_class:
        found: torch.Tensor = tensor.unflatten(0, (len(places), -1))[places]
    else:
        found = tensor.unflatten(0, (-1, len(places)))[:, places]
    return found.flatten(0, 1)
