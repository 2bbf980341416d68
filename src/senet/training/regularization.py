"""What timm brings to a run, if its configuration asks for it: mixed images, and averaged weights."""

from typing import Any

from torch import nn

from senet.errors import needed_for
from senet.training.config import RegularizationConfig


def build_ema(model: nn.Module, decay: float) -> Any:
    """Return an exponential moving average of a network's weights.

    Raises:
        MissingExtraError: timm is not installed.
    """
    with needed_for("regularization.ema_decay"):
        from timm.utils import ModelEmaV3
    return ModelEmaV3(model, decay)


def build_mixup(config: RegularizationConfig, num_classes: int) -> Any:
    """Return what mixes the images of a batch in pairs, and their labels.

    Raises:
        MissingExtraError: timm is not installed.
    """
    with needed_for("regularization.mixup"):
        from timm.data import Mixup
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=num_classes)
