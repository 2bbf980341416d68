"""The Squeeze-and-Excitation block: the only implementation of squeeze, excitation and scale."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError, check_choice
from senet.nn.tracing import is_traced

Squeeze = Literal["avg", "max", "none"]
Gate = Literal["sigmoid", "tanh", "relu", "hard_sigmoid"]
Placement = Literal["standard", "pre", "post", "identity", "3x3"]


def apply_gate(gate: str, logits: Tensor) -> Tensor:
    """Apply one of the non-linearities `Gate`; written out, for TorchScript knows no table of functions."""
    if gate == "sigmoid":
        return torch.sigmoid(logits)
    if gate == "tanh":
        return torch.tanh(logits)
    return F.relu(logits) if gate == "relu" else F.hardsigmoid(logits)


class SEBlock(nn.Module):
    """Recalibrates the channels of a feature map: `x * gate(x)`.

    The gate is `sigmoid(W2 relu(W1 z))`, where `z` is the mean of each channel over the spatial positions. `W1`
    (`fc1`) and `W2` (`fc2`) are held as 1x1 convolutions, so that one module serves the pooled (N, C, 1, 1) and the
    unpooled (N, C, H, W) case and its parameters have the shapes of the authors' release.

    Args:
        channels: C, the channels of the input; at least 1.
        reduction: r, at least 1. The hidden width is exactly C // r, at least 1, never rounded to a multiple.
        squeeze: "avg" or "max" pools over H and W; "none" keeps every position (the paper's NoSqueeze).
        gate: the non-linearity that closes the excitation.
        bias: whether the two layers have biases: the released networks do, the paper's ablations do not.
        factor: constant factor of the gate. 2 lets a gate that starts at one half start as the identity, where no layer
            in front of the block can be doubled instead; other values than 1 are stored in the state dict.

    Raises:
        SenetError: an argument out of its range.

    Source: arXiv:1709.01507v4, equations 2-4; Tables 11 (squeeze), 12 (gate), 16 (no squeeze).

    >>> SEBlock(64)(torch.randn(2, 64, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    """

    __jit_unused_properties__ = ("channels", "hidden_channels")

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        squeeze: Squeeze = "avg",
        gate: Gate = "sigmoid",
        bias: bool = True,
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise SenetError(f"channels is {channels}; expected at least 1")
        if reduction < 1:
            raise SenetError(f"reduction is {reduction}; expected at least 1")
        check_choice("squeeze", squeeze, get_args(Squeeze))
        check_choice("gate", gate, get_args(Gate))
        hidden_channels = max(1, channels // reduction)
        self.squeeze: Squeeze = squeeze
        self.gate_function: Gate = gate
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1, bias=bias)
        self.factor: Tensor | None
        self.set_factor(factor)
        self.reset_parameters()

    @property
    def channels(self) -> int:
        """C, the channels of the input: as many as `fc1` takes, which tools that prune networks may replace."""
        return self.fc1.in_channels

    @property
    def hidden_channels(self) -> int:
        """The hidden width: what `fc1` returns."""
        return self.fc1.out_channels

    def set_factor(self, factor: float) -> None:
        """Set the constant factor of the gate; a buffer, kept only where it is not 1."""
        self.register_buffer("factor", None if factor == 1 else torch.tensor(float(factor)))

    def reset_parameters(self) -> None:
        """Initialize with He's method over the fan-in: the fan-out of `fc1` may be a single unit."""
        for fc, gain in ((self.fc1, math.sqrt(2.0)), (self.fc2, 1.0)):
            nn.init.normal_(fc.weight, std=gain / math.sqrt(fc.in_channels))
            if fc.bias is not None:
                nn.init.zeros_(fc.bias)

    def check_input(self, x: Tensor) -> None:
        """Raise a SenetError unless `x` is (N, C, H, W); while torch.fx traces it has no shape to check."""
        if not is_traced(x) and (x.dim() != 4 or x.shape[1] != self.channels):
            raise SenetError(f"the input is {tuple(x.shape)}; expected (N, {self.channels}, H, W)")

    def gate(self, x: Tensor) -> Tensor:
        """Return the factor of every channel, before it is applied.

        Args:
            x: (N, C, H, W), any memory format and floating dtype.

        Returns:
            (N, C, 1, 1), or (N, C, H, W) when `squeeze` is "none".

        Raises:
            SenetError: `x` is not (N, C, H, W) with the block's number of channels.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self.check_input(x)
        z = x
        if self.squeeze == "avg":
            z = x.mean((2, 3), keepdim=True)
        elif self.squeeze == "max":
            z = x.amax((2, 3), keepdim=True)
        gate = apply_gate(self.gate_function, self.fc2(F.relu(self.fc1(z))))
        return gate if self.factor is None else gate * self.factor.to(gate.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every channel of `x` (N, C, H, W) by its gate; the shape and dtype stay."""
        return x * self.gate(x).to(x.dtype)

    def extra_repr(self) -> str:
        """Show what the two layers do not."""
        return f"{self.channels}, hidden={self.hidden_channels}, squeeze={self.squeeze}, gate={self.gate_function}"


@dataclass(frozen=True, kw_only=True)
class SEOptions:
    """How a network uses SE: the block's options, where in a unit it sits, and in which stages.

    Args:
        reduction: r of every block.
        squeeze: see `SEBlock`.
        gate: see `SEBlock`.
        bias: see `SEBlock`.
        factor: see `SEBlock`.
        placement: "standard" (end of the residual branch), "pre" (start of the branch), "post" (after the sum and its
            ReLU), "identity" (on the shortcut) or "3x3" (behind the branch's 3x3 convolution and its BatchNorm).
        stages: the stages that get blocks, numbered as in the paper, where stage 1 is the stem and 2 the first
            residual stage; None for all.

    Source: arXiv:1709.01507v4, sections 3.3 and 6, Figure 5.
    """

    reduction: int = 16
    squeeze: Squeeze = "avg"
    gate: Gate = "sigmoid"
    bias: bool = True
    factor: float = 1.0
    placement: Placement = "standard"
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("placement", self.placement, get_args(Placement))
        if self.stages is not None:
            object.__setattr__(self, "stages", tuple(sorted(set(self.stages))))
        self.block(1)  # the block checks its own options

    def block(self, channels: int) -> SEBlock:
        """Build one block for `channels` channels."""
        return SEBlock(channels, self.reduction, self.squeeze, self.gate, self.bias, self.factor)

    def in_stage(self, stage: int) -> Callable[[int], SEBlock] | None:
        """Return the builder of blocks for `stage`, or None where that stage has none."""
        return self.block if self.stages is None or stage in self.stages else None
