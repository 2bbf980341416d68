"""The passes in Triton, for CUDA; the steps between them are plain PyTorch on (N, C) matrices.

A program takes one image and a block of channels and walks over the positions in tiles of BLOCK_M positions by BLOCK_C
channels. Strides say where a value is, so that channels-last maps (channels next to each other) and others (positions
next to each other) run the same kernels with tiles of another shape. Arithmetic is in the type of the vectors.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton reads annotations of a kernel's arguments, so only constants have one.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.ops.passes import Affine, Branches, PlainPasses, Slope, accumulator

NONE, PLAIN, AFFINE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
TILE = 4096
"""Values of a tile: at four warps 32 a thread, 8 to 16 kB a map, so that several programs share a multiprocessor."""


@triton.jit
def vector(start, c, C):
    """Load the channels c of a vector, to broadcast over positions."""
    return tl.load(start + c, mask=c < C, other=0)[None, :]


@triton.jit
def tile(start, place, inside, acc: tl.constexpr):
    """Load a tile of a feature map in the type of the arithmetic."""
    return tl.load(start + place, mask=inside, other=0).to(acc)


@triton.jit
def moments_kernel(
    u, mean, q, C, M, stride_n, stride_m, stride_c, second: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr
):
    """Compute mean and centered second moment of one image and block of channels, tile by tile (Chan et al., 1979)."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    rows = tl.arange(0, BM)
    acc = mean.dtype.element_ty
    running = tl.zeros((BC,), dtype=acc)
    squares = tl.zeros((BC,), dtype=acc)
    for first in range(0, M, BM):
        m = first + rows
        inside = (m < M)[:, None] & (c < C)[None, :]
        x = tl.load(u + n * stride_n + m[:, None] * stride_m + c[None, :] * stride_c, mask=inside, other=0).to(acc)
        count = tl.minimum(M - first, BM).to(acc)
        total = (first + count).to(acc)
        tile_mean = tl.sum(x, 0) / count
        if second:
            d = tl.where(inside, x - tile_mean[None, :], 0)
            delta = tile_mean - running
            squares += tl.sum(d * d, 0) + delta * delta * (first * count / total)
        running += (tile_mean - running) * (count / total)
    tl.store(mean + n * C + c, running, mask=c < C)
    if second:
        tl.store(q + n * C + c, squares / M, mask=c < C)


