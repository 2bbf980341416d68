"""Shake-Shake networks for CIFAR: two residual branches, mixed at random while training.

They are here for Tables 4 and 5 of the paper; this project has not trained them.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import check_choice
from senet.models.base import BuildSE, Network, SEUnit
from senet.models.initialization import check_se, initialize
from senet.models.residual import conv1x1, conv3x3, projection
from senet.models.resnet import three_stages
from senet.nn.block import SEOptions
from senet.nn.fused import Chain

ShakeForward = Literal["shake", "even"]
ShakeBackward = Literal["shake", "even", "keep"]


class MixFunction(torch.autograd.Function):
    """`alpha * a + (1 - alpha) * b`, whose gradient is that of `beta * a + (1 - beta) * b`."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """Mix `a` and `b`, (N, C, H, W), by `alpha`; `alpha` and `beta` are (N, 1, 1, 1). All have one dtype."""
        return torch.lerp(b, a, alpha)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep `beta`, which is all that the backward pass needs."""
        ctx.save_for_backward(inputs[3])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Return the gradients of `a` and `b`."""
        (beta,) = ctx.saved_tensors
        (grad,) = grad_outputs
        return beta * grad, (1 - beta) * grad, None, None


@torch.fx.wrap
def mix(a: Tensor, b: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Apply `MixFunction`, as one node of a graph; TorchScript, which has no such functions, sums to the same."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        of_backward = torch.lerp(b, a, beta)
        return of_backward + (torch.lerp(b, a, alpha) - of_backward).detach()
    mixed: Tensor = MixFunction.apply(a, b, alpha, beta)
    return mixed


class Shake(nn.Module):
    """Mixes two branches: with random coefficients for each image in training, by their mean in evaluation.

    The generator is PyTorch's own, so `torch.manual_seed` makes the coefficients reproducible.

    Args:
        forward_mode: "shake" draws the coefficient of the first branch from [0, 1), "even" is one half.
        backward_mode: the coefficient in the backward pass: "shake" draws another, "even" is one half, "keep" is the
            forward pass's, as in plain autograd.

    Raises:
        SenetError: a mode that does not exist.

    Source: Gastaldi, arXiv:1705.07485, section 1.2 and section 2.1 ("Image" level).
    """

    scripted_whole = True

    def __init__(self, forward_mode: ShakeForward, backward_mode: ShakeBackward) -> None:
        super().__init__()
        check_choice("shake_forward", forward_mode, get_args(ShakeForward))
        check_choice("shake_backward", backward_mode, get_args(ShakeBackward))
        self.forward_mode = forward_mode
        self.backward_mode = backward_mode

    def draw(self, x: Tensor, mode: str) -> Tensor:
        """Return a coefficient for each image of `x`, (N, 1, 1, 1)."""
        if mode == "even":
            return x.new_full((x.shape[0], 1, 1, 1), 0.5)
        return torch.rand_like(x[:, :1, :1, :1], dtype=torch.float32).to(x.dtype)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two of (N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return 0.5 * (a + b)
        alpha = self.draw(a, self.forward_mode)
        if self.backward_mode == "keep":
            return torch.lerp(b, a, alpha)
        return mix(a, b, alpha, self.draw(a, self.backward_mode))

    def extra_repr(self) -> str:
        """Show the modes."""
        return f"forward={self.forward_mode}, backward={self.backward_mode}"


class ShiftedShortcut(nn.Module):
    """The shortcut of two paths, the second of which sees the pixels to the upper left of the first's.

    Source: arXiv:1705.07485, section 2.1; github.com/xgastaldi/shake-shake, models/shakeshakeblock.lua.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = conv1x1(in_channels, out_channels // 2)
        self.conv2 = conv1x1(in_channels, out_channels - out_channels // 2)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride))."""
        shifted = F.pad(x, (1, 0, 1, 0))[:, :, : -1 : self.stride, : -1 : self.stride]
        x = x[:, :, :: self.stride, :: self.stride]
        return cast(Tensor, self.bn(torch.cat((self.conv1(x), self.conv2(shifted)), 1)))


def basic_branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Build 3x3, BatchNorm, ReLU, 3x3, BatchNorm."""
    return Chain(
        OrderedDict(
            conv1=conv3x3(in_channels, out_channels, stride),
            bn1=nn.BatchNorm2d(out_channels),
            act1=nn.ReLU(),
            conv2=conv3x3(out_channels, out_channels),
            bn2=nn.BatchNorm2d(out_channels),
        )
    )


def bottleneck_branch(in_channels: int, width: int, out_channels: int, stride: int, groups: int) -> nn.Sequential:
    """Build 1x1, grouped 3x3 and 1x1 convolution, each with BatchNorm, and ReLU between."""
    return Chain(
        OrderedDict(
            conv1=conv1x1(in_channels, width),
            bn1=nn.BatchNorm2d(width),
            act1=nn.ReLU(),
            conv2=conv3x3(width, width, stride, groups),
            bn2=nn.BatchNorm2d(width),
            act2=nn.ReLU(),
            conv3=conv1x1(width, out_channels),
            bn3=nn.BatchNorm2d(out_channels),
        )
    )


class ShakeUnit(SEUnit):
    """`shortcut(x) + se(shake(branch1(x), branch2(x)))`, with a ReLU before all but the identity, or at the end.

    The non-identity part of the unit is the mixture of its two branches: that is what SE recalibrates, once, before the
    sum with the shortcut.

    Args:
        branch1: the first branch; ends in a BatchNorm.
        branch2: likewise.
        shortcut: the module on the identity branch where the unit changes the number of channels, else None.
        shake: mixes the branches.
        se: SE for the channels of the output; None for none.
        pre_activation: put the ReLU before the branches and a shortcut with layers, instead of after the sum.

    Source: arXiv:1705.07485, Figure 1; arXiv:1709.01507v4, section 3.3.
    """

    def __init__(
        self,
        branch1: nn.Sequential,
        branch2: nn.Sequential,
        shortcut: nn.Module | None,
        shake: Shake,
        se: nn.Module | None,
        *,
        pre_activation: bool,
    ) -> None:
        super().__init__()
        self.downsample = shortcut
        self.branch1 = branch1
        self.branch2 = branch2
        self.shake = shake
        self.se = se
        self.pre_activation = pre_activation

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the BatchNorms that end the two branches; see `SEUnit`."""
        return (self.branch1[-1], self.branch2[-1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        entry = F.relu(x) if self.pre_activation else x
        shortcut = x if self.downsample is None else self.downsample(entry)
        u = self.shake(self.branch1(entry), self.branch2(entry))
        return self.tail(u, None, self.se, shortcut, relu=not self.pre_activation)


BuildUnit = Callable[[int, int, int, BuildSE | None], ShakeUnit]
"""(in_channels, out_channels, stride, build_se) -> unit."""


class ShakeNet(Network):
    """A 3x3 stem, three stages of `ShakeUnit`s, global average pooling and one linear layer.

    Args:
        unit: builds a unit.
        layers: number of units of each stage.
        widths: output channels of each stage.
        stem_channels: output channels of the stem.
        pre_activation: see `ShakeUnit`; then a ReLU follows the last stage instead of the stem.
        num_classes: of the linear layer; 0 leaves it out.
        in_channels: channels of the images.
        se: SE options; None for the plain network. The stages are 2, 3 and 4; the placement is "standard".
        dropout: before the linear layer.

    Raises:
        SenetError: a stage or placement that does not exist, or an option out of its range.
    """

    def __init__(
        self,
        unit: BuildUnit,
        layers: tuple[int, ...],
        widths: tuple[int, ...],
        *,
        stem_channels: int,
        pre_activation: bool,
        num_classes: int,
        in_channels: int,
        se: SEOptions | None,
        dropout: float,
    ) -> None:
        super().__init__()
        check_se(se, range(2, 2 + len(widths)), ("standard",))
        channels = stem_channels
        stem = {"conv1": conv3x3(in_channels, channels), "bn1": nn.BatchNorm2d(channels)}
        stages: dict[str, nn.Module] = {}
        levels = []
        for i, (number, width) in enumerate(zip(layers, widths, strict=True)):
            build_se = None if se is None else se.in_stage(i + 2)
            units = nn.Sequential()
            for j in range(number):
                units.append(unit(channels, width, 2 if i > 0 and j == 0 else 1, build_se))
                channels = width
            stages[f"layer{i + 1}"] = units
            levels.append((f"layer{i + 1}", width, 2**i))
        if pre_activation:
            self.add_trunk(**stem, **stages, act1=nn.ReLU())
            levels[-1] = ("act1", *levels[-1][1:])
        else:
            self.add_trunk(**stem, act1=nn.ReLU(), **stages)
        self.add_head(channels, num_classes, dropout)
        self.set_levels(*levels)
        initialize(self)


def shake_resnet(
    depth: int,
    width: int,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    se: SEOptions | None = None,
    shake_forward: ShakeForward = "shake",
    shake_backward: ShakeBackward = "shake",
    dropout: float = 0.0,
) -> ShakeNet:
    """Build a pre-activated network of two branches of two 3x3 convolutions, such as 26 2x96d.

    Args:
        depth: number of weighted layers along one branch, 6n + 2.
        width: channels of the first stage; the stages after it double it.
        num_classes: see `ShakeNet`.
        in_channels: see `ShakeNet`.
        se: see `ShakeNet`.
        shake_forward: see `Shake`.
        shake_backward: see `Shake`.
        dropout: see `ShakeNet`.

    Raises:
        SenetError: a depth that no such network has, or an option out of its range.

    Source: arXiv:1705.07485, section 2.1; github.com/xgastaldi/shake-shake, models/shakeshake.lua.
    """

    def unit(channels: int, out_channels: int, stride: int, build_se: BuildSE | None) -> ShakeUnit:
        return ShakeUnit(
            basic_branch(channels, out_channels, stride),
            basic_branch(channels, out_channels, stride),
            None if channels == out_channels else ShiftedShortcut(channels, out_channels, stride),
            Shake(shake_forward, shake_backward),
            None if build_se is None else build_se(out_channels),
            pre_activation=True,
        )

    return ShakeNet(
        unit,
        three_stages(depth, 6, 2),
        (width, 2 * width, 4 * width),
        stem_channels=16,
        pre_activation=True,
        num_classes=num_classes,
        in_channels=in_channels,
        se=se,
        dropout=dropout,
    )


def shake_resnext(
    depth: int,
    groups: int,
    width_per_group: int,
    *,
    num_classes: int = 100,
    in_channels: int = 3,
    se: SEOptions | None = None,
    shake_forward: ShakeForward = "shake",
    shake_backward: ShakeBackward = "even",
    dropout: float = 0.0,
) -> ShakeNet:
    """Build a network of two ResNeXt branches, such as 29 2x4x64d: no pre-activation, projection shortcuts.

    Args:
        depth: number of weighted layers along one branch, 9n + 2.
        groups: of the 3x3 convolutions.
        width_per_group: channels of a group in the first stage; the stages after it double it.
        num_classes: see `ShakeNet`.
        in_channels: see `ShakeNet`.
        se: see `ShakeNet`.
        shake_forward: see `Shake`.
        shake_backward: see `Shake`.
        dropout: see `ShakeNet`.

    Raises:
        SenetError: a depth that no such network has, or an option out of its range.

    Source: arXiv:1705.07485, section 2.2; github.com/xgastaldi/shake-shake, models/shakeshake.lua (cifar100).
    """

    def unit(channels: int, out_channels: int, stride: int, build_se: BuildSE | None) -> ShakeUnit:
        width = groups * width_per_group * out_channels // 256
        return ShakeUnit(
            bottleneck_branch(channels, width, out_channels, stride, groups),
            bottleneck_branch(channels, width, out_channels, stride, groups),
            None if channels == out_channels else projection(channels, out_channels, stride),
            Shake(shake_forward, shake_backward),
            None if build_se is None else build_se(out_channels),
            pre_activation=False,
        )

    return ShakeNet(
        unit,
        three_stages(depth, 9, 2),
        (256, 512, 1024),
        stem_channels=64,
        pre_activation=False,
        num_classes=num_classes,
        in_channels=in_channels,
        se=se,
        dropout=dropout,
    )
