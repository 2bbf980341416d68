"""Opening detectors, and telling them from networks that classify."""

from collections.abc import Sequence
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet

from senet.errors import SenetError, counted
from senet.evaluation.batches import open_any
from senet.evaluation.functions import Network, class_names_of, name_of
from senet.files import parse_json
from senet.nn.modes import default_device, device_of
from senet.weights.checkpoint import CONFIG_FILE
from senet.weights.exported import exported_file
from senet.weights.hub import FILES, HUB_ID, Download, is_hub_id
from senet.weights.tensors import read_state

TASK = "detection"
"""What config.json of a run or model folder has under "task" where it is of a detector."""


def detects(source: Any) -> bool:
    """Return whether a network detects objects rather than classifying images.

    Args:
        source: a module; or what names one: a run or model folder or a hub id, whose config.json says it, or a file of
            weights that does. Any other name is of a network that classifies.
    """
    if isinstance(source, nn.Module):
        return is_detector(source) or is_detector(unwrapped(source))
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    if (exported := exported_file(path)) is not None:  # of a part above this one
        return bool(import_module("senet.deployment.loading").detects_objects(exported))
    if path.is_dir():
        return any(says_detection(folder / CONFIG_FILE) for folder in (path, path / "best", path / "last"))
    if path.is_file():
        return path.suffix in FILES and described_as_detector(path)
    match = None if path.exists() or not is_hub_id(str(source)) else HUB_ID.match(str(source))
    if match is None or match["repo"].startswith(("timm/", "torchvision/")):
        return False
    try:
        return says_detection(Download().fetch(match["repo"], CONFIG_FILE, match["revision"]))
    except Exception:  # the client's many errors; whoever opens the network says what is wrong
        return False


def described_as_detector(file: Path) -> bool:
    """Return whether a file of weights describes itself as a detector's."""
    try:
        return bool(parse_json(read_state(file).description or "{}").get("task") == TASK)
    except (SenetError, OSError, ValueError):  # whoever opens the network says what is wrong
        return False


def says_detection(config: Path) -> bool:
    """Return whether a config.json is of a detector; False if it cannot be read."""
    try:
        values = parse_json(config.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("task") == TASK


def is_detector(model: nn.Module) -> bool:
    """Return whether a module is one of torchvision's kind: it resizes and normalizes lists of images itself."""
    return type(getattr(model, "transform", None)).__name__ == "GeneralizedRCNNTransform"


def check_scaled(name: str, size: tuple[int, int], min_sizes: Sequence[int], max_size: int) -> None:
    """Raise a SenetError for an image so long and thin that nothing is left of its shorter side when it is scaled.

    Args:
        name: of the image.
        size: width and height in pixels.
        min_sizes: see `DetectorConfig.min_size`.
        max_size: see `DetectorConfig`.
    """
    short, long = map(np.float32, sorted(size))  # as torchvision computes the scale
    if int(short) * float(min(np.float32(min(min_sizes)) / short, np.float32(max_size) / long)) < 1:
        raise SenetError(
            f"{name} is {size[0]} x {size[1]} pixels, and scaled to at most {max_size} it is less than a pixel thin; "
            "crop it or take it out"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the detector that is the `module` of an average of weights, or of a wrapper for several devices."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) and is_detector(inner) else model


def open_detector(run_or_model: Network, device: torch.device | str | None = None) -> nn.Module:
    """Return a detector itself, or open the one that a run or model folder or hub id means.

    Args:
        run_or_model: a detector, or where it is.
        device: None for where it is; opened by name, for a GPU if there is one. A detector that is elsewhere is copied.

    Raises:
        SenetError: there is none, or it does not detect.
    """
    model = open_any(run_or_model)
    model = model if is_detector(model) else unwrapped(model)
    if not is_detector(model):
        raise SenetError(f"{name_of(run_or_model)} classifies images and finds no boxes; name a run that detects")
    if isinstance(run_or_model, str | Path):
        return model.to(default_device() if device is None else torch.device(device))
    if device is not None and torch.device(device) != device_of(model):
        return deepcopy(model).to(device)
    return model


def names_of_classes(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names of labels 1, 2, ...; None for a detector that has none, such as one built by torchvision.

    Raises:
        SenetError: there are more or fewer than kinds of objects; torchvision's lists name the background too.
    """
    names = class_names_of(model)
    if not names:
        return None
    kinds = kinds_of(model)
    if kinds is None or len(names) == kinds:
        return names
    background = len(names) == kinds + 1 and "background" in names[0].lower()
    remedy = f"leave out {names[0]!r}" if background else "give a name for each"
    raise SenetError(
        f"model.class_names has {counted(len(names), 'name')}, but {type(model).__name__} finds "
        f"{counted(kinds, 'kind')} of objects; {remedy}, for label k is class_names[k - 1]"
    )


def kinds_of(model: nn.Module) -> int | None:
    """Return how many kinds of objects a detector finds, without the background; None if it is of no known kind."""
    detector: Any = model
    if isinstance(model, FasterRCNN):
        outputs = getattr(getattr(detector.roi_heads.box_predictor, "cls_score", None), "out_features", None)
    elif isinstance(model, RetinaNet):
        outputs = detector.head.classification_head.num_classes
    else:
        return None
    return None if outputs is None else outputs - 1
