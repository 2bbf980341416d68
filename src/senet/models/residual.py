"""Residual units with SE at any of its five places: basic, bottleneck, and their pre-activation forms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.base import BuildSE, SEUnit
from senet.nn.block import Placement
from senet.nn.drop_path import DropPath
from senet.nn.fused import Chain, has_hooks
from senet.nn.tracing import is_traced

StrideOn = Literal["1x1", "3x3"]
BuildShortcut = Callable[[int, int, int], nn.Module]
"""(in_channels, out_channels, stride) -> the module on the identity branch where its shape changes."""


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution with padding 1 and no bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build a 1x1 convolution with no bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class PadShortcut(nn.Module):
    """The shortcut without parameters: subsample, and fill the new channels with zeros.

    Source: He et al., arXiv:1512.03385, option A.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def projection(in_channels: int, out_channels: int, stride: int, kernel_size: int = 1) -> nn.Module:
    """Build the projection shortcut: a strided convolution and its BatchNorm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return Chain(conv, nn.BatchNorm2d(out_channels))


def bare_projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build the projection shortcut of the pre-activation networks: a strided 1x1 convolution alone."""
    return conv1x1(in_channels, out_channels, stride)


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """The shortcut and the SE block of a unit, as functions that build them.

    Args:
        build_shortcut: builds the module on the identity branch where the unit changes the shape.
        build_se: builds SE from a number of channels; None for none.
        placement: see `SEOptions`.
    """

    build_shortcut: BuildShortcut
    build_se: BuildSE | None = None
    placement: Placement = "standard"


