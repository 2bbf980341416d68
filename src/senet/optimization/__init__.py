"""Faster models with the same outputs."""

from typing import Literal, get_args

from torch import nn

from senet.block import check_choice
from senet.errors import SenetError
from senet.optimization.training import optimize_for_training

Purpose = Literal["training", "inference"]


def optimize(model: nn.Module, for_: Purpose, *, fused: bool = True) -> nn.Module:
    """Make a model faster and keep its outputs."""
    check_choice("for_", for_, get_args(Purpose))
    if for_ == "training":
        return optimize_for_training(model, fused=fused)
    raise SenetError("not yet")
