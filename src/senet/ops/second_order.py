"""The backward passes in plain PyTorch, for gradients of gradients and for many gradients at once under vmap.

The fused passes can be neither differentiated nor batched. Where that is asked for, the formula is computed again from
what was saved, and autograd goes back through it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from senet.ops.gates import hidden_and_gate
from senet.ops.plain import in_type, over_map


def is_wanted(dy: Tensor) -> bool:
    """Return whether the backward pass of dy shall itself be differentiable, or dy is many gradients."""
    if torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return True
    return torch._C._functorch.is_legacy_batchedtensor(dy)  # the vmap of torch.autograd


def gradients_through(function: Callable[..., Tensor], inputs: Sequence[Any], dy: Tensor) -> list[Tensor | None]:
    """Return the gradients of a function's inputs, differentiable if gradients are recorded.

    Args:
        function: of `inputs`.
        inputs: as saved for the backward pass.
        dy: the gradient of the function's value.
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that the gradient of an input that another was computed from ends at the function.
        own = [x.view_as(x) if x is not None and x.requires_grad else x for x in inputs]
        y = function(*own)
    wanted = {i: x for i, x in enumerate(own) if x is not None and x.requires_grad}
    found: list[Tensor | None] = [None] * len(own)
    if wanted:
        gradients = torch.autograd.grad(
            y, list(wanted.values()), in_type(dy, y.dtype), create_graph=recorded, allow_unused=True
        )
        for i, gradient in zip(wanted, gradients, strict=True):
            found[i] = gradient
    return found


def through_relu(dy: Tensor, y: Tensor | None) -> Tensor:
    """Return the gradient before a ReLU from the one after it; y is the ReLU's value, None where there is none."""
    return dy if y is None else torch.where(y.detach() <= 0, torch.zeros_like(dy), dy)


def excited(v: Tensor, se: Sequence[Any], gate: str) -> Tensor:
    """Return SE of a feature map.

    Args:
        v: (N, C, H, W).
        se: fc1, fc2, bias1 and bias2 of `senet.ops.function.Excitation`.
        gate: its name.
    """
    fc1, fc2, bias1, bias2 = se
    z_NC = v.mean((2, 3), dtype=fc1.dtype)
    _, gate_NC = hidden_and_gate(z_NC, (fc1.flatten(1), fc2.flatten(1), bias1, bias2), gate)
    return v * over_map(in_type(gate_NC, v.dtype))


def normalized(u: Tensor, weight_C: Tensor, bias_C: Tensor, given: tuple[Tensor, Tensor] | None, eps: float) -> Tensor:
    """Return BatchNorm of a feature map in the type of its parameters.

    Args:
        u: (N, C, H, W).
        weight_C: its factor.
        bias_C: added.
        given: mean and rsqrt(var + eps), constants; None takes the statistics of u.
        eps: added to the variance.
    """
    x = in_type(u, weight_C.dtype)
    center_C = x.mean((0, 2, 3)) if given is None else given[0]
    x = x - over_map(center_C)
    r_C = torch.rsqrt(x.square().mean((0, 2, 3)) + eps) if given is None else given[1]
    return x * over_map(r_C * weight_C) + over_map(bias_C)
