"""SE at inference in two operators, each in the place of a pass that the network without SE has too.

The gate needs a mean over all positions, two small products and a non-linearity: four or five launches of about 2 us
each on a GPU, 16 times in SE-ResNet-50, whose plain twin takes 405 us in all at batch 1. One kernel for the whole gate
would still be one launch more, and a slow one: one program an image reads 401 kB of h in stage 1, or 512 kB of weights
in stage 4, at the 100 GB/s of one multiprocessor (4 to 5 us); several programs of which the last to arrive goes on pay
two more trips to memory.

But the network has a pass on either side of the gate, which can be cut where it is smallest, at the hidden layer.
So no launch is added:

    squeeze: h = relu(x + bias), the pass after the convolution before the expansion, and for each tile of h its part
        of the hidden layer, fc1 @ (sum of the tile) / M, which is linear.
    excite: every program adds the parts (at most 8 kB), computes the gates of its own channels, and does what the pass
        at the end of a block does: relu(gate * (v + bias) + shortcut + shortcut_bias).

One image of SE-ResNet-50 in bfloat16: `maps` is what the two passes move without SE too, `gate` what a program of
`excite` reads besides its tiles of 12 kB. The gate adds two dependent reads of the second-level cache and three sums
within a program: an estimated 1 us a block, where the plain block takes 25.

| stage | h | y | maps | fc1 and fc2 | parts | gate |
|---|---|---|---:|---:|---:|---:|
| 1 | 64 x 56 x 56 | 256 x 56 x 56 | 5.6 MB | 10 kB | 98 x 16 | 8 kB |
| 2 | 128 x 28 x 28 | 512 x 28 x 28 | 2.8 MB | 41 kB | 50 x 32 | 10 kB |
| 3 | 256 x 14 x 14 | 1024 x 14 x 14 | 1.4 MB | 164 kB | 28 x 64 | 15 kB |
| 4 | 512 x 7 x 7 | 2048 x 7 x 7 | 0.7 MB | 655 kB | 16 x 128 | 25 kB |

At batch 16 the maps of a block take 4 (stage 4) to 30 us (stage 1) at 3 TB/s, and the four or five launches saved are
still worth 10. At batch 256 they take 60 to 480 us, launches are little, and what the programs read for their gates, up
to twice their tiles, would cost more: there matrix products, once a batch, are better (`MAX_IMAGES`).

Shapes: N images, C channels, M = H * W positions, K hidden units, P parts.
"""

from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.gates import GATES
from senet.ops.plain import accumulator, over_map

KINDS = ("sigmoid", "tanh", "relu", "hard_sigmoid", "sigmoid_x2", "hard_sigmoid_x2")
"""The gates that the kernels compute, in the order of their numbers there."""
MAX_IMAGES = 32
"""Larger batches are better off with matrix products that run once a batch; between 16 and 256 this is an estimate."""


def has_kernel(gate: str) -> bool:
    """Whether the Triton kernels compute a gate; if so, they are registered."""
    if gate not in KINDS or find_spec("triton") is None:
        return False
    import senet.ops.gate_cuda  # noqa: F401

    return True


def runs_in_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels compute a feature map, once `has_kernel` has been asked."""
    return x.is_cuda and x.dim() == 4 and x.numel() > 0 and x.dtype in (torch.float32, torch.bfloat16, torch.float16)


def squeeze(x: Tensor, bias: Tensor | None, relu: bool, fc1: Tensor, bias1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden layer of the excitation, in parts, and the feature map that it comes from.

    Args:
        x: (N, C, H, W).
        bias: (C,), added to it; None for none.
        relu: whether a ReLU follows.
        fc1: (K, C).
        bias1: (K,).

    Returns:
        Parts (N, P, K), whose sum over P is `fc1 @ mean(h) + bias1`, and `h = relu(x + bias)`, like x.
    """
    if runs_in_kernels(x):
        parts, h = torch.ops.senet_triton.squeeze(x, bias, relu, fc1, bias1)
        return parts, x if bias is None and not relu else h
    h = x if bias is None else x + over_map(bias)
    h = h.relu() if relu else h
    acc = accumulator(x.dtype)
    return F.linear(h.mean((2, 3), dtype=acc), fc1.to(acc), bias1.to(acc))[:, None], h


def excite(
    v: Tensor,
    parts: Tensor,
    fc2: Tensor,
    bias2: Tensor,
    gate: str,
    bias: Tensor | None = None,
    shortcut: Tensor | None = None,
    shortcut_bias: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return `relu(gate(fc2 @ relu(sum of parts) + bias2) * (v + bias) + shortcut + shortcut_bias)`.

    Args:
        v: (N, C, H, W).
        parts: (N, P, K), of `squeeze`.
        fc2: (C, K).
        bias2: (C,).
        gate: name of the gate.
        bias: (C,); None for none.
        shortcut: like v; None for none.
        shortcut_bias: (C,); None for none, as there must be without a shortcut.
        relu: whether a ReLU closes.

    Returns:
        A map like v.
    """
    alike = shortcut is None or (shortcut.shape == v.shape and shortcut.dtype == v.dtype)
    if runs_in_kernels(v) and alike and gate in KINDS:
        operator, kind = torch.ops.senet_triton.excite, KINDS.index(gate)
        return cast(Tensor, operator(v, parts, fc2, bias2, kind, bias, shortcut, shortcut_bias, relu))
    acc = accumulator(v.dtype)
    logits = F.linear(parts.to(acc).sum(1).relu(), fc2.to(acc), bias2.to(acc))
    y = (v if bias is None else v + over_map(bias)) * over_map(GATES[gate].function(logits).to(v.dtype))
    if shortcut is not None:
        y = y + (shortcut if shortcut_bias is None else shortcut + over_map(shortcut_bias))
    return y.relu() if relu else y
