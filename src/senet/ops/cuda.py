"""The four operators in Triton, for CUDA: `torch.ops.senet_triton`, which torch.compile sees through to the kernels.

Each is one launch, or two where a small batch is split over spans of positions. What they compute is in
`senet.ops.plain`.
"""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from senet.ops.plain import accumulator
from senet.ops.triton_kernels import (
    apply_kernel,
    for_tensors,
    gradients_kernel,
    merge_moments_kernel,
    merge_sums_kernel,
    moments_kernel,
    sums_kernel,
)

# ---- sizes of tiles --------------------------------------------------------------------------------------------------
# From a table and not autotuned: tuning runs a kernel many times at the first call of every shape, and not at all while
# a CUDA graph is captured. The figures are those of an H100 (132 multiprocessors, 256 kB of registers each).

LOAD = 16
"""Bytes of one load of a thread, the most there are."""

UNROLLED = (8, 4, 2, 2)
"""Loads of a thread under way from each of one to four maps: with 16 warps a multiprocessor 64 kB, about twice what 3
TB/s times a microsecond of latency ask for, at no more than 128 registers."""

PROGRAMS, WARPS = 512, 2048
"""Programs and warps to spread over the multiprocessors: four programs of four warps each, which fit at 128 registers
a thread, so that all run at once and none is left for a second round."""

LINE = 128
"""Bytes of a cache line: the least that a program reads next to each other."""

SPLIT_BYTES = 128 * 1024
"""Bytes of a span at least: 3 microseconds for a multiprocessor, as much as the second launch costs."""

TILE = 4096
"""Values of a tile of `apply` and `gradients`: at four warps 32 a thread, 8 to 16 kB a map, so that several programs
share a multiprocessor."""

MERGED = 256
"""Values that a program merges where there are several spans."""


def cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with its results kept, unless the number of images is symbolic, which has no hash."""
    remembered = cache(function)

    @wraps(function)
    def run(images: int, *rest: Any) -> Any:
        return remembered(images, *rest) if type(images) is int else function(images, *rest)

    return run


class Walk(NamedTuple):
    """How a map is walked over: see `senet.ops.triton_kernels`.

    Args:
        grid: blocks of channels of all images, and spans.
        span: positions of a span.
        tile: U, BM and BC.
        num_warps: of a program.
    """

    grid: tuple[int, int]
    span: int
    tile: tuple[int, int, int]
    num_warps: int


@cached
def walk_of(images: int, channels: int, positions: int, itemsize: int, last: bool, maps: int) -> Walk:
    """Return how to walk over `maps` maps.

    Channels-last, a block has as many channels as leave enough programs: the more channels, the fewer threads have to
    exchange their sums (none if four warps share a row, as at 2048 x 7 x 7 and a batch of 256). Is the narrowest block
    still too wide, as in small batches, programs get more warps, and then a span of the positions each.
    """
    unrolled = UNROLLED[maps - 1]
    num_warps, spans = 4, 1
    loaded = 32 * num_warps * LOAD // itemsize  # values that all threads load at once
    if last:
        bc = min(triton.next_power_of_2(channels), loaded)
        while bc > LINE // itemsize and images * triton.cdiv(channels, bc) < PROGRAMS:
            bc //= 2
        programs = images * triton.cdiv(channels, bc)
        while num_warps < 16 and programs * num_warps * 2 <= WARPS and positions > loaded // bc:
            num_warps *= 2
            loaded *= 2
        bm = loaded // bc
        unrolled = min(unrolled, triton.next_power_of_2(triton.cdiv(positions, bm)))
    else:
        # a program takes as much of one channel as its threads load at once, or several channels of small maps
        bm = min(triton.next_power_of_2(positions), loaded)
        unrolled = min(unrolled, triton.next_power_of_2(triton.cdiv(positions, bm)))
        bc = loaded // bm * max(1, UNROLLED[maps - 1] // (2 * maps * unrolled))
        programs = images * triton.cdiv(channels, bc)
    while programs * spans * 2 <= PROGRAMS // 4 and positions * bc * itemsize >= SPLIT_BYTES * spans * 2:
        spans *= 2
    step = unrolled * bm
    span = triton.cdiv(triton.cdiv(positions, spans), step) * step
    return Walk((programs, triton.cdiv(positions, span)), span, (unrolled, bm, bc), num_warps)


@cached
def tiles_of(images: int, channels: int, positions: int, last: bool) -> tuple[tuple[int], int, int]:
    """Return the grid, BM and BC for `apply` and `gradients`: long along what is contiguous, for whole cache lines."""
    if last:
        bc = min(triton.next_power_of_2(channels), 128)
        bm = min(TILE // bc, max(16, triton.next_power_of_2(positions)))
    else:
        bm = min(max(16, triton.next_power_of_2(positions)), 1024)
        bc = min(TILE // bm, triton.next_power_of_2(channels))
    return (images * triton.cdiv(channels, bc) * triton.cdiv(positions, bm),), bm, bc


def measured(u: Tensor) -> tuple[int, int, int, tuple[bool, int]]:
    """Return images, channels and positions of a map, whether channels lie next to each other, and by what they divide.

    The last is a power of two that divides as many values as lie next to each other. The number of images alone may be
    symbolic, in graphs for all sizes of a batch.
    """
    n, c, h, w = u.shape
    c, m = int(c), int(h) * int(w)
    last = u.is_contiguous(memory_format=torch.channels_last)
    row = c if last else m
    return n, c, m, (last, min(row & -row, 16))


def like(u: Tensor) -> Tensor:
    """Return an empty tensor like u.

    In a compiled graph `torch.empty_like` is a pass that fills it. PyTorch 2.11 takes two calls of `new_empty_strided`
    with the same arguments for one tensor, which it then copies for each that writes to it; not so with `new_empty`.
    """
    if type(u) is Tensor:
        return u.new_empty_strided(u.shape, u.stride())
    n, c, h, w = u.shape
    if u.is_contiguous(memory_format=torch.channels_last):
        return u.new_empty((n, h, w, c)).permute(0, 3, 1, 2)
    return u.new_empty(u.shape)


def per_image(vectors: Sequence[Tensor]) -> bool:
    """Return whether an `Affine` or a `Slope` has vectors for each image."""
    return vectors[1].dim() == 2


# ---- operators: each runs as it is on tensors, and with wrapped kernels where torch.compile traces it ----------------


def moments(u: Tensor, second: bool) -> tuple[Tensor, Tensor]:
    """Compute what `senet.ops.plain.moments` computes."""
    kernel = for_tensors(moments_kernel, u)
    n, c, m, layout = measured(u)
    grid, span, tile, num_warps = walk_of(n, c, m, u.element_size(), layout[0], 1)
    mean_NC, q_NC = result = moments_like(u, second)
    spans = grid[1]
    if spans > 1:
        result = (mean_NC.new_empty((spans, n, c)), mean_NC.new_empty((spans, n, c) if second else 0))
    kernel[grid](u, *result, n, c, m, span, second, *layout, *tile, num_warps=num_warps)
    if spans > 1:
        merge = for_tensors(merge_moments_kernel, u)
        grid = (triton.cdiv(n * c, MERGED),)
        merge[grid](*result, mean_NC, q_NC, n * c, m, span, spans, second, MERGED)
    return mean_NC, q_NC


def apply(
    u: Tensor, affine: Sequence[Tensor], shortcut: Tensor | None, shortcut_affine: Sequence[Tensor], relu: bool
) -> Tensor:
    """Compute what `senet.ops.plain.apply` computes."""
    kernel = for_tensors(apply_kernel, u)
    n, c, m, layout = measured(u)
    grid, *tile = tiles_of(n, c, m, layout[0])
    y = like(u)
    w, w_affine = u if shortcut is None else shortcut, shortcut_affine or affine
    options = (per_image(affine), shortcut is not None, bool(shortcut_affine), per_image(w_affine), relu)
    kernel[grid](u, *affine, w, *w_affine, y, c, m, *options, *layout, *tile)
    return y


def sums(
    dy: Tensor,
    u: Tensor,
    center_C: Tensor,
    y: Tensor | None,
    mask: Sequence[Tensor],
    shortcut: Tensor | None,
    shortcut_center_C: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute what `senet.ops.plain.sums` computes."""
    kernel = for_tensors(sums_kernel, u)
    n, c, m, layout = measured(u)
    third = shortcut_center_C is not None
    grid, span, tile, num_warps = walk_of(n, c, m, u.element_size(), layout[0], 2 + (y is not None) + third)
    *result, g = sums_like(dy, u, center_C, y, mask, shortcut, shortcut_center_C)
    spans, found = grid[1], result
    if spans > 1:
        found = [x.new_empty((spans, *x.shape) if x.dim() == 2 else 0) for x in result]
    masked = mask or (center_C, center_C, center_C)
    w, w_center_C = (shortcut, shortcut_center_C) if third else (u, center_C)
    options = (y is not None, bool(mask), per_image(masked), third, *layout)
    inputs = (dy, u, center_C, dy if y is None else y, *masked, w, w_center_C)
    kernel[grid](*inputs, *found, g, n, c, m, span, *options, *tile, num_warps=num_warps)
    if spans > 1:
        merge = for_tensors(merge_sums_kernel, u)
        grid = (triton.cdiv(n * c, MERGED),)
        merge[grid](*found, *result, n * c, spans, third, MERGED)
    return (*result, g)  # type: ignore[return-value]


