"""The residual tail as an operator of torch.library: forward, backward, their shapes, and what is saved between them.

An operator takes tensors, numbers and strings, and each argument costs; so a norm comes as weight, bias, mean, var, eps
and group, where mean and var are None for those of the batch and everything is None or empty for no norm. An excitation
comes as fc1, fc2, bias1, bias2 and the gate's name, empty for none.

Names of shapes: N images, C channels, K hidden units of the excitation; see `tail.py` for the rest.
"""

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet.ops.dispatch import passes_for
from senet.ops.passes import Affine, BatchStatistics, Branches, Excitation, ExcitationOutput, Slope, accumulator, gated
from senet.ops.sync import mean_over_batch, merged_statistics

Maybe = Tensor | None
Ten = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class FrozenNorm(NamedTuple):
    """A norm whose statistics are known: parameters (C,), statistics (C,), and eps."""

    weight_C: Tensor
    bias_C: Tensor
    mean_C: Tensor
    var_C: Tensor
    eps: float

    def affine(self, u: Tensor) -> Affine:
        """Return the affine function that the norm applies to u."""
        dtype = accumulator(u.dtype)
        scale_C = torch.rsqrt(in_type(self.var_C, dtype) + self.eps) * in_type(self.weight_C, dtype)
        return Affine(in_type(self.mean_C, dtype).contiguous(), scale_C, in_type(self.bias_C, dtype).contiguous())


