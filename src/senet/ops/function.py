"""The residual tail as one autograd function: the four operators, and between them vectors in plain PyTorch.

torch.compile traces through it, fuses what lies between the operators, and can capture all of it in a CUDA graph.

Names of shapes: N images, C channels, K hidden units of the excitation; see `tail.py` for the rest.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.errors import SenetError
from senet.ops.gates import GATES
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


class TailFunction(torch.autograd.Function):
    """Computes the residual tail; gradients of gradients are not supported."""

    @staticmethod
    def forward(
        ctx: Any,
        options: Options,
        u: Tensor,
        weight_C: Tensor,
        bias_C: Tensor,
        mean_C: Tensor | None,
        var_C: Tensor | None,
        fc1: Tensor | None,
        fc2: Tensor | None,
        bias1: Tensor | None,
        bias2: Tensor | None,
        shortcut: Tensor | None,
        s_weight_C: Tensor | None,
        s_bias_C: Tensor | None,
        s_mean_C: Tensor | None,
        s_var_C: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return y, and the `BatchStatistics` of each norm whose statistics are not given.

        Maps are of one type and memory format, vectors and matrices contiguous and of the type of the sums.
        """
        ctx.shapes = None if fc1 is None else (fc1.shape, fc2.shape)
        with full_precision(u), below_autograd():
            kernels = getattr(torch.ops, namespace_for(u.device.type))
            of_batch, found, m_NC = mean_C is None, [], None
            if of_batch or fc1 is not None:
                m_NC, q_NC = kernels.moments(u, of_batch)
            if of_batch:
                found += batch_statistics(m_NC, q_NC, u, options.group)
                mean_C, var_C = found[:2]
            r_C = torch.rsqrt(var_C + options.eps)
            affine = Affine(mean_C, r_C * weight_C, bias_C)
            apart_NC = z_NC = hidden_NK = gate_NC = None
            function = affine
            if fc1 is not None:
                apart_NC = m_NC - mean_C
                z_NC = torch.addcmul(bias_C, apart_NC, affine.scale)
                fc1, fc2 = fc1.flatten(1), fc2.flatten(1)
                hidden_NK = F.linear(z_NC, fc1, bias1).relu_()
                gate_NC = GATES[options.gate].function(F.linear(hidden_NK, fc2, bias2))
                function = Affine(mean_C, gate_NC * affine.scale, gate_NC * bias_C)

            s_affine, s_r_C, s_of_batch = (), None, s_mean_C is None
            if s_weight_C is not None:
                if s_of_batch:
                    found += batch_statistics(*kernels.moments(shortcut, True), u, options.shortcut_group)
                    s_mean_C, s_var_C = found[-3:-1]
                s_r_C = torch.rsqrt(s_var_C + options.shortcut_eps)
                s_affine = Affine(s_mean_C, s_r_C * s_weight_C, s_bias_C)
            y = kernels.apply(u, function, shortcut, s_affine, options.relu)

        ctx.mark_non_differentiable(*found)
        ctx.set_materialize_grads(False)
        ctx.options, ctx.of_batch, ctx.s_of_batch = options, of_batch, s_of_batch
        ctx.has_shortcut, ctx.has_biases = shortcut is not None, (bias1 is not None, bias2 is not None)
        ctx.save_for_backward(
            *(u, y if options.relu and shortcut is not None else None, *affine, r_C),
            *(fc1, fc2, apart_NC, z_NC, hidden_NK, gate_NC, *function[1:]),
            *(shortcut, *s_affine[:2], s_r_C) if s_affine else (None,) * 4,
        )
        return y, *found

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments; the statistics have none."""
        if dy is None:
            return (None,) * 16
        refuse_second_order()
        u, y, *saved = ctx.saved_tensors
        mean_C, scale_C, bias_C, r_C, fc1, fc2, apart_NC, z_NC, hidden_NK, gate_NC, *of_function = saved[:12]
        shortcut, s_mean_C, s_scale_C, s_r_C = saved[12:]
        options, positions = ctx.options, u.shape[2] * u.shape[3]
        count = len(u) * positions
        kernels = getattr(torch.ops, namespace_for(u.device.type))
        with full_precision(u), below_autograd():
            dy = dy.contiguous(memory_format=layout_of(u))
            mask = Affine(mean_C, *of_function) if options.relu and y is None else ()
            A_NC, B_NC, W_NC, g = kernels.sums(dy, u, mean_C, y, mask, shortcut, s_mean_C)
            g = dy if y is None else g
            of_se, dz_NC = (None,) * 4, None
            if fc1 is None:
                dscale_C, dbias_C = B_NC.sum(0), A_NC.sum(0)
            else:
                slope_NC = GATES[options.gate].slope_from(gate_NC)
                dlogit_NC = torch.addcmul(B_NC * scale_C, A_NC, bias_C).mul_(slope_NC)
                dhidden_NK = torch.ops.aten.threshold_backward(dlogit_NC @ fc2, hidden_NK, 0)
                dz_NC = dhidden_NK @ fc1
                of_biases = (x.sum(0) if has else None for x, has in zip((dhidden_NK, dlogit_NC), ctx.has_biases, strict=True))
                dfc1, dfc2 = dhidden_NK.T @ z_NC, dlogit_NC.T @ hidden_NK
                of_se = (dfc1.view(ctx.shapes[0]), dfc2.view(ctx.shapes[1]), *of_biases)
                dscale_C = torch.addcmul(gate_NC * B_NC, dz_NC, apart_NC).sum(0)
                dbias_C = torch.addcmul(dz_NC, gate_NC, A_NC).sum(0)
            dweight_C = dscale_C * r_C
            slope = slope_of(
                *(mean_C, of_function[0], scale_C, r_C, dweight_C, dbias_C),
                *(count if ctx.of_batch else None, options.group),
            )
            if dz_NC is not None:
                slope = slope._replace(R=torch.addcmul(slope.R, dz_NC, scale_C, value=1 / positions))
            s_slope, ds_weight_C, ds_bias_C = (), None, None
            if shortcut is not None:
                ds_weight_C, ds_bias_C = W_NC.sum(0) * s_r_C, A_NC.sum(0)
                s_slope = slope_of(
                    *(s_mean_C, s_scale_C, s_scale_C, s_r_C, ds_weight_C, ds_bias_C),
                    *(count if ctx.s_of_batch else None, options.shortcut_group),
                )
            du, dshortcut = kernels.gradients(g, u, slope, mask, shortcut, s_slope)
        if ctx.has_shortcut and shortcut is None:
            dshortcut = g
        return (
            *(None, du, dweight_C, dbias_C, None, None, *of_se),
            *(dshortcut if ctx.has_shortcut else None, ds_weight_C, ds_bias_C, None, None),
        )


def batch_statistics(m_NC: Tensor, q_NC: Tensor, u: Tensor, group: str | None) -> BatchStatistics:
    """Return the statistics of a batch from the moments of its images, which have the shape of u."""
    count = len(u) * u.shape[2] * u.shape[3]
    mean_C = m_NC.mean(0)
    apart_NC = m_NC - mean_C
    var_C = torch.addcmul(q_NC, apart_NC, apart_NC).mean(0)
    if group:
        return BatchStatistics(*merged_statistics(mean_C, var_C, count, group))
    return BatchStatistics(mean_C, var_C, var_C * (count / max(count - 1, 1)))


def slope_of(
    mean_C: Tensor,
    p: Tensor,
    scale_C: Tensor,
    r_C: Tensor,
    dweight_C: Tensor,
    dbias_C: Tensor,
    count: int | None,
    group: str | None,
) -> Slope:
    """Return how the gradient goes back through a norm.

    Args:
        mean_C: that the norm subtracts.
        p: what the map is multiplied with in all, (C,) or (N, C).
        scale_C: of the norm: weight * r.
        r_C: of the norm: rsqrt(var + eps).
        dweight_C: the gradient of the norm's weight.
        dbias_C: that of its bias.
        count: of the values whose statistics were used; None if the statistics were given.
        group: of the processes whose batches count as one.
    """
    if count is None:
        zero_C = torch.zeros_like(mean_C)
        return Slope(mean_C, p, zero_C, zero_C)
    if group:
        dweight_C, dbias_C = mean_over_batch((dweight_C, dbias_C), count, group)
        count = 1
    share_C = scale_C * (-1 / count)
    return Slope(mean_C, p, share_C * r_C * dweight_C, share_C * dbias_C)


def refuse_second_order() -> None:
    """Raise a SenetError in a backward pass whose own gradients are wanted."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise SenetError("a fused network has no gradients of gradients; call senet.unfuse(model) first")


def layout_of(u: Tensor) -> torch.memory_format:
    """Return the memory format that the kernels use for u."""
    return torch.channels_last if u.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def full_precision(u: Tensor) -> AbstractContextManager[Any]:
    """Return a context without autocast, which would multiply the excitation's matrices in 16 bits."""
    kind = u.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def below_autograd() -> AbstractContextManager[Any]:
    """Return a context in which autograd is not asked at every operation: a tenth of the time of small maps."""
    return nullcontext() if torch.compiler.is_compiling() else torch._C._AutoDispatchBelowAutograd()
