"""SE, sum and ReLU of small feature maps as one autograd function: few operations instead of few bytes.

What a small map costs is not the bytes that move but the operations that start. The fused tail takes some fifty; this
takes eight forward and twenty backward, in plain PyTorch, after the norm's own layer. Under torch.compile the layers
themselves run, which a compiler fuses.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import senet.ops.second_order as second_order
from senet.ops.function import Excitation, full_precision, layer_gradients, strided_like
from senet.ops.gates import GATES, hidden_and_gate
from senet.ops.plain import accumulator, in_type


class ExcitationFunction(torch.autograd.Function):
    """Computes `excited_sum`."""

    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        fc1: Tensor,
        fc2: Tensor,
        bias1: Tensor | None,
        bias2: Tensor | None,
        shortcut: Tensor | None,
        gate: str,
        relu: bool,
    ) -> Tensor:
        """Return y; see `excited_sum`."""
        weights = fc1, fc2
        with torch._C._AutoDispatchBelowAutograd():
            fc1, fc2 = fc1.flatten(1), fc2.flatten(1)
            z_NC = v.mean((2, 3), dtype=fc1.dtype)
            hidden_NK, gate_NC = hidden_and_gate(z_NC, (fc1, fc2, bias1, bias2), gate)
            scale = in_type(gate_NC, v.dtype)[:, :, None, None]
            y = v * scale if shortcut is None else torch.addcmul(shortcut, v, scale)
            # In place is faster, but selective checkpointing, a dispatch mode, may keep what `addcmul` returned.
            y = F.relu(y, inplace=torch._C._len_torch_dispatch_stack() == 0) if relu else y
        ctx.gate, ctx.has_shortcut = gate, shortcut is not None
        saved = (v, fc1, fc2, bias1, bias2, z_NC, hidden_NK, gate_NC, scale, y if relu else None)
        ctx.save_for_backward(*saved, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        if second_order.is_wanted(dy):
            return differentiable_gradients(ctx, dy)
        v, *se, z_NC, hidden_NK, gate_NC, scale, y, fc1, fc2 = ctx.saved_tensors
        dtype, positions = gate_NC.dtype, v.shape[2] * v.shape[3]
        with full_precision(v), torch._C._AutoDispatchBelowAutograd():
            g = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
            dgate_NC = (in_type(g, dtype) * in_type(v, dtype)).sum((2, 3))
            dlogit_NC = dgate_NC.mul_(GATES[ctx.gate].slope_from(gate_NC))
            (dfc1, dfc2, *of_biases), dz_NC = layer_gradients(dlogit_NC, se, z_NC, hidden_NK)
            dz_NC = dz_NC.mul_(1 / positions)
            dv = torch.addcmul(in_type(dz_NC, v.dtype)[:, :, None, None], g, scale)
        of_layers = (strided_like(dfc1, fc1), strided_like(dfc2, fc2), *of_biases)
        return dv, *of_layers, g if ctx.has_shortcut else None, None, None


def differentiable_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Return what `ExcitationFunction.backward` does, in differentiable operations."""
    v, _, _, bias1, bias2, *_, y, fc1, fc2 = ctx.saved_tensors
    with full_precision(v):
        g = second_order.through_relu(dy, y)
        gradients = second_order.gradients_through(
            lambda v, *se: second_order.excited(v, se, ctx.gate), (v, fc1, fc2, bias1, bias2), g
        )
    return *gradients, g if ctx.has_shortcut else None, None, None


def excited_sum(v: Tensor, excitation: Excitation, shortcut: Tensor | None, relu: bool) -> Tensor:
    """Compute `relu(gate(v) * v + shortcut)`.

    Args:
        v: (N, C, H, W).
        excitation: SE; its squeeze is the mean.
        shortcut: like v; None for none.
        relu: close with a ReLU.

    Source: arXiv:1709.01507v4, equations 2-4.
    """
    dtype = accumulator(v.dtype)
    layers = [None if x is None else in_type(x, dtype) for x in excitation[:4]]
    with full_precision(v):
        result: Tensor = ExcitationFunction.apply(v, *layers, shortcut, excitation.gate, relu)
    return result
