"""The four operators of the residual tail in plain PyTorch: what each kernel computes.

Shapes: N images, C channels, M = H * W positions. Feature maps are (N, C, H, W), dense, all in one memory format; the
suffixes _C and _NC name the shapes of vectors and matrices over channels, which are float32, or float64 where the map
is. What is absent is an empty list, None, or among results an empty tensor.

Every value is centered before it is multiplied, so that large means with small variances lose nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Affine(NamedTuple):
    """`(x - center) * scale + shift`: center is (C,); scale and shift are both (C,), or both (N, C)."""

    center_C: Tensor
    scale: Tensor
    shift: Tensor


class Slope(NamedTuple):
    """How a gradient goes back through an `Affine` whose statistics may depend on x: `g * P + (x - center) * Q + R`.

    center and Q are (C,); P and R are both (C,), or both (N, C).
    """

    center_C: Tensor
    P: Tensor
    Q_C: Tensor
    R: Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which values of `dtype` are summed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def in_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in a type; x itself if it has that type."""
    return x if x.dtype == dtype else x.to(dtype)


def moments(u: Tensor, second: bool) -> tuple[Tensor, Tensor]:
    """Return the mean over positions and, if `second`, the centered second moment: (N, C) each."""
    x = u.to(accumulator(u.dtype))
    mean_NC = x.mean((2, 3))
    return mean_NC, (x - over_map(mean_NC)).square().mean((2, 3)) if second else x.new_empty(0)


def apply(
    u: Tensor, affine: Sequence[Tensor], shortcut: Tensor | None, shortcut_affine: Sequence[Tensor], relu: bool
) -> Tensor:
    """Return `relu(affine(u) + shortcut_affine(shortcut))`, like u."""
    y = transformed(u, affine)
    if shortcut is not None:
        y = y + (transformed(shortcut, shortcut_affine) if shortcut_affine else shortcut.to(y.dtype))
    return (y.relu() if relu else y).to(u.dtype)


def sums(
    dy: Tensor,
    u: Tensor,
    center_C: Tensor,
    y: Tensor | None,
    mask: Sequence[Tensor],
    shortcut: Tensor | None,
    shortcut_center_C: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the (N, C) sums over positions of g, g * (u - center) and g * (shortcut - its center), and g.

    Args:
        dy: the gradient of the output; g is dy where the output is positive, or everywhere if there is no ReLU.
        u: of `apply`.
        center_C: of u's affine function.
        y: the output, whose sign is used; g is then returned.
        mask: u's affine function, an `Affine`, where it has the output's sign: without a shortcut.
        shortcut: of `apply`, if it has an affine function.
        shortcut_center_C: of that function.
    """
    dtype = center_C.dtype
    g = dy.to(dtype)
    if y is not None:
        g = torch.where(y <= 0, torch.zeros_like(g), g)  # a NaN lets g pass, as in PyTorch's ReLU
    elif mask:
        g = masked(g, u, mask)
    W_NC = g.new_empty(0)
    if shortcut is not None and shortcut_center_C is not None:
        W_NC = (g * (shortcut.to(dtype) - over_map(shortcut_center_C))).sum((2, 3))
    kept = g.new_empty(0, dtype=dy.dtype) if y is None else g.to(dy.dtype)
    return g.sum((2, 3)), (g * (u.to(dtype) - over_map(center_C))).sum((2, 3)), W_NC, kept


def gradients(
    g: Tensor,
    u: Tensor,
    slope: Sequence[Tensor],
    mask: Sequence[Tensor],
    shortcut: Tensor | None,
    shortcut_slope: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of u and of a shortcut that has an affine function.

    Args:
        g: what `sums` returned; dy where it returned none.
        u: of `apply`.
        slope: of u's affine function, a `Slope`.
        mask: as in `sums`: g counts where this affine function of u is positive.
        shortcut: as in `sums`.
        shortcut_slope: of the shortcut's affine function.
    """
    wide = g.to(slope[0].dtype)
    if mask:
        wide = masked(wide, u, mask)
    du = descended(wide, u, slope)
    return du, g.new_empty(0) if shortcut is None else descended(wide, shortcut, shortcut_slope)


def over_map(vector: Tensor) -> Tensor:
    """View (C,) or (N, C) so that it broadcasts over (N, C, H, W)."""
    return vector[..., None, None]


def transformed(x: Tensor, affine: Sequence[Tensor]) -> Tensor:
    """Return the `Affine` function of a feature map, in the precision of its vectors."""
    center_C, scale, shift = affine
    return (x.to(scale.dtype) - over_map(center_C)) * over_map(scale) + over_map(shift)


def masked(g: Tensor, u: Tensor, mask: Sequence[Tensor]) -> Tensor:
    """Return g where the `Affine` function of u is positive, zero elsewhere."""
    return torch.where(transformed(u, mask) <= 0, torch.zeros_like(g), g)


def descended(g: Tensor, x: Tensor, slope: Sequence[Tensor]) -> Tensor:
    """Return the gradient of x by a `Slope`."""
    center_C, p, q_C, r = slope
    return (g * over_map(p) + (x.to(p.dtype) - over_map(center_C)) * over_map(q_C) + over_map(r)).to(x.dtype)
