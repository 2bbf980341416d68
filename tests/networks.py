"""What several test files do with networks: build, randomize and compare them."""

import functools
import math

import torch
from torch import Tensor, nn

from senet.factory import create_model
from senet.models.resnet import ResNet


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Give every BatchNorm statistics and weights, and every bias a value, that a mix-up would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.8, 1.6)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.normal_(0, 0.5)


def on_cpu_with_random_weights(build) -> nn.Module:
    """A network in evaluation mode with weights of our own, without the cost of its own initialization."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, math.sqrt(2 / module.weight[0].numel()))
    randomize(model)
    return model.eval()


def fresh_on_meta(name: str, **options: object) -> ResNet:
    with torch.device("meta"):
        return create_model(name, **options)


on_meta = functools.cache(fresh_on_meta)
"""For tests that only look."""


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert expected.isfinite().all()
    assert expected.float().std() > 0
    assert relative_difference(actual.float(), expected.float()) < tolerance