def in_type(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x converted to a type; x itself if it has that type."""
    return x if x.dtype == dtype else x.to(dtype)


def excitation_in_type(
    dtype: torch.dtype, fc1: Tensor, fc2: Tensor, bias1: Maybe, bias2: Maybe, gate: str
) -> Excitation:
    """Return the excitation with its tensors in the type of the sums."""
    bias1, bias2 = (None if x is None else in_type(x, dtype) for x in (bias1, bias2))
    return Excitation(in_type(fc1, dtype).contiguous(), in_type(fc2, dtype).contiguous(), bias1, bias2, gate)


def identity(u: Tensor) -> Affine:
    """Return the identity affine, used where there is no BatchNorm."""
    zero_C = u.new_zeros(u.shape[1], dtype=accumulator(u.dtype))
    return Affine(zero_C, torch.ones_like(zero_C), zero_C)


def layout_of(u: Tensor) -> torch.memory_format:
    """Return the memory format that the passes use for u."""
    return torch.channels_last if u.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def forward(
    u: Tensor,
    weight: Maybe,
    bias: Maybe,
    mean: Maybe,
    var: Maybe,
    eps: float,
    group: str,
    fc1: Maybe,
    fc2: Maybe,
    bias1: Maybe,
    bias2: Maybe,
    gate: str,
    shortcut: Maybe,
    s_weight: Maybe,
    s_bias: Maybe,
    s_mean: Maybe,
    s_var: Maybe,
    s_eps: float,
    s_group: str,
    relu: bool,
) -> Ten:
    """Return (y, mean, var, unbiased var, the same three for the shortcut, m_NC, hidden_NK, gate_NC).

    Outputs that do not apply are empty tensors.
    """
    passes = passes_for(u.device.type, u.dtype)
    dtype, positions = accumulator(u.dtype), u.shape[2] * u.shape[3]
    nothing = partial(u.new_empty, 0, dtype=dtype)  # outputs may not share memory, not even none
    statistics, s_statistics = (BatchStatistics(nothing(), nothing(), nothing()) for _ in range(2))
    of_batch = weight is not None and mean is None
    m_NC = q_NC = hidden_NK = gate_NC = None
    if of_batch or fc1 is not None:
        m_NC, q_NC = passes.moments(u, second=of_batch)
    if m_NC is not None and q_NC is not None:
        statistics = passes.statistics(m_NC, q_NC, positions)
        if group:
            statistics = merged_statistics(statistics, len(u) * positions, group)
        mean, var = statistics.mean_C, statistics.var_C
    if weight is not None and bias is not None and mean is not None and var is not None:
        affine = FrozenNorm(weight, bias, mean, var, eps).affine(u)
    else:
        affine = identity(u)
    if fc1 is not None and fc2 is not None and m_NC is not None:
        se = excitation_in_type(dtype, fc1, fc2, bias1, bias2, gate)
        hidden_NK, gate_NC, affine = passes.excite(m_NC, affine, se)

    s_affine = None
    if s_weight is not None and s_bias is not None and shortcut is not None:
        if s_mean is None or s_var is None:
            s_m_NC, s_q_NC = passes.moments(shortcut, second=True)
            assert s_q_NC is not None
            s_statistics = passes.statistics(s_m_NC, s_q_NC, positions)
            if s_group:
                s_statistics = merged_statistics(s_statistics, len(u) * positions, s_group)
            s_mean, s_var = s_statistics.mean_C, s_statistics.var_C
        s_affine = FrozenNorm(s_weight, s_bias, s_mean, s_var, s_eps).affine(u)
    y = passes.apply(Branches(u, affine, relu, shortcut, s_affine))
    if hidden_NK is None or gate_NC is None or m_NC is None:
        return y, *statistics, *s_statistics, nothing(), nothing(), nothing()
    return y, *statistics, *s_statistics, m_NC, hidden_NK, gate_NC


def forward_shapes(
    u: Tensor,
    weight: Maybe,
    bias: Maybe,
    mean: Maybe,
    var: Maybe,
    eps: float,
    group: str,
    fc1: Maybe,
    fc2: Maybe,
    bias1: Maybe,
    bias2: Maybe,
    gate: str,
    shortcut: Maybe,
    s_weight: Maybe,
    s_bias: Maybe,
    s_mean: Maybe,
    s_var: Maybe,
    s_eps: float,
    s_group: str,
    relu: bool,
) -> Ten:
    """Return tensors of the shapes that `forward` returns."""
    n, c = u.shape[:2]
    new = partial(u.new_empty, dtype=accumulator(u.dtype))
    statistics = [new(c if weight is not None and mean is None else 0) for _ in range(3)]
    s_statistics = [new(c if s_weight is not None and s_mean is None else 0) for _ in range(3)]
    steps = [new(0) for _ in range(3)] if fc1 is None else [new(n, c), new(n, fc1.shape[0]), new(n, c)]
    return torch.empty_like(u), *statistics, *s_statistics, *steps  # type: ignore[return-value]


def backward(
    dy: Tensor,
    u: Tensor,
    y: Maybe,
    weight: Maybe,
    bias: Maybe,
    mean: Maybe,
    var: Maybe,
    eps: float,
    group: str,
    of_batch: bool,
    fc1: Maybe,
    fc2: Maybe,
    gate: str,
    m_NC: Maybe,
    hidden_NK: Maybe,
    gate_NC: Maybe,
    has_shortcut: bool,
    shortcut: Maybe,
    s_weight: Maybe,
    s_bias: Maybe,
    s_mean: Maybe,
    s_var: Maybe,
    s_eps: float,
    s_group: str,
    s_of_batch: bool,
    relu: bool,
) -> Ten:
    """Return the gradients of u, weight, bias, fc1, fc2, bias1, bias2, shortcut, s_weight and s_bias; empty for none.

    The norms come with the statistics that were used; `of_batch` tells those of the batch from given ones. `y` comes
    where its sign is needed, `shortcut` where it has a norm.
    """
    passes = passes_for(u.device.type, u.dtype)
    dtype, positions = accumulator(u.dtype), u.shape[2] * u.shape[3]
    nothing = partial(u.new_empty, 0, dtype=dtype)
    dy = dy.contiguous(memory_format=layout_of(u))
    norm = s_norm = None
    if weight is not None and bias is not None and mean is not None and var is not None:
        norm = FrozenNorm(weight, bias, mean, var, eps)
    if s_weight is not None and s_bias is not None and s_mean is not None and s_var is not None:
        s_norm = FrozenNorm(s_weight, s_bias, s_mean, s_var, s_eps)
    plain = affine = identity(u) if norm is None else norm.affine(u)
    se = output = None
    if fc1 is not None and fc2 is not None and hidden_NK is not None and gate_NC is not None:
        se = excitation_in_type(dtype, fc1, fc2, None, None, gate)
        output = ExcitationOutput(hidden_NK, gate_NC, gated(plain, gate_NC))
        affine = output.affine
    if has_shortcut and shortcut is None:
        shortcut = dy  # without a norm only its presence matters
    branches = Branches(u, affine, relu, shortcut, None if s_norm is None else s_norm.affine(u))

    A_NC, B_NC, W_NC, g = passes.sums(dy, y, branches)
    dfc1 = dfc2 = dbias1 = dbias2 = dz_NC = None
    if se is not None and output is not None and m_NC is not None:
        result = passes.excite_gradients(A_NC, B_NC, m_NC, plain, se, output)
        dfc1, dfc2, dbias1, dbias2, dz_NC, dscale_C, dbias = result
    else:
        dscale_C, dbias = B_NC.sum(0), A_NC.sum(0)

    count = len(u) * positions
    slope, dweight = slope_of(norm, plain, dscale_C, dbias, count if of_batch else None, group)
    if dz_NC is not None:
        slope = Slope(affine.scale, slope.Q_C, torch.addcmul(slope.R, dz_NC, plain.scale, value=1 / positions))
    s_slope = ds_weight = ds_bias = None
    if s_norm is not None and branches.shortcut_affine is not None and W_NC is not None:
        ds_scale_C, ds_bias = W_NC.sum(0), A_NC.sum(0)
        s_count = count if s_of_batch else None
        s_slope, ds_weight = slope_of(s_norm, branches.shortcut_affine, ds_scale_C, ds_bias, s_count, s_group)
    du, dshortcut = passes.gradients(dy if g is None else g, branches, slope, s_slope)
    gradients = (du, dweight, dbias, dfc1, dfc2, dbias1, dbias2, dshortcut, ds_weight, ds_bias)
    return tuple(nothing() if x is None else x for x in gradients)  # type: ignore[return-value]


def slope_of(
    norm: FrozenNorm | None, affine: Affine, dscale_C: Tensor, dshift_C: Tensor, count: int | None, group: str
) -> tuple[Slope, Tensor]:
    """Return how the gradient goes through a norm, and the gradient of its weight.

    Args:
        norm: None for none.
        affine: the function that it applies.
        dscale_C: gradient of the affine function's scale, which is weight * rsqrt(var + eps).
        dshift_C: gradient of its shift, which is the bias.
        count: of the values whose statistics were used; None if the statistics were given.
        group: of the processes whose batches count as one; empty for this process alone.
    """
    zero_C = torch.zeros_like(affine.scale)
    if norm is None:
        return Slope(affine.scale, zero_C, zero_C), dscale_C
    r_C = torch.rsqrt(in_type(norm.var_C, dscale_C.dtype) + norm.eps)
    dweight_C = dscale_C * r_C
    if count is None:
        return Slope(affine.scale, zero_C, zero_C), dweight_C
    mean_dweight_C, mean_dshift_C = mean_over_batch((dweight_C, dshift_C), count, group)
    return Slope(affine.scale, -affine.scale * r_C * mean_dweight_C, -affine.scale * mean_dshift_C), dweight_C


def backward_shapes(
    dy: Tensor,
    u: Tensor,
    y: Maybe,
    weight: Maybe,
    bias: Maybe,
    mean: Maybe,
    var: Maybe,
    eps: float,
    group: str,
    of_batch: bool,
    fc1: Maybe,
    fc2: Maybe,
    gate: str,
    m_NC: Maybe,
    hidden_NK: Maybe,
    gate_NC: Maybe,
    has_shortcut: bool,
    shortcut: Maybe,
    s_weight: Maybe,
    s_bias: Maybe,
    s_mean: Maybe,
    s_var: Maybe,
    s_eps: float,
    s_group: str,
    s_of_batch: bool,
    relu: bool,
) -> Ten:
    """Return tensors of the shapes that `backward` returns."""
    c = u.shape[1]
    k = 0 if fc1 is None else fc1.shape[0]
    new = partial(u.new_empty, dtype=accumulator(u.dtype))
    of_se = [new(0) for _ in range(4)] if fc1 is None else [new(k, c), new(c, k), new(k), new(c)]
    dshortcut = torch.empty_like(u) if has_shortcut else new(0)
    of_s_norm = [new(0 if s_weight is None else c) for _ in range(2)]
    return torch.empty_like(u), new(c), new(c), *of_se, dshortcut, *of_s_norm  # type: ignore[return-value]


class TailFunction(torch.autograd.Function):
    """Connects the two operators; gradients of gradients are not supported."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Ten:
        """Run the operator below autograd and keep what the backward pass needs; see `residual_tail`."""
        with torch._C._AutoDispatchBelowAutograd():
            output: Ten = torch.ops.senet.residual_tail(*inputs)
        u, *norm, eps, group, fc1, fc2, bias1, bias2, gate, shortcut = inputs[:13]
        *s_norm, s_eps, s_group, relu = inputs[13:]
        mean_C, var_C, _, s_mean_C, s_var_C, _, *steps = output[1:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.types = [None if x is None else x.dtype for x in (*norm[:2], fc1, fc2, bias1, bias2, *s_norm[:2])]
        ctx.of_batch, ctx.s_of_batch = (x[0] is not None and x[2] is None for x in (norm, s_norm))
        ctx.has_shortcut = shortcut is not None
        ctx.options = (eps, group, gate, s_eps, s_group, relu)
        norm = [*norm[:2], mean_C, var_C] if ctx.of_batch else norm
        s_norm = [*s_norm[:2], s_mean_C, s_var_C] if ctx.s_of_batch else s_norm
        y = output[0] if relu and ctx.has_shortcut else None
        shortcut = None if s_norm[0] is None else shortcut
        of_se = (None, None, None) if fc1 is None else steps
        ctx.save_for_backward(u, y, *norm, fc1, fc2, *of_se, shortcut, *s_norm)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the inputs; the statistics have none."""
        if dy is None:
            return (None,) * NUM_INPUTS
        u, y, *saved = ctx.saved_tensors
        norm, (fc1, fc2), steps, shortcut, s_norm = saved[:4], saved[4:6], saved[6:9], saved[9], saved[10:]
        eps, group, gate, s_eps, s_group, relu = ctx.options
        du, dweight, dbias, *of_se, dshortcut, ds_weight, ds_bias = torch.ops.senet.residual_tail_backward(
            *(dy, u, y, *norm, eps, group, ctx.of_batch, fc1, fc2, gate, *steps),
            *(ctx.has_shortcut, shortcut, *s_norm, s_eps, s_group, ctx.s_of_batch, relu),
        )
        gradients = [
            None if dtype is None else in_type(gradient, dtype)
            for gradient, dtype in zip((dweight, dbias, *of_se, ds_weight, ds_bias), ctx.types, strict=True)
        ]
        return (
            *(du, *gradients[:2], None, None, None, None, *gradients[2:6], None),
            *(dshortcut if ctx.has_shortcut else None, *gradients[6:], None, None, None, None, None),
        )


def without_autocast(function: Callable[..., Ten]) -> Callable[..., Ten]:
    """Return the function with autocast off: it chooses its own precision."""

    @wraps(function)
    def run(first: Tensor, *rest: Any) -> Ten:
        if not torch.is_autocast_enabled(first.device.type):
            return function(first, *rest)
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *rest)

    return run


NUM_INPUTS = len(signature(forward).parameters)

# Registered one by one: what `torch.library.custom_op` adds costs 0.2 ms a call with so many arguments, as much as the
# whole operator on a small feature map.
LIBRARY = torch.library.Library("senet", "FRAGMENT")
for function, shapes in ((forward, forward_shapes), (backward, backward_shapes)):
    name = "residual_tail" if function is forward else "residual_tail_backward"
    LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
    LIBRARY.impl(name, without_autocast(function), "CompositeExplicitAutograd")
    torch.library.register_fake(f"senet::{name}", shapes, lib=LIBRARY)
LIBRARY.impl("residual_tail", TailFunction.apply, "Autograd")