class ResidualUnit(SEUnit):
    """`relu(branch(x) + shortcut(x))`, with SE before, in or after the branch, on the shortcut, or after the sum.

    Subclasses say what the branch is. They register their modules, SE among them, in the order in which these run.

    Source: arXiv:1709.01507v4, Figure 3 and Figure 5 (placements).
    """

    def __init__(self, out_channels: int, wiring: Wiring) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.placement = wiring.placement
        self.downsample: nn.Module | None = None
        self.se = None
        self.drop_path: DropPath | None = None

    def add_shortcut(self, in_channels: int, stride: int, wiring: Wiring) -> None:
        """Register the module on the identity branch, if the shape changes, and SE if it follows there."""
        if stride != 1 or in_channels != self.out_channels:
            self.downsample = wiring.build_shortcut(in_channels, self.out_channels, stride)
        self.offer_place(wiring, self.out_channels, "identity")

    def offer_place(self, wiring: Wiring, channels: int, *placements: Placement) -> None:
        """Register SE if this is its place."""
        if wiring.build_se is not None and wiring.placement in placements:
            self.se = wiring.build_se(channels)

    def se_at(self, placement: Placement) -> nn.Module | None:
        """Return SE if this is its place in the unit."""
        return self.se if placement == self.placement else None

    def recalibrate(self, x: Tensor, placement: Placement) -> Tensor:
        """Apply SE if this is its place in the unit."""
        se = self.se_at(placement)
        return x if se is None else self.tail(x, se=se, relu=False)

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the layer before SE in the branch or on a projection; see `SEUnit`."""
        if self.placement == "standard":
            return (self.last_affine,)
        if self.placement == "3x3":
            return (self.affine_3x3,)
        if self.placement == "identity" and self.downsample is not None:
            return tuple(m for m in self.downsample.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d))[-1:]
        return ()

    @property
    def last_affine(self) -> nn.Module:
        """The layer that ends the branch."""
        raise NotImplementedError

    @property
    def affine_3x3(self) -> nn.Module:
        """The layer that SE follows in the "3x3" placement."""
        raise NotImplementedError

    def branch(self, x: Tensor) -> tuple[Tensor, nn.Module | None]:
        """Return the non-identity branch up to its last BatchNorm, and that BatchNorm; None if it has been applied."""
        raise NotImplementedError

    def shortcut(self, x: Tensor) -> tuple[Tensor, nn.Module | None]:
        """Return the identity branch up to its last BatchNorm, and that BatchNorm; None if there is none."""
        if type(self.downsample) is Chain and self.se_at("identity") is None and not has_hooks((self.downsample,)):
            *layers, norm = self.downsample
            return self.chain(layers, x), norm
        return self.recalibrate(x if self.downsample is None else self.downsample(x), "identity"), None

    def join(
        self, u: Tensor, norm: nn.Module | None, shortcut: Tensor, shortcut_norm: nn.Module | None, *, relu: bool
    ) -> Tensor:
        """Compute `drop_path(se(norm(u))) + shortcut_norm(shortcut)`, with a ReLU if asked for, and SE if it is here.

        A branch that may be left out is computed up to its end first, BatchNorm and SE fused. That costs one more pass
        over the feature map than without stochastic depth.
        """
        se = self.se_at("standard")
        if self.drop_path is not None and (self.training or is_traced(u)):
            branch = u if norm is None and se is None else self.tail(u, norm, se, relu=False)
            u, norm, se = self.drop_path(branch), None, None
        return self.tail(u, norm, se, shortcut, shortcut_norm=shortcut_norm, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        shortcut, shortcut_norm = self.shortcut(x)
        u, norm = self.branch(self.recalibrate(x, "pre"))
        return self.recalibrate(self.join(u, norm, shortcut, shortcut_norm, relu=True), "post")


def add_drop_path(units: Sequence[ResidualUnit], rate: float) -> None:
    """Let the branches of a network be left out while training, the later the more often.

    Args:
        units: in the order in which they run.
        rate: of the last one; the first has 0, and those between rise in equal steps.

    Source: arXiv:1603.09382, section 3; timm, models/resnet.py.
    """
    for place, unit in enumerate(units[1:], 1):
        unit.drop_path = DropPath(rate * place / (len(units) - 1))


class BasicUnit(ResidualUnit):
    """Two 3x3 convolutions.

    Args:
        in_channels: of the input.
        planes: channels of the output.
        stride: of the unit.
        wiring: shortcut and SE.
        relu_last: end the branch with a ReLU after its last BatchNorm, as timm's legacy_seresnet18 and 34 do.

    Source: He et al., arXiv:1512.03385, Figure 5 left; timm, models/senet.py (relu_last).
    """

    def __init__(self, in_channels: int, planes: int, stride: int, wiring: Wiring, *, relu_last: bool = False) -> None:
        super().__init__(planes, wiring)
        self.add_shortcut(in_channels, stride, wiring)
        self.offer_place(wiring, in_channels, "pre")
        self.conv1 = conv3x3(in_channels, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.offer_place(wiring, planes, "3x3")
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU() if relu_last else nn.Identity()
        self.offer_place(wiring, planes, "standard", "post")

    @property
    def last_affine(self) -> nn.Module:
        """The BatchNorm that ends the branch."""
        return self.bn2

    @property
    def affine_3x3(self) -> nn.Module:
        """The BatchNorm after the branch's 3x3 convolution."""
        return self.bn1

    def branch(self, x: Tensor) -> tuple[Tensor, nn.Module | None]:
        """3x3, 3x3; each with BatchNorm, ReLU between."""
        u = self.conv2(self.tail(self.conv1(x), self.bn1, self.se_at("3x3")))
        return (u, self.bn2) if isinstance(self.act2, nn.Identity) else (self.chain((self.bn2, self.act2), u), None)