def gradients(
    g: Tensor,
    u: Tensor,
    slope: Sequence[Tensor],
    mask: Sequence[Tensor],
    shortcut: Tensor | None,
    shortcut_slope: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Compute what `senet.ops.plain.gradients` computes."""
    kernel = for_tensors(gradients_kernel, u)
    n, c, m, layout = measured(u)
    grid, *tile = tiles_of(n, c, m, layout[0])
    du, dshortcut = gradients_like(g, u, slope, mask, shortcut, shortcut_slope)
    masked = mask or (slope[0], slope[0], slope[0])
    w, w_slope = u if shortcut is None else shortcut, shortcut_slope or slope
    options = (per_image(slope), bool(mask), per_image(masked), shortcut is not None, per_image(w_slope))
    kernel[grid](g, u, *slope, *masked, w, *w_slope, du, dshortcut, c, m, *options, *layout, *tile)
    return du, dshortcut


# ---- what they return, which is all that tracing has to know ---------------------------------------------------------


def moments_like(u: Tensor, second: bool) -> tuple[Tensor, Tensor]:
    """Return empty tensors for the results of `moments`."""
    mean_NC = u.new_empty(u.shape[:2], dtype=accumulator(u.dtype))
    return mean_NC, mean_NC.new_empty(u.shape[:2] if second else 0)


def apply_like(u: Tensor, *_: object) -> Tensor:
    """Return an empty tensor for the result of `apply`."""
    return like(u)


def sums_like(
    dy: Tensor, u: Tensor, center_C: Tensor, y: Tensor | None, mask: object, shortcut: object, w_center_C: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return empty tensors for the results of `sums`."""
    shape = u.shape[:2]
    W_NC = center_C.new_empty(0 if w_center_C is None else shape)
    g = dy.new_empty(0) if y is None else like(dy)
    return center_C.new_empty(shape), center_C.new_empty(shape), W_NC, g


def gradients_like(
    g: Tensor, u: Tensor, slope: object, mask: object, shortcut: Tensor | None, shortcut_slope: object
) -> tuple[Tensor, Tensor]:
    """Return empty tensors for the results of `gradients`."""
    return like(u), u.new_empty(0) if shortcut is None else like(shortcut)


# ---- registration ----------------------------------------------------------------------------------------------------


def on_its_device(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator with the device of its first tensor as the current one, for which Triton launches."""

    @wraps(operator)
    def run(first: Tensor, *rest: Any) -> Any:
        if first.get_device() == torch.cuda.current_device():
            return operator(first, *rest)
        with torch.cuda.device(first.device):
            return operator(first, *rest)

    return run


# What `triton_op` registers for calls outside of graphs takes 20 microseconds, for autograd (which is up to
# `senet.ops.function`) and for a check of aliases: CUDA gets the functions as they are.
LIBRARY = torch.library.Library("senet_triton", "FRAGMENT")
for operator, results in ((moments, moments_like), (apply, apply_like), (sums, sums_like), (gradients, gradients_like)):
    name = operator.__name__
    triton_op(f"senet_triton::{name}", operator, mutates_args=())
    torch.library.register_fake(f"senet_triton::{name}", results)
    LIBRARY.impl(name, on_its_device(operator), "CUDA")
    LIBRARY.impl(name, torch.library.fallthrough_kernel, "AutogradCUDA")
