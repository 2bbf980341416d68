"""Weights of whole detectors that torchvision publishes, in detectors of this library: the same boxes."""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from senet.detection.detector_config import DetectorConfig, DetectorName
from senet.errors import HubError, SenetError, nearest
from senet.models.catalog import model_card
from senet.models.from_torchvision import output_kept_clean
from senet.weights.fitting import check_fit, keep_inserted, plain_state

logger = logging.getLogger(__name__)

TRUNK = "resnet50"
DETECTORS: Mapping[str, DetectorName] = MappingProxyType(
    {"fasterrcnn_resnet50_fpn": "faster_rcnn", "retinanet_resnet50_fpn": "retinanet"}
)
"""torchvision's names of the detectors that are built here too."""
OF_CLASSES = re.compile(r"^(roi_heads\.box_predictor|head\.classification_head\.cls_logits)\.")
"""The tensors of the last layers, which tell classes apart."""
RENAMED = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)
"""Names of the first versions of torchvision's modules, which the published files have, and those of today."""
IN_A_ROW = re.compile(r"^(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$")
"""Likewise in RetinaNet, where every second module was a ReLU."""


def published_detector(weights: str | Path | None) -> str:
    """Return the part of "torchvision/NAME.TAG" after the slash if NAME is a detector there; else an empty text.

    Raises:
        SenetError: it is none of those that are built here, or has no such tag.
    """
    word = str(weights)
    name, _, tag = word.removeprefix("torchvision/").partition(".")
    known = models.list_models(module=models.detection)
    if not word.startswith("torchvision/") or name not in known or Path(word).exists():
        return ""
    if name not in DETECTORS:
        raise SenetError(f"weights is {word!r}; of torchvision's detectors only {' and '.join(DETECTORS)} are read")
    tags = [*models.get_model_weights(name).__members__]
    if tag and tag not in tags:
        raise SenetError(f"torchvision has no weights {tag!r} of {name}; the nearest are {nearest(tag, tags)}")
    return word.removeprefix("torchvision/")


def with_published(config: DetectorConfig, published: str) -> DetectorConfig:
    """Return the configuration of a detector for published weights: the trunk's options, and the number of classes.

    Args:
        config: what is asked for.
        published: from `published_detector`.

    Raises:
        SenetError: the weights are of another detector than what is asked for.
    """
    name, weights = published.partition(".")[0], weights_of(published)
    for argument, own, asked in (
        ("name", (DETECTORS[name],), config.name),
        ("trunk", (TRUNK, f"torchvision/{TRUNK}"), config.trunk),
    ):
        if asked not in own:
            raise SenetError(f"weights is torchvision/{published}, but {argument} is {asked!r}; expected {own[0]!r}")
    needed: Mapping[str, Any] = model_card(TRUNK).torchvision_options if config.trunk == TRUNK else {}
    for option, value in needed.items():
        if config.trunk_options.get(option, value) != value:
            raise SenetError(f"torchvision/{published} has weights for {option}={value!r}; leave {option} out")
    number = len(weights.meta["categories"]) - 1
    return replace(
        config,
        num_classes=number if config.num_classes is None else config.num_classes,
        trunk_options={**config.trunk_options, **needed},
        image_mean=config.image_mean or (0.485, 0.456, 0.406),
        image_std=config.image_std or (0.229, 0.224, 0.225),
    )


def weights_of(published: str) -> Any:
    """Return torchvision's description of published weights."""
    name, _, tag = published.partition(".")
    return models.get_model_weights(name)[tag or "DEFAULT"]


@torch.no_grad()
def load_published(model: nn.Module, published: str) -> None:
    """Load published weights into a detector, and the names of their classes.

    For another number of classes the last layers keep their random values. torchvision runs the published weights with
    eps 0 in every BatchNorm; that is multiplied into the weights of these layers, whose eps stays 1e-5.

    Args:
        model: from `assemble_detector`, with the configuration of `with_published`.
        published: from `published_detector`.

    Raises:
        HubError: torchvision's server cannot be reached.
        SenetError: they do not fit.

    Source: torchvision 0.26, models/detection/faster_rcnn.py and retinanet.py (overwrite_eps).
    """
    source, weights = f"torchvision/{published}", weights_of(published)
    try:
        with output_kept_clean():
            tensors = dict(weights.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise HubError(f"{source} cannot be fetched ({error}); check the connection and try again later") from error
    own, about = model.state_dict(), model
    state, _ = plain_state({renamed(key): tensor for key, tensor in tensors.items()}, own, source)
    keep_inserted(state, model)
    other = [key for key in own if OF_CLASSES.match(key) and key in state and state[key].shape != own[key].shape]
    for key in [key for key in own if OF_CLASSES.match(key)] if other else []:
        state[key] = own[key]
    check_fit(state, own, source)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            state[f"{name}.weight"] = without_eps(state[f"{name}.weight"], state[f"{name}.running_var"], layer.eps)
    model.load_state_dict(state)
    if other:
        logger.info("%s: the last layers start at random, for other classes", source)
    else:
        about.class_names = tuple(weights.meta["categories"][1:])  # type: ignore[assignment]


def renamed(key: str) -> str:
    """Return today's name of a tensor of torchvision's detectors."""
    for pattern, name in RENAMED:
        key = pattern.sub(name, key)
    return IN_A_ROW.sub(lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}", key)


def without_eps(weight: Tensor, var: Tensor, eps: float) -> Tensor:
    """Return the weight with which a BatchNorm of some eps computes what it would with the given one and eps 0."""
    return (weight.double() * ((var.double() + eps) / var.double()).sqrt()).to(weight.dtype)
