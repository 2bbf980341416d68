"""The Squeeze-and-Excitation block, and the options by which networks choose and build their blocks."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError, check_choice
from senet.nn.excitation import ExcitationBlock, parameter
from senet.ops.function import Excitation
from senet.ops.gates import GATES
from senet.registry import Registry, calling_module

Squeeze = Literal["avg", "max", "none"]
Placement = Literal["standard", "pre", "post", "identity", "3x3"]


class SEBlock(ExcitationBlock):
    """Recalibrates the channels of a feature map: `x * gate(W2 relu(W1 z))`.

    `z` is the mean of each channel over the spatial positions. `W1` (`fc1`) and `W2` (`fc2`) are held as 1x1
    convolutions, so that one module serves the pooled (N, C, 1, 1) and the unpooled (N, C, H, W) case and its
    parameters have the shapes of the authors' release.

    Args:
        channels: C, the channels of the input; at least 1.
        reduction: r, at least 1. The hidden width is exactly C // r, at least 1, never rounded to a multiple.
        squeeze: "avg" or "max" pools over H and W; "none" keeps every position (the paper's NoSqueeze).
        gate: the non-linearity that closes the excitation: "sigmoid", "tanh", "relu", "hard_sigmoid",
            "sigmoid_x2" and "hard_sigmoid_x2" (twice a sigmoid, so exactly 1 for a logit of 0), or one that
            `senet.register_gate` has added.
        bias: whether the two layers have biases: the released networks do, the paper's ablations do not.

    Raises:
        SenetError: an argument out of its range.

    Source: arXiv:1709.01507v4, equations 2-4; Tables 11 (squeeze), 12 (gate), 16 (no squeeze).

    >>> SEBlock(64)(torch.randn(2, 64, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    """

    __jit_unused_properties__: ClassVar[Sequence[str]] = ("channels", "hidden_channels")
    logits_layer = "fc2"

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        squeeze: Squeeze = "avg",
        gate: str = "sigmoid",
        bias: bool = True,
    ) -> None:
        super().__init__(gate)
        if channels < 1:
            raise SenetError(f"channels is {channels}; expected at least 1")
        if reduction < 1:
            raise SenetError(f"reduction is {reduction}; expected at least 1")
        check_choice("squeeze", squeeze, get_args(Squeeze))
        hidden_channels = max(1, channels // reduction)
        self.squeeze: Squeeze = squeeze
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1, bias=bias)
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1, bias=bias)
        self.reset_parameters()

    @property
    def channels(self) -> int:  # type: ignore[override]
        """C, the channels of the input: as many as `fc1` takes, which tools that prune networks may replace."""
        return self.fc1.in_channels

    @property
    def hidden_channels(self) -> int:
        """The hidden width: what `fc1` returns."""
        return self.fc1.out_channels

    def reset_parameters(self) -> None:
        """Initialize with He's method over the fan-in: the fan-out of `fc1` may be a single unit."""
        for fc, gain in ((self.fc1, math.sqrt(2.0)), (self.fc2, 1.0)):
            nn.init.normal_(fc.weight, std=gain / math.sqrt(fc.in_channels))
            if fc.bias is not None:
                nn.init.zeros_(fc.bias)

    def compute_logits(self, x: Tensor) -> Tensor:
        """Squeeze and excite: (N, C, H, W) -> (N, C, 1, 1), or (N, C, H, W) when `squeeze` is "none"."""
        z = x
        if self.squeeze == "avg":
            z = x.mean((2, 3), keepdim=True)
        elif self.squeeze == "max":
            z = x.amax((2, 3), keepdim=True)
        logits: Tensor = self.fc2(F.relu(self.fc1(z)))
        return logits

    def multiply_adds(self, side: Sequence[int]) -> int:
        """Count the multiply-adds of the two layers for one image; see `ExcitationBlock`."""
        positions = math.prod(side) if self.squeeze == "none" else 1
        return 2 * self.channels * self.hidden_channels * positions

    def fused_form(self) -> Excitation | None:
        """Return the two layers; None for another squeeze, layers of other classes, or a gate without a slope.

        None for subclasses too, which may compute something else; one that can be fused overrides this.
        """
        # The dictionary, because nn.Module looks attributes up in Python.
        fc1: Any = self._modules["fc1"]
        fc2: Any = self._modules["fc2"]
        plain = type(self) is SEBlock and type(fc1) is nn.Conv2d and type(fc2) is nn.Conv2d
        if not plain or self.squeeze != "avg" or GATES[self.gate_name].slope is None:
            return None
        weight1, weight2 = parameter(fc1, "weight"), parameter(fc2, "weight")
        return Excitation(weight1, weight2, parameter(fc1, "bias"), parameter(fc2, "bias"), self.gate_name)

    def extra_repr(self) -> str:
        """Show what the two layers do not."""
        return f"{self.channels}, hidden={self.hidden_channels}, squeeze={self.squeeze}, gate={self.gate_name}"


@dataclass(frozen=True, kw_only=True)
class SEOptions:
    """How a network uses SE: the kind of block and its options, where in a unit it sits, and in which stages.

    Args:
        excitation: the kind of block: "se", the paper's, or one that `register_excitation` has added.
        reduction: r of every block: the hidden layer has C // r units.
        squeeze: how a channel becomes a number: its mean, its maximum, or "none": every position has its own gate.
        gate: the function that closes the excitation: "sigmoid", "tanh", "relu", "hard_sigmoid",
            "sigmoid_x2" or "hard_sigmoid_x2" (twice a sigmoid), or one that `register_gate` has added.
        bias: whether the two layers have biases.
        placement: "standard" (end of the residual branch), "pre" (start of the branch), "post" (after the sum and its
            ReLU), "identity" (on the shortcut) or "3x3" (after the branch's 3x3 convolution and its BatchNorm).
        stages: the stages that get blocks, numbered as in the paper, where stage 1 is the stem and 2 the first
            residual stage; None for all.

    Raises:
        SenetError: an option out of its range, or one that has no effect on the kind of block.

    Source: arXiv:1709.01507v4, sections 3.3 and 6, Figure 5.
    """

    excitation: str = "se"
    reduction: int = 16
    squeeze: Squeeze = "avg"
    gate: str = "sigmoid"
    bias: bool = True
    placement: Placement = "standard"
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("placement", self.placement, get_args(Placement))
        if self.excitation not in EXCITATIONS:
            check_choice("excitation", self.excitation, tuple(EXCITATIONS))
        if self.stages is not None:
            object.__setattr__(self, "stages", tuple(sorted(set(self.stages))))
        for option in BLOCK_OPTIONS:
            value = getattr(self, option)
            if option not in EXCITATIONS[self.excitation].options and value != getattr(SEOptions, option):
                raise SenetError(f"{option} is {value!r}, which has no effect on the excitation {self.excitation!r}")
        self.block(1)  # the block checks its own options

    @property
    def min_channels(self) -> int:
        """The fewest channels that `insert_se` gives a block to: with fewer, the hidden width would round up to 1."""
        return self.reduction if "reduction" in EXCITATIONS[self.excitation].options else 1

    def block(self, channels: int) -> ExcitationBlock:
        """Build one block for `channels` channels."""
        block = EXCITATIONS[self.excitation].build(channels, self)
        if not isinstance(block, ExcitationBlock):
            raise SenetError(f"the excitation {self.excitation!r} builds a {type(block).__name__}, no ExcitationBlock")
        return block

    def in_stage(self, stage: int) -> Callable[[int], ExcitationBlock] | None:
        """Return the builder of blocks for `stage`, or None where that stage has none."""
        return self.block if self.stages is None or stage in self.stages else None

    def starting_as_identity(self) -> "SEOptions":
        """Return the options with a gate that can start at exactly 1: this one, or the one that is twice this one.

        Raises:
            SenetError: neither can.
        """
        gate = GATES[self.gate]
        with torch.device("meta"):  # without drawing random numbers
            can = self if gate.one_at is not None or gate.doubled is None else replace(self, gate=gate.doubled)
            can.block(1).start_as_identity()
        return can


BLOCK_OPTIONS = ("reduction", "squeeze", "bias")
"""The options that not every kind of block has."""
BuildBlock = Callable[[int, SEOptions], ExcitationBlock]
"""(channels, options) -> block."""


@dataclass(frozen=True, kw_only=True)
class ExcitationKind:
    """A kind of block: how it is built, and which of `BLOCK_OPTIONS` it has."""

    build: BuildBlock
    options: tuple[str, ...]


def build_se(channels: int, options: SEOptions) -> SEBlock:
    """Build the paper's block."""
    return SEBlock(channels, options.reduction, options.squeeze, options.gate, options.bias)


EXCITATIONS: Registry[ExcitationKind] = Registry(
    "excitation", {"se": ExcitationKind(build=build_se, options=BLOCK_OPTIONS)}
)


def register_excitation(name: str, build: BuildBlock, *, options: Collection[str] = ()) -> None:
    """Register a kind of block under a name, for `SEOptions.excitation`, the commands and saved models.

    A model saved with it names the module that calls this function, which must be imported before it is read.

    Args:
        name: not registered yet.
        build: a class or function that takes the number of channels and the `SEOptions`, and returns an
            `ExcitationBlock`.
        options: which of "reduction", "squeeze" and "bias" it uses; the others are refused with it.

    Raises:
        SenetError: the name is taken, or there is no such option.
    """
    for option in options:
        check_choice("options", option, BLOCK_OPTIONS)
    EXCITATIONS.register(name, ExcitationKind(build=build, options=tuple(options)), calling_module())
