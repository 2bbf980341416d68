"""How the networks start, and which SE options they take."""

import math
from collections.abc import Sequence
from typing import get_args

from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn.block import Placement, SEOptions
from senet.nn.excitation import ExcitationBlock


def build_classifier(in_features: int, num_classes: int) -> nn.Module:
    """Build the last linear layer; an identity for no classes."""
    return nn.Linear(in_features, num_classes) if num_classes else nn.Identity()


def initialize(model: nn.Module) -> None:
    """Initialize convolutions with He's method over the fan-out, linear layers with N(0, 0.01).

    The fan-out is that of a group: over all channels, what depthwise convolutions put out would fade from layer to
    layer. SE blocks initialize themselves.
    """
    inside_se = {id(m) for block in model.modules() if isinstance(block, ExcitationBlock) for m in block.modules()}
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and id(module) not in inside_se:
            fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def convert_input(weight: Tensor, channels: int) -> Tensor:
    """Return the weight of a first convolution (F, C, k, k) for another number of channels, as timm converts it.

    One channel gets the sum over the channels, more are repeated and scaled to keep the sum.
    """
    stored = weight.shape[1]
    if channels == stored:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight.repeat(1, -(-channels // stored), 1, 1)[:, :channels] * (stored / channels)


def check_se(
    se: SEOptions | None, stages: Sequence[int], placements: Sequence[Placement] = get_args(Placement)
) -> None:
    """Raise a SenetError if SE is asked for in a stage or a place that the network does not have.

    Args:
        se: the options; None for a plain network.
        stages: the network's stages that have units.
        placements: the places in a unit.
    """
    if se is None:
        return
    if se.stages is not None and (not se.stages or not set(se.stages) <= set(stages)):
        stem = "" if 1 in stages else " (stage 1 is the stem)"
        raise SenetError(f"stages is {se.stages}; expected a choice of {tuple(stages)}{stem}")
    if se.placement not in placements:
        raise SenetError(
            f"placement is {se.placement!r}; this network has SE at {' or '.join(map(repr, placements))} only"
        )
