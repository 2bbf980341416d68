"""Training with the fused operator, for our networks and for those of timm and torchvision."""

from typing import cast

from torch import nn

from senet.errors import SenetError
from senet.nn.attached import plain_class
from senet.nn.fused import Fusible, is_norm_and_relu, set_fused
from senet.optimization.blocks import FUSED, PLAIN


def optimize_for_training(model: nn.Module, *, fused: bool = True) -> nn.Module:
    """Run BatchNorm, SE, sum and ReLU of every block it knows as one operator, or go back to single layers.

    The model changes in place: no parameter, buffer or key of the state dict does.

    Args:
        model: a network of senet, or a ResNet, ResNeXt or SENet of timm or torchvision.
        fused: False undoes it.

    Returns:
        The model.

    Raises:
        SenetError: no block of the model is known.
    """
    if not isinstance(fused, bool):
        raise SenetError(f"fused is {fused!r}; expected True or False")
    found = set_fused(model, fused)
    for module in model.modules():
        kind = plain_class(module)
        if kind in FUSED and (not isinstance(module, nn.Sequential) or has_pairs(module)):
            found += 1
            if fused:
                module.__class__ = FUSED[kind]
                cast(Fusible, module).fused = True
        elif kind in PLAIN and not fused:
            del cast(Fusible, module).fused
            module.__class__ = PLAIN[kind]
    if not found:
        known = ", ".join(sorted(f"{c.__module__}.{c.__name__}" for c in FUSED if c is not nn.Sequential))
        raise SenetError(f"{type(model).__name__} has no block that can run fused; known are ours and {known}")
    return model


def has_pairs(sequence: nn.Sequential) -> bool:
    """Whether a BatchNorm has a ReLU after it."""
    layers = list(sequence)
    return any(is_norm_and_relu(layers[i : i + 2]) for i in range(len(layers)))