class BottleneckUnit(ResidualUnit):
    """1x1, 3x3 and 1x1 convolution, plain, grouped (ResNeXt) or with a thinner entry (SENet-154).

    Args:
        in_channels: of the input.
        planes: a fourth of the output's channels.
        stride: of the unit.
        wiring: shortcut and SE.
        groups: of the 3x3 convolution.
        width_per_group: channels of a group where `planes` is 64.
        entry_divisor: the first 1x1 has the 3x3's width divided by this.
        stride_on: the convolution that carries the stride.

    Source: He et al., arXiv:1512.03385, Figure 5 right; arXiv:1709.01507v4, Table 1 and appendix (SENet-154).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        wiring: Wiring,
        *,
        groups: int = 1,
        width_per_group: int = 64,
        entry_divisor: int = 1,
        stride_on: StrideOn = "1x1",
    ) -> None:
        width = planes * width_per_group // 64 * groups
        entry = width // entry_divisor
        out_channels = planes * self.expansion
        super().__init__(out_channels, wiring)
        self.add_shortcut(in_channels, stride, wiring)
        self.offer_place(wiring, in_channels, "pre")
        stride_1x1, stride_3x3 = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = conv1x1(in_channels, entry, stride_1x1)
        self.bn1 = nn.BatchNorm2d(entry)
        self.conv2 = conv3x3(entry, width, stride_3x3, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.offer_place(wiring, width, "3x3")
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.offer_place(wiring, out_channels, "standard", "post")

    @property
    def last_affine(self) -> nn.Module:
        """The BatchNorm that ends the branch."""
        return self.bn3

    @property
    def affine_3x3(self) -> nn.Module:
        """The BatchNorm after the branch's 3x3 convolution."""
        return self.bn2

    def branch(self, x: Tensor) -> tuple[Tensor, nn.Module | None]:
        """1x1, 3x3, 1x1; each with BatchNorm, ReLU between."""
        x = self.tail(self.conv1(x), self.bn1)
        x = self.tail(self.conv2(x), self.bn2, self.se_at("3x3"))
        return self.conv3(x), self.bn3


class PreActivationUnit(ResidualUnit):
    """`branch(x) + shortcut(x)` with BatchNorm and ReLU before every convolution and none after the sum.

    Where the shape changes, the first BatchNorm and ReLU act on both branches.

    Source: He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027, Figure 1b.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, wiring: Wiring) -> None:
        super().__init__(out_channels, wiring)
        self.offer_place(wiring, in_channels, "pre")
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.add_shortcut(in_channels, stride, wiring)

    def convolutions(self, x: Tensor) -> Tensor:
        """Compute the rest of the branch from the output of its first BatchNorm and ReLU."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        activated = self.tail(self.recalibrate(x, "pre"), self.bn1)
        shortcut = self.recalibrate(x if self.downsample is None else self.downsample(activated), "identity")
        out = self.join(self.convolutions(activated), None, shortcut, None, relu=False)
        return self.recalibrate(out, "post")


class PreActivationBasicUnit(PreActivationUnit):
    """Two 3x3 convolutions, pre-activated."""

    def __init__(self, in_channels: int, planes: int, stride: int, wiring: Wiring) -> None:
        super().__init__(in_channels, planes, stride, wiring)
        self.conv1 = conv3x3(in_channels, planes, stride)
        self.offer_place(wiring, planes, "3x3")
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.offer_place(wiring, planes, "standard", "post")

    @property
    def last_affine(self) -> nn.Module:
        """The convolution that ends the branch."""
        return self.conv2

    @property
    def affine_3x3(self) -> nn.Module:
        """The branch's 3x3 convolution that SE may follow."""
        return self.conv1

    def convolutions(self, x: Tensor) -> Tensor:
        """3x3, BatchNorm, ReLU, 3x3."""
        x = self.recalibrate(self.conv1(x), "3x3")
        out: Tensor = self.conv2(self.tail(x, self.bn2))
        return out


class PreActivationBottleneckUnit(PreActivationUnit):
    """1x1, 3x3 and 1x1 convolution, pre-activated."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        wiring: Wiring,
        *,
        stride_on: StrideOn = "1x1",
    ) -> None:
        super().__init__(in_channels, planes * self.expansion, stride, wiring)
        stride_1x1, stride_3x3 = (stride, 1) if stride_on == "1x1" else (1, stride)
        self.conv1 = conv1x1(in_channels, planes, stride_1x1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride_3x3)
        self.offer_place(wiring, planes, "3x3")
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = conv1x1(planes, planes * self.expansion)
        self.offer_place(wiring, self.out_channels, "standard", "post")

    @property
    def last_affine(self) -> nn.Module:
        """The convolution that ends the branch."""
        return self.conv3

    @property
    def affine_3x3(self) -> nn.Module:
        """The branch's 3x3 convolution that SE may follow."""
        return self.conv2

    def convolutions(self, x: Tensor) -> Tensor:
        """1x1, 3x3, 1x1, with BatchNorm and ReLU between."""
        x = self.conv2(self.tail(self.conv1(x), self.bn2))
        out: Tensor = self.conv3(self.tail(self.recalibrate(x, "3x3"), self.bn3))
        return out
