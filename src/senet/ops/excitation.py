"""SE, sum and ReLU of small feature maps as one autograd function: few operations instead of few bytes.

What a small map costs is not the bytes that move but the operations that start. The fused tail takes some fifty; this
takes eight forward and twenty backward, in plain PyTorch, after the norm's own layer. Under torch.compile the layers
themselves run, which a compiler fuses.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.function import Excitation, full_precision, layer_gradients, refuse_second_order
from senet.ops.gates import GATES
from senet.ops.plain import accumulator, in_type


class ExcitationFunction(torch.autograd.Function):
    """Computes `excited_sum`; gradients of gradients are not supported."""

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
        ctx.shapes = (fc1.shape, fc2.shape)
        with torch._C._AutoDispatchBelowAutograd():
            fc1, fc2 = fc1.flatten(1), fc2.flatten(1)
            z_NC = v.mean((2, 3), dtype=fc1.dtype)
            hidden_NK = F.linear(z_NC, fc1, bias1).relu_()
            gate_NC = GATES[gate].function(F.linear(hidden_NK, fc2, bias2))
            scale = in_type(gate_NC, v.dtype)[:, :, None, None]
            y = v * scale if shortcut is None else torch.addcmul(shortcut, v, scale)
            y = y.relu_() if relu else y
        ctx.gate, ctx.has_shortcut = gate, shortcut is not None
        ctx.save_for_backward(v, fc1, fc2, bias1, bias2, z_NC, hidden_NK, gate_NC, scale, y if relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments."""
        refuse_second_order()
        v, *se, z_NC, hidden_NK, gate_NC, scale, y = ctx.saved_tensors
        dtype, positions = gate_NC.dtype, v.shape[2] * v.shape[3]
        with full_precision(v), torch._C._AutoDispatchBelowAutograd():
            g = dy if y is None else torch.ops.aten.threshold_backward(dy, y, 0)
            dgate_NC = (in_type(g, dtype) * in_type(v, dtype)).sum((2, 3))
            dlogit_NC = dgate_NC.mul_(GATES[ctx.gate].slope_from(gate_NC))
            (dfc1, dfc2, *of_biases), dz_NC = layer_gradients(dlogit_NC, se, z_NC, hidden_NK)
            dz_NC = dz_NC.mul_(1 / positions)
            dv = torch.addcmul(in_type(dz_NC, v.dtype)[:, :, None, None], g, scale)
        of_layers = (dfc1.view(ctx.shapes[0]), dfc2.view(ctx.shapes[1]), *of_biases)
        return dv, *of_layers, g if ctx.has_shortcut else None, None, None


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
    layers: Sequence[Tensor | None] = excitation[:4]
    if excitation.fc1.dtype != dtype:
        layers = [None if x is None else in_type(x, dtype) for x in layers]
    with full_precision(v):
        result: Tensor = ExcitationFunction.apply(v, *layers, shortcut, excitation.gate, relu)
    return result
