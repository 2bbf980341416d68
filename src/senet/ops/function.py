"""The residual tail as one autograd function: the four operators, and between them vectors in plain PyTorch.

torch.compile traces through it, fuses what lies between the operators, and can capture all of it in a CUDA graph.

Names of shapes: N images, C channels, K hidden units of the excitation; see `tail.py` for the rest.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import senet.ops.second_order as second_order
from senet.errors import SenetError
from senet.ops.gates import GATES, hidden_and_gate
from senet.ops.operators import namespace_for
from senet.ops.plain import Affine, Slope
from senet.ops.sync import mean_over_batch, merged_statistics


class Norm(NamedTuple):
    """BatchNorm's parameters and statistics.

    Args:
        weight: (C,); None for one.
        bias: (C,); None for zero.
        mean: (C,), the statistics to normalize with; None takes the batch's.
        var: (C,), as `mean`.
        eps: added to the variance.
        group: name of the process group whose batches count as one (SyncBatchNorm); None for this process alone.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None = None
    var: Tensor | None = None
    eps: float = 1e-5
    group: str | None = None


class Excitation(NamedTuple):
    """The two layers between the squeeze and the scale.

    Args:
        fc1: (K, C), or (K, C, 1, 1) as a 1x1 convolution.
        fc2: (C, K), or (C, K, 1, 1).
        bias1: (K,); None for no biases.
        bias2: (C,); None for no biases.
        gate: the name of one of `senet.ops.gates.GATES`.
    """

    fc1: Tensor
    fc2: Tensor
    bias1: Tensor | None = None
    bias2: Tensor | None = None
    gate: str = "sigmoid"


class BatchStatistics(NamedTuple):
    """Mean, variance and unbiased variance of each channel over images and positions."""

    mean_C: Tensor
    var_C: Tensor
    unbiased_C: Tensor


class Options(NamedTuple):
    """What of the tail is not a tensor: eps and group of both norms, the name of the gate, whether a ReLU closes."""

    eps: float
    group: str | None
    gate: str
    shortcut_eps: float
    shortcut_group: str | None
    relu: bool


class Excited(NamedTuple):
    """The steps of an excitation, kept for the backward pass.

    Args:
        apart_NC: the images' means less the mean that the norm subtracts.
        z_NC: the squeeze: the means after the norm.
        hidden_NK: after its ReLU.
        gate_NC: the gates.
    """

    apart_NC: Tensor
    z_NC: Tensor
    hidden_NK: Tensor
    gate_NC: Tensor


