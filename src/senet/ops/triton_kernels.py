"""The kernels in Triton that `senet.ops.cuda` launches: two that walk over the positions, two that go tile by tile.

Maps are dense, and channels-last (LAST) or contiguous; arithmetic is in the type of the vectors. Where a tile starts is
computed in 64 bits, where a value lies in its tile in 32.

`moments` and `sums` walk: a program takes one image and a block of BC channels, and goes over all positions, or over
one of several spans of them, in tiles of U x BM x BC values. BM x BC values are one load of 16 bytes for every thread;
so the U loads of a thread are under way together and are added up in its own registers, and threads exchange values
only once, after the last tile. (With an exchange in every tile, as a plain sum over a tile has, `moments` took three
times as long on an H100.) The U values of a thread are U rows of a tile of two dimensions, cut afterwards: of three
dimensions that are not contiguous, versions of Triton choose another one to spread over the threads.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton reads annotations of a kernel's arguments, so only constants have one.

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

SIZES = ["N", "C", "M", "span"]
"""Arguments that Triton is not to compile a kernel anew for, by their values: ALIGN says what it has to know."""


def for_tensors(kernel: Any, x: Tensor) -> Any:
    """Return a kernel to launch with `x`: as it is on tensors, wrapped where torch.compile traces it."""
    return kernel if type(x) is Tensor else wrap_triton(kernel)


@triton.jit
def aligned(C, M, LAST: tl.constexpr, ALIGN: tl.constexpr):
    """Return C and M so that Triton sees that ALIGN divides the one whose values lie next to each other."""
    if LAST:
        C = C // ALIGN * ALIGN
    else:
        M = M // ALIGN * ALIGN
    return C, M


@triton.jit
def affine_of(x, center, scale, shift):
    """Compute (x - center) * scale + shift, rounded alike in all kernels, which ask where it is positive."""
    return tl.fma(x - center, scale, shift)


# ---- kernels that walk over the positions: images and blocks of channels on axis 0, spans on axis 1 ------------------


@triton.jit
def walk(C, M, span, LAST: tl.constexpr, U: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """Return the image, channels and positions of a program, and where its first tile lies, its values, and the next.

    Programs next to each other read channels next to each other.
    """
    blocks = tl.cdiv(C, BC)
    n = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks * BC
    lanes = tl.arange(0, BC)
    span = span // (U * BM) * (U * BM)  # a multiple, and Triton is to see it
    first = tl.program_id(1) * span
    stop = tl.minimum(first + span, M)
    rows = tl.arange(0, U * BM)[:, None]
    if LAST:
        start = (n * M + first) * C + block
        offsets = rows * C + lanes[None, :]
        step = U * BM * C
    else:
        start = (n * C + block) * M + first
        offsets = rows + lanes[None, :] * M
        step = U * BM
    return n, block + lanes, first, stop, rows, start, offsets, step


@triton.jit
def added_up(x, U: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """Add up the U values that each thread holds for each of its BM x BC: no value leaves its thread."""
    return tl.sum(tl.reshape(x, (U, BM, BC)), 0)


@triton.jit
def channels(start, c, C):
    """Load the channels c of a vector, to broadcast over positions."""
    return tl.load(start + c, mask=c < C, other=0)[None, :]


@triton.jit(do_not_specialize=SIZES)
def moments_kernel(
    u,
    mean,
    q,
    N,
    C,
    M,
    span,
    second: tl.constexpr,
    LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    U: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute mean and centered second moment of a span, the latter divided by M.

    Each of the BM x BC values that a thread holds is the mean of what it has seen, and beside it the sum of the squared
    distances from that; U more values are merged into them at a time (Chan et al., 1979), and the BM means at the end.
    So nothing is lost to cancellation, whatever the values are.
    """
    C, M = aligned(C, M, LAST, ALIGN)
    n, c, first, stop, rows, start, offsets, step = walk(C, M, span, LAST, U, BM, BC)
    acc: tl.constexpr = mean.dtype.element_ty
    inside_C = (c < C)[None, :]
    seen = tl.zeros((BM, 1), dtype=acc)
    running = tl.zeros((BM, BC), dtype=acc)
    squares = tl.zeros((BM, BC), dtype=acc)
    for m in range(first, stop, U * BM):
        inside = (rows < stop - m) & inside_C
        x = tl.load(u + start + offsets, mask=inside, other=0).to(acc)
        start += step
        count = (stop - m + BM - 1 - tl.arange(0, BM)) // BM  # positions of this tile that each of the BM rows has
        count = tl.minimum(tl.maximum(count, 0), U).to(acc)[:, None]
        seen += count
        tile_mean = added_up(x, U, BM, BC) * (1 / tl.maximum(count, 1))
        delta = tile_mean - running
        share = count / tl.maximum(seen, 1)
        if second:
            d = tl.where(inside, x - tl.reshape(tl.broadcast_to(tile_mean[None, :, :], (U, BM, BC)), (U * BM, BC)), 0)
            squares += added_up(d * d, U, BM, BC) + delta * delta * ((seen - count) * share)
        running += delta * share
    share = seen / (stop - first)
    near = tl.sum(running * share, 0)
    d = running - near[None, :]
    rest = tl.sum(d * share, 0)  # what rounding has left: the shares do not add up to one
    place = (tl.program_id(1) * N + n) * C + c
    tl.store(mean + place, near + rest, mask=c < C)
    if second:
        tl.store(q + place, (tl.sum(squares + d * d * seen, 0) - rest * rest * (stop - first)) / M, mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def sums_kernel(
    dy,
    u,
    center,
    y,
    mask_center,
    mask_scale,
    mask_shift,
    w,
    w_center,
    A,
    B,
    W,
    g,
    N,
    C,
    M,
    span,
    of_y: tl.constexpr,
    masked: tl.constexpr,
    per_image: tl.constexpr,
    third: tl.constexpr,
    LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    U: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute the two or three sums of a span.

    g is dy where y is positive (of_y; then it is stored), where an affine function of u is positive (masked), or dy.
    """
    C, M = aligned(C, M, LAST, ALIGN)
    n, c, first, stop, rows, start, offsets, step = walk(C, M, span, LAST, U, BM, BC)
    acc: tl.constexpr = A.dtype.element_ty
    inside_C = (c < C)[None, :]
    middle = channels(center, c, C)
    a = tl.zeros((BM, BC), dtype=acc)
    b = tl.zeros((BM, BC), dtype=acc)
    third_sum = tl.zeros((BM, BC), dtype=acc)
    if masked:
        image = n * C if per_image else 0
        m_center = channels(mask_center, c, C)
        m_scale = channels(mask_scale + image, c, C)
        m_shift = channels(mask_shift + image, c, C)
    if third:
        w_middle = channels(w_center, c, C)
    for m in range(first, stop, U * BM):
        inside = (rows < stop - m) & inside_C
        place = start + offsets
        start += step
        value = tl.load(dy + place, mask=inside, other=0).to(acc)
        x = tl.load(u + place, mask=inside, other=0).to(acc)
        if of_y:
            sign = tl.load(y + place, mask=inside, other=0)
            value = tl.where(sign <= 0, 0, value)  # where it is NaN, dy passes
        if masked:
            value = tl.where(affine_of(x, m_center, m_scale, m_shift) <= 0, 0, value)
        a += added_up(value, U, BM, BC)
        b += added_up(value * (x - middle), U, BM, BC)
        if third:
            x = tl.load(w + place, mask=inside, other=0).to(acc)
            third_sum += added_up(value * (x - w_middle), U, BM, BC)
        if of_y:
            tl.store(g + place, value.to(g.dtype.element_ty), mask=inside)
    place = (tl.program_id(1) * N + n) * C + c
    tl.store(A + place, tl.sum(a, 0), mask=c < C)
    tl.store(B + place, tl.sum(b, 0), mask=c < C)
    if third:
        tl.store(W + place, tl.sum(third_sum, 0), mask=c < C)


@triton.jit(do_not_specialize=["NC", "M", "span", "spans"])
def merge_moments_kernel(means, qs, mean, q, NC, M, span, spans, second: tl.constexpr, BLOCK: tl.constexpr):
    """Merge the moments of the spans, in their order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc: tl.constexpr = mean.dtype.element_ty
    found = tl.zeros((BLOCK,), dtype=acc)
    for s in range(spans):
        found += tl.load(means + s * NC + i, mask=i < NC) * (tl.minimum(M - s * span, span).to(acc) / M)
    tl.store(mean + i, found, mask=i < NC)
    if second:
        total = tl.zeros((BLOCK,), dtype=acc)
        for s in range(spans):
            d = tl.load(means + s * NC + i, mask=i < NC) - found
            total += tl.load(qs + s * NC + i, mask=i < NC) + d * d * (tl.minimum(M - s * span, span).to(acc) / M)
        tl.store(q + i, total, mask=i < NC)


@triton.jit(do_not_specialize=["NC", "spans"])
def merge_sums_kernel(As, Bs, Ws, A, B, W, NC, spans, third: tl.constexpr, BLOCK: tl.constexpr):
    """Add up the sums of the spans, in their order."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.zeros((BLOCK,), dtype=A.dtype.element_ty)
    b = tl.zeros((BLOCK,), dtype=A.dtype.element_ty)
    third_sum = tl.zeros((BLOCK,), dtype=A.dtype.element_ty)
    for s in range(spans):
        a += tl.load(As + s * NC + i, mask=i < NC)
        b += tl.load(Bs + s * NC + i, mask=i < NC)
        if third:
            third_sum += tl.load(Ws + s * NC + i, mask=i < NC)
    tl.store(A + i, a, mask=i < NC)
    tl.store(B + i, b, mask=i < NC)
    if third:
        tl.store(W + i, third_sum, mask=i < NC)


# ---- kernels that go tile by tile ------------------------------------------------------------------------------------


@triton.jit
def tile(C, M, LAST: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """Return the image and channels of a program, where its tile starts, its values, and which of them exist.

    Blocks of channels vary first, then positions, then images, so that programs side by side share pages of memory.
    """
    blocks = tl.cdiv(C, BC)
    tiles = tl.cdiv(M, BM)
    rest = tl.program_id(0) // blocks
    n = (rest // tiles).to(tl.int64)
    block = tl.program_id(0) % blocks * BC
    first = rest % tiles * BM
    lanes = tl.arange(0, BC)
    rows = tl.arange(0, BM)
    inside = (rows < M - first)[:, None] & (lanes < C - block)[None, :]
    if LAST:
        start = (n * M + first) * C + block
        offsets = rows[:, None] * C + lanes[None, :]
    else:
        start = (n * C + block) * M + first
        offsets = rows[:, None] + lanes[None, :] * M
    return n, block + lanes, start + offsets, inside


@triton.jit(do_not_specialize=SIZES[1:3])
def apply_kernel(
    u,
    center,
    scale,
    shift,
    w,
    w_center,
    w_scale,
    w_shift,
    y,
    C,
    M,
    per_image: tl.constexpr,
    add: tl.constexpr,
    add_affine: tl.constexpr,
    w_per_image: tl.constexpr,
    relu: tl.constexpr,
    LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute y = relu(affine(u) + w) or, with add_affine, relu(affine(u) + affine(w)) for one tile."""
    C, M = aligned(C, M, LAST, ALIGN)
    n, c, place, inside = tile(C, M, LAST, BM, BC)
    acc: tl.constexpr = scale.dtype.element_ty
    image = n * C if per_image else 0
    x = tl.load(u + place, mask=inside, other=0).to(acc)
    value = affine_of(x, channels(center, c, C), channels(scale + image, c, C), channels(shift + image, c, C))
    if add:
        other = tl.load(w + place, mask=inside, other=0).to(acc)
        if add_affine:
            w_image = n * C if w_per_image else 0
            w_scale_C, w_shift_C = channels(w_scale + w_image, c, C), channels(w_shift + w_image, c, C)
            other = affine_of(other, channels(w_center, c, C), w_scale_C, w_shift_C)
        value += other
    if relu:
        value = tl.where(value < 0, 0, value)  # a NaN stays
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES[1:3])
def gradients_kernel(
    g,
    u,
    center,
    P,
    Q,
    R,
    mask_center,
    mask_scale,
    mask_shift,
    w,
    w_center,
    w_P,
    w_Q,
    w_R,
    du,
    dw,
    C,
    M,
    per_image: tl.constexpr,
    masked: tl.constexpr,
    mask_per_image: tl.constexpr,
    third: tl.constexpr,
    w_per_image: tl.constexpr,
    LAST: tl.constexpr,
    ALIGN: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """Compute du = g P + (u - center) Q + R for one tile, and dw alike, with g zeroed where masked."""
    C, M = aligned(C, M, LAST, ALIGN)
    n, c, place, inside = tile(C, M, LAST, BM, BC)
    acc: tl.constexpr = P.dtype.element_ty
    image = n * C if per_image else 0
    value = tl.load(g + place, mask=inside, other=0).to(acc)
    x = tl.load(u + place, mask=inside, other=0).to(acc)
    if masked:
        m_image = n * C if mask_per_image else 0
        m_scale, m_shift = channels(mask_scale + m_image, c, C), channels(mask_shift + m_image, c, C)
        value = tl.where(affine_of(x, channels(mask_center, c, C), m_scale, m_shift) <= 0, 0, value)
    found = affine_of(x, channels(center, c, C), channels(Q, c, C), channels(R + image, c, C))
    found = tl.fma(value, channels(P + image, c, C), found)
    tl.store(du + place, found.to(du.dtype.element_ty), mask=inside)
    if third:
        w_image = n * C if w_per_image else 0
        x = tl.load(w + place, mask=inside, other=0).to(acc)
        found = affine_of(x, channels(w_center, c, C), channels(w_Q, c, C), channels(w_R + w_image, c, C))
        found = tl.fma(value, channels(w_P + w_image, c, C), found)
        tl.store(dw + place, found.to(dw.dtype.element_ty), mask=inside)
