"""The two operators of `senet.ops.gate` in Triton, for CUDA; `torch.compile` sees the kernels.

Programs of `squeeze` take one image, a run of positions and a block of channels; those of `excite` one tile. Arithmetic
is in float32. No sum depends on the order in which programs run, nor that of an image on how many images there are.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton reads annotations of a kernel's arguments, so only constants have one.

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from senet.ops.triton_kernels import for_tensors

MAX_SHARES = 2048
"""Values of the parts of one image, 8 kB, which every program of `excite` reads."""
TILE = 2048
"""Values of a tile: at four warps 16 a thread. One image of SE-ResNet-50 is 16 (stage 4) to 392 programs (stage 1)."""
MANY_IMAGES = 8
"""From here on the multiprocessors are full, and tiles of `excite` twice as large: fewer programs read the parts."""
SIGMOID, TANH, RELU, HARD_SIGMOID, SIGMOID_X2, HARD_SIGMOID_X2 = map(tl.constexpr, range(6))
"""The numbers of the gates: places in `senet.ops.gate.KINDS`."""


@triton.jit
def gate_of(x, kind: tl.constexpr):
    """Apply a gate to logits; a NaN stays."""
    if kind == SIGMOID:
        gate = tl.sigmoid(x)
    elif kind == TANH:
        gate = 2 * tl.sigmoid(2 * x) - 1
    elif kind == RELU:
        gate = tl.where(x < 0, 0.0, x)
    elif kind == HARD_SIGMOID:
        gate = hard_sigmoid(x)
    elif kind == SIGMOID_X2:
        gate = 2 * tl.sigmoid(x)
    else:
        gate = 2 * hard_sigmoid(x)
    return gate


@triton.jit
def hard_sigmoid(x):
    """Compute min(max(x + 3, 0), 6) / 6; a NaN stays."""
    x = (x + 3) / 6
    return tl.where(x < 0, 0.0, tl.where(x > 1, 1.0, x))


@triton.jit
def squeeze_kernel(
    x,
    bias,
    fc1,
    bias1,
    h,
    parts,
    C,
    M,
    steps,
    stride_m,
    stride_c,
    K: tl.constexpr,
    has_bias: tl.constexpr,
    relu: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
):
    """Compute h = relu(x + bias) of `steps` tiles, and their part of the hidden layer."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(2) * BC + tl.arange(0, BC)
    k = tl.arange(0, BK)
    weights = tl.load(fc1 + k[:, None] * C + c[None, :], mask=(k < K)[:, None] & (c < C)[None, :], other=0)
    total = tl.zeros((BM, BC), dtype=tl.float32)
    for step in range(steps):
        m = (tl.program_id(1) * steps + step) * BM + tl.arange(0, BM)
        inside = (m < M)[:, None] & (c < C)[None, :]
        place = n * C * M + m[:, None] * stride_m + c[None, :] * stride_c
        value = tl.load(x + place, mask=inside, other=0).to(tl.float32)
        if has_bias:
            value += tl.load(bias + c, mask=c < C, other=0).to(tl.float32)[None, :]
        if relu:
            value = tl.where(value < 0, 0.0, value)  # a NaN stays
        if has_bias or relu:
            tl.store(h + place, value.to(h.dtype.element_ty), mask=inside)
        total += tl.where(inside, value, 0.0)
    mean = tl.sum(total, 0) / M
    first = (tl.program_id(1) == 0) & (tl.program_id(2) == 0)
    row = (n * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(2) + tl.program_id(2)
    for start in tl.static_range(0, K, BK):
        k = start + tl.arange(0, BK)
        if start > 0:
            weights = tl.load(fc1 + k[:, None] * C + c[None, :], mask=(k < K)[:, None] & (c < C)[None, :], other=0)
        part = tl.sum(weights.to(tl.float32) * mean[None, :], 1)
        part += tl.load(bias1 + k, mask=(k < K) & first, other=0).to(tl.float32)
        tl.store(parts + row * K + k, part, mask=k < K)


@triton.jit
def excite_kernel(
    v,
    bias,
    shortcut,
    shortcut_bias,
    parts,
    fc2,
    bias2,
    y,
    C,
    M,
    P,
    stride_m,
    stride_c,
    K: tl.constexpr,
    kind: tl.constexpr,
    has_bias: tl.constexpr,
    has_shortcut: tl.constexpr,
    has_shortcut_bias: tl.constexpr,
    relu: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    BP: tl.constexpr,
):
    """Compute the gates of a block of channels of one image, and with them one tile of the output."""
    n = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    inside = (m < M)[:, None] & (c < C)[None, :]
    place = n * C * M + m[:, None] * stride_m + c[None, :] * stride_c
    # The maps are on their way while the gates are computed.
    value = tl.load(v + place, mask=inside, other=0)
    if has_shortcut:
        other = tl.load(shortcut + place, mask=inside, other=0)
    logits = tl.load(bias2 + c, mask=c < C, other=0).to(tl.float32)
    for start in tl.static_range(0, K, BK):
        k = start + tl.arange(0, BK)
        weights = tl.load(fc2 + c[:, None] * K + k[None, :], mask=(c < C)[:, None] & (k < K)[None, :], other=0)
        shares = tl.zeros((BP, BK), dtype=tl.float32)
        for first in range(0, P, BP):
            p = first + tl.arange(0, BP)
            shares += tl.load(
                parts + (n * P + p)[:, None] * K + k[None, :], mask=(p < P)[:, None] & (k < K)[None, :], other=0
            )
        hidden = tl.sum(shares, 0)
        hidden = tl.where(hidden < 0, 0.0, hidden)  # a NaN stays
        logits += tl.sum(weights.to(tl.float32) * hidden[None, :], 1)
    out = value.to(tl.float32)
    if has_bias:
        out += tl.load(bias + c, mask=c < C, other=0).to(tl.float32)[None, :]
    out *= gate_of(logits, kind)[None, :]
    if has_shortcut:
        out += other.to(tl.float32)
    if has_shortcut_bias:
        out += tl.load(shortcut_bias + c, mask=c < C, other=0).to(tl.float32)[None, :]
    if relu:
        out = tl.where(out < 0, 0.0, out)  # a NaN stays
    tl.store(y + place, out.to(y.dtype.element_ty), mask=inside)


# ---- launching -------------------------------------------------------------------------------------------------------


def is_channels_last(x: Tensor) -> bool:
    """Whether channels are next to each other in memory."""
    return x.is_contiguous(memory_format=torch.channels_last)


def dense(x: Tensor, channels_last: bool) -> Tensor:
    """Return a map in one of the two layouts, copied only if it is not."""
    return x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def strides(x: Tensor, channels_last: bool) -> tuple[int, int]:
    """Return how far apart positions are in memory, and channels."""
    return (x.shape[1], 1) if channels_last else (1, x.shape[2] * x.shape[3])


def block_sizes(x: Tensor, channels_last: bool, tile: int) -> tuple[int, int]:
    """Return BLOCK_M and BLOCK_C of a tile of at most so many values: 128 bytes and more along what is contiguous."""
    positions, channels = (triton.next_power_of_2(s) for s in (x.shape[2] * x.shape[3], x.shape[1]))
    if channels_last:
        block_c = min(channels, 64)
        return min(tile // block_c, positions), block_c
    block_m = min(positions, 256)
    return block_m, min(tile // block_m, channels)


@triton_op("senet_triton::squeeze", mutates_args=())
def squeeze(x: Tensor, bias: Tensor | None, relu: bool, fc1: Tensor, bias1: Tensor) -> tuple[Tensor, Tensor]:
    """See `senet.ops.gate.squeeze`; instead of an h that equals x it returns an empty tensor (0,)."""
    last = is_channels_last(x)
    x = dense(x, last)
    (images, channels, height, width), hidden = x.shape, fc1.shape[0]
    block_m, block_c = block_sizes(x, last, TILE)
    tiles, blocks = triton.cdiv(height * width, block_m), triton.cdiv(channels, block_c)
    steps = triton.cdiv(tiles * blocks * hidden, MAX_SHARES)
    runs = triton.cdiv(tiles, min(steps, tiles))
    parts = torch.empty(images, runs * blocks, hidden, dtype=torch.float32, device=x.device)
    changed = bias is not None or relu
    h = torch.empty_like(x) if changed else x.new_empty(0)
    for_tensors(squeeze_kernel, x)[(images, runs, blocks)](
        x,
        bias1 if bias is None else bias,
        fc1.contiguous(),
        bias1,
        h if changed else x,
        parts,
        channels,
        height * width,
        min(steps, tiles),
        *strides(x, last),
        K=hidden,
        has_bias=bias is not None,
        relu=relu,
        BM=block_m,
        BC=block_c,
        BK=min(triton.next_power_of_2(hidden), 128),
    )
    return parts, h


@triton_op("senet_triton::excite", mutates_args=())
def excite(
    v: Tensor,
    parts: Tensor,
    fc2: Tensor,
    bias2: Tensor,
    kind: int,
    bias: Tensor | None,
    shortcut: Tensor | None,
    shortcut_bias: Tensor | None,
    relu: bool,
) -> Tensor:
    """See `senet.ops.gate.excite`; `kind` is the gate's place in `senet.ops.gate.KINDS`."""
    last = is_channels_last(v)
    v = dense(v, last)
    (images, channels, height, width), (_, shares, hidden) = v.shape, parts.shape
    block_m, block_c = block_sizes(v, last, TILE if images < MANY_IMAGES else 2 * TILE)
    block_k = min(triton.next_power_of_2(hidden), 64)
    y = torch.empty_like(v)
    grid = (images, triton.cdiv(channels, block_c), triton.cdiv(height * width, block_m))
    for_tensors(excite_kernel, v)[grid](
        v,
        bias2 if bias is None else bias,
        v if shortcut is None else dense(shortcut, last),
        bias2 if shortcut_bias is None else shortcut_bias,
        parts,
        fc2.contiguous(),
        bias2,
        y,
        channels,
        height * width,
        shares,
        *strides(v, last),
        K=hidden,
        kind=kind,
        has_bias=bias is not None,
        has_shortcut=shortcut is not None,
        has_shortcut_bias=shortcut_bias is not None,
        relu=relu,
        BM=block_m,
        BC=block_c,
        BK=block_k,
        BP=min(triton.next_power_of_2(shares), MAX_SHARES // block_k),
    )
    return y