class TailFunction(torch.autograd.Function):
    """Computes the residual tail."""

    @staticmethod
    def forward(ctx: Any, options: Options, u: Tensor, shortcut: Tensor | None, *tensors: Any) -> tuple[Tensor, ...]:
        """Return y, and the `BatchStatistics` of each norm whose statistics are not given.

        Maps are of one type and memory format, vectors and matrices contiguous and of the type of the sums.

        Args:
            ctx: of autograd.
            options: what is not a tensor.
            u: (N, C, H, W).
            shortcut: like u.
            tensors: weight, bias, mean and var of the norm; fc1, fc2, bias1 and bias2 of the excitation, or None;
                weight, bias, mean and var of the shortcut's norm, or None. The mean and var of a batch are None.
        """
        norm, se, s_norm = list(tensors[:4]), tensors[4:8], list(tensors[8:])
        of_batch, s_of_batch = norm[2] is None, s_norm[2] is None
        kernels = getattr(torch.ops, namespace_for(u.device.type))
        statistics: list[Tensor] = []
        excited: Any = (None,) * 4
        s_affine, s_r_C = None, None
        with below_autograd():
            m_NC: Any = None
            if of_batch or se[0] is not None:
                m_NC, q_NC = kernels.moments(u, of_batch)
            if of_batch:
                statistics.extend(batch_statistics(m_NC, q_NC, u, options.group))
                norm[2:] = statistics[:2]
            affine, r_C = affine_of(norm, options.eps)
            function = affine
            if se[0] is not None:
                se = (se[0].flatten(1), se[1].flatten(1), *se[2:])
                excited = excite(m_NC, affine, se, options.gate)
                function = Affine(affine.center_C, excited.gate_NC * affine.scale, excited.gate_NC * affine.shift)
            if s_norm[0] is not None:
                if s_of_batch:
                    s_m_NC, s_q_NC = kernels.moments(shortcut, True)
                    statistics.extend(batch_statistics(s_m_NC, s_q_NC, u, options.shortcut_group))
                    s_norm[2:] = statistics[-3:-1]
                s_affine, s_r_C = affine_of(s_norm, options.shortcut_eps)
            y: Tensor = kernels.apply(u, list(function), shortcut, list(s_affine or ()), options.relu)

        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        ctx.options, ctx.has_shortcut = options, shortcut is not None
        ctx.of_batch, ctx.s_of_batch = of_batch, s_of_batch
        of_s_norm = (None,) * 3 if s_affine is None else (shortcut, s_affine.center_C, s_affine.scale)
        y_if_signed = y if options.relu and shortcut is not None else None
        ctx.save_for_backward(
            *(u, y_if_signed, *affine, r_C, *function[1:], *se, *excited, *of_s_norm, s_r_C),
            *(*tensors[4:6], norm[0], s_norm[0]),
        )
        return y, *statistics

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments; the statistics have none."""
        if dy is None:
            return (None,) * 15
        if second_order.is_wanted(dy):
            return differentiable_gradients(ctx, dy)
        u, y, *saved = ctx.saved_tensors
        affine, r_C, of_function, se, excited = Affine(*saved[:3]), saved[3], saved[4:6], saved[6:10], saved[10:14]
        shortcut, s_center_C, s_scale_C, s_r_C = saved[14:18]
        options, count = ctx.options, len(u) * u.shape[2] * u.shape[3]
        kernels = getattr(torch.ops, namespace_for(u.device.type))
        with backward_precision(u), below_autograd():
            dy = dy.contiguous(memory_format=layout_of(u))
            mask = [affine.center_C, *of_function] if options.relu and y is None else []
            A_NC, B_NC, W_NC, g = kernels.sums(dy, u, affine.center_C, y, mask, shortcut, s_center_C)
            g = dy if y is None else g
            of_se: tuple[Tensor | None, ...] = (None,) * 4
            dz_NC = None
            if se[0] is None:
                dscale_C, dbias_C = B_NC.sum(0), A_NC.sum(0)
            else:
                (dfc1, dfc2, *of_biases), dz_NC, dscale_C, dbias_C = excite_gradients(
                    A_NC, B_NC, affine, se, Excited(*excited), options.gate
                )
                of_se = (strided_like(dfc1, saved[18]), strided_like(dfc2, saved[19]), *of_biases)
            dweight_C = dscale_C * r_C
            sums_C = (dweight_C, dbias_C) if ctx.of_batch else None
            slope = slope_of(affine, of_function[0], r_C, sums_C, count, options.group)
            if dz_NC is not None:
                slope = slope._replace(R=torch.addcmul(slope.R, dz_NC, affine.scale, value=len(u) / count))
            s_slope: tuple[Tensor, ...] = ()
            of_s_norm: Any = (None, None)
            if shortcut is not None:
                of_s_norm = (W_NC.sum(0) * s_r_C, A_NC.sum(0))
                s_affine = Affine(s_center_C, s_scale_C, s_scale_C)
                s_sums_C = of_s_norm if ctx.s_of_batch else None
                s_slope = slope_of(s_affine, s_scale_C, s_r_C, s_sums_C, count, options.shortcut_group)
            du, dshortcut = kernels.gradients(g, u, list(slope), mask, shortcut, list(s_slope))
        if shortcut is None:
            dshortcut = g if ctx.has_shortcut else None
        return None, du, dshortcut, dweight_C, dbias_C, None, None, *of_se, *of_s_norm, None, None


def batch_statistics(m_NC: Tensor, q_NC: Tensor, u: Tensor, group: str | None) -> BatchStatistics:
    """Return the statistics of a batch from the moments of its images, which have the shape of u."""
    count = len(u) * u.shape[2] * u.shape[3]
    mean_C = m_NC.mean(0)
    apart_NC = m_NC - mean_C
    var_C = torch.addcmul(q_NC, apart_NC, apart_NC).mean(0)
    if group:
        return BatchStatistics(*merged_statistics(mean_C, var_C, count, group))
    return BatchStatistics(mean_C, var_C, var_C * (count / max(count - 1, 1)))


def affine_of(norm: Sequence[Tensor], eps: float) -> tuple[Affine, Tensor]:
    """Return the function that a norm of weight, bias, mean and var applies, and rsqrt(var + eps)."""
    weight_C, bias_C, mean_C, var_C = norm
    r_C = torch.rsqrt(var_C + eps)
    return Affine(mean_C, r_C * weight_C, bias_C), r_C


def excite(m_NC: Tensor, affine: Affine, se: Sequence[Any], gate: str) -> Excited:
    """Squeeze and excite.

    Args:
        m_NC: means of u over positions.
        affine: what the norm does to u.
        se: fc1 (K, C), fc2 (C, K), bias1 and bias2.
        gate: its name.
    """
    apart_NC = m_NC - affine.center_C
    z_NC = torch.addcmul(affine.shift, apart_NC, affine.scale)
    return Excited(apart_NC, z_NC, *hidden_and_gate(z_NC, se, gate))


def excite_gradients(
    A_NC: Tensor, B_NC: Tensor, affine: Affine, se: Sequence[Any], excited: Excited, gate: str
) -> tuple[tuple[Any, ...], Tensor, Tensor, Tensor]:
    """Go back through `excite` and the scale.

    Args:
        A_NC: the first sum of the operator `sums`.
        B_NC: the second.
        affine: as in `excite`.
        se: fc1, fc2, bias1 and bias2.
        excited: what `excite` returned.
        gate: its name.

    Returns:
        The gradients of `se`, of the squeeze (N, C), and of the norm's scale and shift (C,).
    """
    apart_NC, z_NC, hidden_NK, gate_NC = excited
    slope_NC = GATES[gate].slope_from(gate_NC)
    dlogit_NC = torch.addcmul(B_NC * affine.scale, A_NC, affine.shift).mul_(slope_NC)
    of_layers, dz_NC = layer_gradients(dlogit_NC, se, z_NC, hidden_NK)
    dscale_C = torch.addcmul(gate_NC * B_NC, dz_NC, apart_NC).sum(0)
    return of_layers, dz_NC, dscale_C, torch.addcmul(dz_NC, gate_NC, A_NC).sum(0)


def layer_gradients(
    dlogit_NC: Tensor, se: Sequence[Any], z_NC: Tensor, hidden_NK: Tensor
) -> tuple[tuple[Any, ...], Tensor]:
    """Go back through the two layers of an excitation.

    Args:
        dlogit_NC: gradient of the second layer's output.
        se: fc1 (K, C), fc2 (C, K), bias1 and bias2.
        z_NC: the squeeze.
        hidden_NK: the first layer's output, after its ReLU.

    Returns:
        The gradients of `se`, and of the squeeze (N, C).
    """
    fc1, fc2, bias1, bias2 = se
    dhidden_NK = torch.ops.aten.threshold_backward(product(dlogit_NC, fc2), hidden_NK, 0)
    dfc1, dfc2 = product(dhidden_NK.T, z_NC), product(dlogit_NC.T, hidden_NK)
    dbias1 = None if bias1 is None else dhidden_NK.sum(0)
    dbias2 = None if bias2 is None else dlogit_NC.sum(0)
    return (dfc1, dfc2, dbias1, dbias2), product(dhidden_NK, fc1)


def slope_of(
    affine: Affine, p: Tensor, r_C: Tensor, sums_C: tuple[Tensor, Tensor] | None, count: int, group: str | None
) -> Slope:
    """Return how the gradient goes back through a norm.

    Args:
        affine: what the norm does.
        p: what the map is multiplied with in all, (C,) or (N, C).
        r_C: rsqrt(var + eps).
        sums_C: the gradients of the norm's weight and bias; None if its statistics were given.
        count: of the values of a channel.
        group: of the processes whose batches count as one.
    """
    if sums_C is None:
        zero_C = torch.zeros_like(r_C)
        return Slope(affine.center_C, p, zero_C, zero_C)
    if group:
        sums_C, count = mean_over_batch(sums_C, count, group), 1
    share_C = affine.scale * (-1 / count)
    return Slope(affine.center_C, p, share_C * r_C * sums_C[0], share_C * sums_C[1])


def differentiable_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Return what `TailFunction.backward` does, in differentiable operations.

    Raises:
        SenetError: the batches of several processes count as one.
    """
    u, y, center_C, _, bias_C, r_C, *saved = ctx.saved_tensors
    biases, shortcut, s_center_C, s_r_C = saved[4:6], saved[10], saved[11], saved[13]
    *matrices, weight_C, s_weight_C = saved[14:]
    se = (*matrices, *biases)
    options: Options = ctx.options
    if (ctx.of_batch and options.group) or (ctx.s_of_batch and options.shortcut_group):
        raise SenetError("a fused SyncBatchNorm has no gradients of gradients; call senet.unfuse(model) first")

    def branch(u: Tensor, weight_C: Tensor, bias_C: Tensor, *se: Any) -> Tensor:
        given = None if ctx.of_batch else (center_C, r_C)
        out = second_order.normalized(u, weight_C, bias_C, given, options.eps)
        out = out if se[0] is None else second_order.excited(out, se, options.gate)
        return F.relu(out) if options.relu and y is None else out

    def of_shortcut(shortcut: Tensor, weight_C: Tensor, bias_C: Tensor) -> Tensor:
        given = None if ctx.s_of_batch else (s_center_C, s_r_C)
        return second_order.normalized(shortcut, weight_C, bias_C, given, options.shortcut_eps)

    with full_precision(u):
        g = second_order.through_relu(dy, y)
        du, dweight_C, dbias_C, *of_se = second_order.gradients_through(branch, (u, weight_C, bias_C, *se), g)
        dshortcut = g if ctx.has_shortcut else None
        of_s_norm: list[Tensor | None] = [None, None]
        if shortcut is not None:
            s_bias_C = torch.zeros_like(s_weight_C, requires_grad=True)  # its value changes no gradient
            dshortcut, *of_s_norm = second_order.gradients_through(of_shortcut, (shortcut, s_weight_C, s_bias_C), g)
    return None, du, dshortcut, dweight_C, dbias_C, None, None, *of_se, *of_s_norm, None, None


