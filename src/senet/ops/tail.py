"""The end of a residual branch in four operators: BatchNorm, squeeze, excitation, scale, sum and ReLU.

Two passes over the feature map forward and two backward. BatchNorm's statistics are those of the images' means and
centered second moments, and the means are what SE squeezes; everything between the passes is (N, C)-sized.

Shapes: N images, C channels, M = H * W positions, K hidden units of the excitation.
  u, shortcut, y (N, C, H, W): the branch's last convolution, what is added to it, the result
  m_NC, q_NC: mean and centered second moment of u for each image and channel
  mean_C, var_C: BatchNorm's, over images and positions
  z_NC, hidden_NK, logit_NC, gate_NC: the squeeze and the steps of the excitation

Source: arXiv:1709.01507v4, equations 2-4 and Figure 3; Ioffe and Szegedy, arXiv:1502.03167 (BatchNorm).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from senet.errors import SenetError
from senet.ops.function import BatchStatistics, Excitation, Norm, Options, TailFunction, full_precision, layout_of
from senet.ops.gates import GATES
from senet.ops.plain import accumulator, in_type

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Tail(NamedTuple):
    """What `residual_tail` returns: y, and the batch's statistics where a BatchNorm has taken them."""

    y: Tensor
    statistics: BatchStatistics | None
    shortcut_statistics: BatchStatistics | None


def residual_tail(
    u: Tensor,
    norm: Norm | None = None,
    excitation: Excitation | None = None,
    shortcut: Tensor | None = None,
    shortcut_norm: Norm | None = None,
    relu: bool = True,
) -> Tail:
    """Compute `relu(gate * norm(u) + shortcut_norm(shortcut))`, any part of which may be left out.

    It saves for the backward pass u and y (the next layer's input), vectors over channels, and the shortcut where it
    has a norm. Gradients of gradients compute it again.

    Args:
        u: (N, C, H, W), float32, bfloat16, float16 or float64; channels-last is fastest.
        norm: BatchNorm after u.
        excitation: SE after the norm; its squeeze is the mean.
        shortcut: like u.
        shortcut_norm: BatchNorm after the shortcut.
        relu: close with a ReLU.

    Raises:
        SenetError: a shape, type or device that does not fit.

    >>> u = torch.randn(2, 64, 7, 7)
    >>> residual_tail(u, Norm(torch.ones(64), torch.zeros(64)), shortcut=u).y.shape
    torch.Size([2, 64, 7, 7])
    """
    check(u, norm, excitation, shortcut, shortcut_norm)
    return unchecked_tail(u, norm, excitation, shortcut, shortcut_norm, relu)


def unchecked_tail(
    u: Tensor,
    norm: Norm | None,
    excitation: Excitation | None,
    shortcut: Tensor | None,
    shortcut_norm: Norm | None,
    relu: bool,
) -> Tail:
    """Compute `residual_tail` of arguments that are known to fit each other."""
    layout, dtype = layout_of(u), accumulator(u.dtype)
    if norm is None:
        norm = Norm(None, None, u.new_zeros(u.shape[1], dtype=dtype), u.new_ones(u.shape[1], dtype=dtype), 0.0)
    shortcut = shortcut.view_as(u) if shortcut is u else shortcut  # torch.compile wants every argument to be another
    options = Options(
        *(norm.eps, norm.group, "" if excitation is None else excitation.gate),
        *(0.0, None) if shortcut_norm is None else (shortcut_norm.eps, shortcut_norm.group),
        relu,
    )
    with full_precision(u):
        y, *statistics = TailFunction.apply(
            options,
            u.contiguous(memory_format=layout),
            None if shortcut is None else shortcut.contiguous(memory_format=layout),
            *vectors(norm, u),
            *(None,) * 4 if excitation is None else (dense(x, dtype) for x in excitation[:4]),
            *(None,) * 4 if shortcut_norm is None else vectors(shortcut_norm, u),
        )
    of_shortcut = shortcut_norm is not None and shortcut_norm.mean is None
    return Tail(
        y,
        BatchStatistics(*statistics[:3]) if norm.mean is None else None,
        BatchStatistics(*statistics[-3:]) if of_shortcut else None,
    )


def vectors(norm: Norm, u: Tensor) -> tuple[Tensor | None, ...]:
    """Return weight, bias, mean and var of a norm in the type of the sums."""
    dtype = accumulator(u.dtype)
    weight, bias, mean, var = (dense(x, dtype) for x in norm[:4])
    weight = u.new_ones(u.shape[1], dtype=dtype) if weight is None else weight
    return weight, u.new_zeros(u.shape[1], dtype=dtype) if bias is None else bias, mean, var


def dense(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return x, contiguous, in a type; x itself if it is, and None for None."""
    return None if x is None else in_type(x, dtype).contiguous()


def check(
    u: Tensor, norm: Norm | None, excitation: Excitation | None, shortcut: Tensor | None, shortcut_norm: Norm | None
) -> None:
    """Raise a SenetError for arguments that do not fit each other."""
    if u.dim() != 4 or u.dtype not in DTYPES:
        raise SenetError(
            f"u is {u.dtype} of shape {tuple(u.shape)}; expected (N, C, H, W) of {', '.join(map(str, DTYPES))}"
        )
    if u.numel() == 0:
        raise SenetError(f"u is empty, of shape {tuple(u.shape)}; expected at least one image, channel and position")
    channels = u.shape[1]
    if shortcut is not None and (shortcut.shape, shortcut.dtype, shortcut.device) != (u.shape, u.dtype, u.device):
        raise SenetError(
            f"shortcut is {shortcut.dtype} of shape {tuple(shortcut.shape)} on {shortcut.device}; "
            f"expected {u.dtype} of shape {tuple(u.shape)} on {u.device}, as u"
        )
    if shortcut_norm is not None and shortcut is None:
        raise SenetError("shortcut_norm has no effect without a shortcut; leave it out")
    expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {}
    for name, one in (("norm", norm), ("shortcut_norm", shortcut_norm)):
        if one is not None:
            if (one.mean is None) != (one.var is None):
                raise SenetError(f"{name} has one of mean and var; expected both or neither")
            expected |= {f"{name}.{field}": (getattr(one, field), (channels,)) for field in Norm._fields[:4]}
            if one.mean is None and u.shape[0] * u.shape[2] * u.shape[3] == 1 and one.group is None:
                raise SenetError(f"u is {tuple(u.shape)}; the statistics of a batch need more than one value a channel")
    if excitation is not None:
        if excitation.gate not in GATES:
            raise SenetError(f"excitation.gate is {excitation.gate!r}; expected one of {', '.join(GATES)}")
        if GATES[excitation.gate].slope is None:
            raise SenetError(f"excitation.gate is {excitation.gate!r}, which has no slope and cannot run fused")
        hidden = len(excitation.fc1)
        ones = (1,) * (excitation.fc1.dim() - 2)  # of 1x1 convolutions
        shapes = ((hidden, channels, *ones), (channels, hidden, *ones), (hidden,), (channels,))
        for field, shape in zip(Excitation._fields, shapes, strict=False):  # the last is the gate
            expected[f"excitation.{field}"] = (getattr(excitation, field), shape)
    for name, (value, shape) in expected.items():
        if value is not None and value.shape != shape:
            raise SenetError(f"{name} is of shape {tuple(value.shape)}; expected {shape}")
        if value is not None and value.device != u.device:
            raise SenetError(f"{name} is on {value.device}; expected {u.device}, where u is")
