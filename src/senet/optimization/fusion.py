"""Running BatchNorm, SE, sum and ReLU of a block fused, in networks of this library, timm and torchvision."""

import sys
from collections.abc import Mapping
from typing import cast

from torch import nn

from senet.errors import SenetError
from senet.nn.attached import plain_class
from senet.nn.fused import Fusible, is_norm_and_relu, set_fused
from senet.optimization import blocks


def fused_classes() -> Mapping[type[nn.Module], type[Fusible]]:
    """Return the fused class for each class of blocks, timm's only if timm is imported: else no model has them."""
    if "timm.models" not in sys.modules:
        return blocks.FUSED
    from senet.optimization import timm_blocks

    return {**blocks.FUSED, **timm_blocks.FUSED}


def fuse(model: nn.Module) -> nn.Module:
    """Run BatchNorm, SE, sum and ReLU of every block in few passes over the feature map, forward and backward.

    The model changes in place; its parameters, buffers and state-dict keys do not. Outputs are the same to rounding.
    This library's networks train so by default; `fuse` is for other libraries' networks, and for evaluation mode.

    Cost: on a CPU large feature maps need a C++ compiler, and the first of them compiles for about four seconds.
    Gradients of gradients compute the layers again.

    Args:
        model: a network of this library, or a ResNet, ResNeXt or SENet of timm or torchvision, with inserted blocks or
            without. Layers that cannot be fused (other norms, hooks) run one after another.

    Returns:
        The model.

    Raises:
        SenetError: no block of the model can run fused.

    Source: what it computes is `senet.ops.residual_tail`.

    >>> import senet
    >>> model = fuse(senet.create_model("se_resnet50"))
    """
    found = set_fused(model, True)
    classes = fused_classes()
    for module in model.modules():
        fused_class = classes.get(plain_class(module))
        if fused_class is not None and (not isinstance(module, nn.Sequential) or has_pairs(module)):
            found += 1
            module.__class__ = fused_class
            cast(Fusible, module).fused = True
    check_found(model, found, classes)
    return model


def unfuse(model: nn.Module) -> nn.Module:
    """Run every layer by itself: the opposite of `fuse`.

    Args:
        model: changes in place, as in `fuse`.

    Returns:
        The model.

    Raises:
        SenetError: no block of the model can run fused.

    >>> import senet
    >>> model = unfuse(senet.create_model("se_resnet50"))
    """
    found = set_fused(model, False)
    classes = fused_classes()
    plain_classes = {fused: plain for plain, fused in classes.items()}
    for module in model.modules():
        kind = plain_class(module)
        if kind in plain_classes:
            del cast(Fusible, module).fused
            module.__class__ = plain_classes[kind]
        found += kind in classes and (not isinstance(module, nn.Sequential) or has_pairs(module))
    check_found(model, found, classes)
    return model


def check_found(model: nn.Module, found: int, classes: Mapping[type[nn.Module], type[Fusible]]) -> None:
    """Raise a SenetError if a model has no block that can run fused."""
    if not found:
        known = ", ".join(sorted(f"{c.__module__}.{c.__name__}" for c in classes if c is not nn.Sequential))
        raise SenetError(
            f"{type(model).__name__} has no block that can run fused; known are those of senet.create_model and {known}"
        )


def has_pairs(sequence: nn.Sequential) -> bool:
    """Return whether a sequence has a BatchNorm directly followed by a ReLU."""
    layers = list(sequence)
    return any(is_norm_and_relu(layers[i : i + 2]) for i in range(len(layers)))