def strided_like(gradient: Tensor, weight: Tensor) -> Tensor:
    """View the gradient of a matrix in the shape of the weight, which may be a convolution's, and with its strides.

    Optimizers and DistributedDataParallel are slower where the strides differ.
    """
    return gradient.as_strided(weight.shape, weight.stride())


def layout_of(u: Tensor) -> torch.memory_format:
    """Return the memory format that the kernels use for u."""
    return torch.channels_last if u.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def full_precision(u: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast, which would multiply the excitation's matrices in 16 bits."""
    if not torch._C._is_any_autocast_enabled():
        return nullcontext()
    return torch.autocast(u.device.type, enabled=False)


def backward_precision(u: Tensor) -> AbstractContextManager[Any]:
    """Return the same for a backward pass; torch.compile would lose the context's end, see `product`."""
    return nullcontext() if torch.compiler.is_compiling() else full_precision(u)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in the type of a.

    In a compiled backward pass under autocast the product itself is of 16 bits, as that of PyTorch's layers is: Dynamo
    traces it with autocast off, and what compiles the trace turns it on again.
    """
    return (a @ b).to(a.dtype) if torch.compiler.is_compiling() else a @ b


def below_autograd() -> AbstractContextManager[Any]:
    """Return a context in which autograd is not asked at every operation: a tenth of the time of small maps."""
    return nullcontext() if torch.compiler.is_compiling() else torch._C._AutoDispatchBelowAutograd()