@triton.jit
def apply_kernel(
    u,
    center,
    scale,
    shift,
    per_image,
    w,
    w_center,
    w_scale,
    w_shift,
    y,
    C,
    M,
    stride_n,
    stride_m,
    stride_c,
    kind: tl.constexpr,
    relu: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute y = relu(affine(u) + shortcut) for one tile."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    inside = (m < M)[:, None] & (c < C)[None, :]
    place = n * stride_n + m[:, None] * stride_m + c[None, :] * stride_c
    acc = scale.dtype.element_ty
    value = (tile(u, place, inside, acc) - vector(center, c, C)) * vector(scale + n * per_image, c, C) + vector(
        shift + n * per_image, c, C
    )
    if kind == PLAIN:
        value += tile(w, place, inside, acc)
    if kind == AFFINE:
        value += (tile(w, place, inside, acc) - vector(w_center, c, C)) * vector(w_scale, c, C) + vector(w_shift, c, C)
    if relu:
        value = tl.where(value < 0, 0, value)  # a NaN stays
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def sums_kernel(
    dy,
    y,
    u,
    center,
    scale,
    shift,
    per_image,
    w,
    w_center,
    A,
    B,
    W,
    g,
    C,
    M,
    stride_n,
    stride_m,
    stride_c,
    kind: tl.constexpr,
    relu: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute the three sums of one image and block of channels; g is stored if there is a shortcut."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    rows = tl.arange(0, BM)
    acc = scale.dtype.element_ty
    middle = vector(center, c, C)
    a = tl.zeros((BC,), dtype=acc)
    b = tl.zeros((BC,), dtype=acc)
    third = tl.zeros((BC,), dtype=acc)
    for first in range(0, M, BM):
        m = first + rows
        inside = (m < M)[:, None] & (c < C)[None, :]
        place = n * stride_n + m[:, None] * stride_m + c[None, :] * stride_c
        value = tile(dy, place, inside, acc)
        centered = tile(u, place, inside, acc) - middle
        if relu:
            if kind == NONE:
                out = centered * vector(scale + n * per_image, c, C) + vector(shift + n * per_image, c, C)
            else:
                out = tile(y, place, inside, acc)
            value = tl.where(out > 0, value, 0)
        if kind != NONE:
            tl.store(g + place, value.to(g.dtype.element_ty), mask=inside)
        a += tl.sum(value, 0)
        b += tl.sum(value * centered, 0)
        if kind == AFFINE:
            x = tile(w, place, inside, acc) - vector(w_center, c, C)
            third += tl.sum(value * x, 0)
    tl.store(A + n * C + c, a, mask=c < C)
    tl.store(B + n * C + c, b, mask=c < C)
    if kind == AFFINE:
        tl.store(W + n * C + c, third, mask=c < C)


@triton.jit
def gradients_kernel(
    g,
    u,
    center,
    scale,
    shift,
    per_image,
    P,
    Q,
    R,
    w,
    w_center,
    w_P,
    w_Q,
    w_R,
    du,
    C,
    M,
    stride_n,
    stride_m,
    stride_c,
    kind: tl.constexpr,
    relu: tl.constexpr,
    slope_per_image,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute du from g for one tile, and the gradient of a shortcut with an affine function in the place of g."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    inside = (m < M)[:, None] & (c < C)[None, :]
    place = n * stride_n + m[:, None] * stride_m + c[None, :] * stride_c
    acc = scale.dtype.element_ty
    value = tile(g, place, inside, acc)
    centered = tile(u, place, inside, acc) - vector(center, c, C)
    if relu and kind == NONE:
        out = centered * vector(scale + n * per_image, c, C) + vector(shift + n * per_image, c, C)
        value = tl.where(out > 0, value, 0)
    found = (
        value * vector(P + n * slope_per_image, c, C)
        + centered * vector(Q, c, C)
        + vector(R + n * slope_per_image, c, C)
    )
    tl.store(du + place, found.to(du.dtype.element_ty), mask=inside)
    if kind == AFFINE:
        x = tile(w, place, inside, acc) - vector(w_center, c, C)
        dw = value * vector(w_P, c, C) + x * vector(w_Q, c, C) + vector(w_R, c, C)
        tl.store(g + place, dw.to(g.dtype.element_ty), mask=inside)


# ---- launching -------------------------------------------------------------------------------------------------------


def block_sizes(channels: int, positions: int, channels_last: bool) -> tuple[int, int]:
    """Return BLOCK_M and BLOCK_C: long along what is contiguous, so that whole cache lines are read."""
    if channels_last:
        block_c = min(triton.next_power_of_2(channels), 128)
        return min(TILE // block_c, max(16, triton.next_power_of_2(positions))), block_c
    block_m = min(max(16, triton.next_power_of_2(positions)), 1024)
    return block_m, min(TILE // block_m, triton.next_power_of_2(channels))


def launch(kernel: Any, u: Tensor, *arguments: Any, walks: bool, **options: Any) -> None:
    """Run a kernel over a feature map; `walks` if a program goes over all positions of its image."""
    n, c, h, w = u.shape
    last = u.is_contiguous(memory_format=torch.channels_last)
    block_m, block_c = block_sizes(c, h * w, last)
    strides = (c * h * w, c, 1) if last else (c * h * w, 1, h * w)
    grid = (n, triton.cdiv(c, block_c)) if walks else (n, triton.cdiv(c, block_c), triton.cdiv(h * w, block_m))
    kernel[grid](*arguments, c, h * w, *strides, **options, BM=block_m, BC=block_c)


def kind_of(branches: Branches) -> int:
    """Return what is added to the branch: nothing, a map, or an affine function of one."""
    if branches.shortcut is None:
        return 0
    return 1 if branches.shortcut_affine is None else 2


def vectors(of: Affine | Slope) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the vectors and how far those of one image are from those of the next."""
    return *of, of[2].shape[1] if of[2].dim() == 2 else 0


class TritonPasses(PlainPasses):
    """The passes over feature maps in Triton; maps must be dense and of one memory format, vectors contiguous."""

    def moments(self, u: Tensor, second: bool) -> tuple[Tensor, Tensor | None]:
        """See `Passes`."""
        mean_NC = u.new_empty(u.shape[:2], dtype=accumulator(u.dtype))
        q_NC = torch.empty_like(mean_NC) if second else None
        launch(moments_kernel, u, u, mean_NC, mean_NC if q_NC is None else q_NC, walks=True, second=second)
        return mean_NC, q_NC

    def apply(self, branches: Branches) -> Tensor:
        """See `Passes`."""
        u, other = branches.u, branches.shortcut_affine or branches.affine
        shortcut = u if branches.shortcut is None else branches.shortcut
        y = torch.empty_like(u)
        inputs = (u, *vectors(branches.affine), shortcut, *other)
        launch(apply_kernel, u, *inputs, y, walks=False, kind=kind_of(branches), relu=branches.relu)
        return y

    def sums(
        self, dy: Tensor, y: Tensor | None, branches: Branches
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """See `Passes`."""
        u, other, kind = branches.u, branches.shortcut_affine or branches.affine, kind_of(branches)
        shortcut = u if branches.shortcut is None else branches.shortcut
        A_NC, B_NC = (u.new_empty(u.shape[:2], dtype=accumulator(u.dtype)) for _ in range(2))
        W_NC = torch.empty_like(A_NC) if kind == 2 else None
        g = torch.empty_like(u) if kind else None
        inputs = (dy, dy if y is None else y, u, *vectors(branches.affine), shortcut, other.center_C)
        outputs = (A_NC, B_NC, A_NC if W_NC is None else W_NC, u if g is None else g)
        launch(sums_kernel, u, *inputs, *outputs, walks=True, kind=kind, relu=branches.relu)
        return A_NC, B_NC, W_NC, g

    def gradients(
        self, g: Tensor, branches: Branches, slope: Slope, shortcut_slope: Slope | None
    ) -> tuple[Tensor, Tensor | None]:
        """See `Passes`."""
        u, other, kind = branches.u, branches.shortcut_affine or branches.affine, kind_of(branches)
        shortcut = u if branches.shortcut is None else branches.shortcut
        du = torch.empty_like(u)
        *of_u, slope_per_image = vectors(slope)
        inputs = (g, u, *vectors(branches.affine), *of_u, shortcut, other.center_C, *(shortcut_slope or slope))
        options = {"kind": kind, "relu": branches.relu, "slope_per_image": slope_per_image}
        launch(gradients_kernel, u, *inputs, du, walks=False, **options)
        return du, g if kind else None
