"""Inception-ResNet-v2, SE at the end of the branch of each residual block."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.base import BuildSE, Network, SEUnit
from senet.models.bn_inception import ConvUnit
from senet.models.initialization import check_se, initialize
from senet.nn.block import SEOptions

EPS = 1e-3
unit = partial(ConvUnit, eps=EPS)
"""The convolution unit of this network."""


class Concatenation(nn.Module):
    """Branches side by side, `branch0`, `branch1`, ..., concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)
        self.num_branches = len(branches)

    def concatenate(self, x: Tensor) -> Tensor:
        """Apply every branch to `x` and concatenate the results."""
        return torch.cat([self.get_submodule(f"branch{i}")(x) for i in range(self.num_branches)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        return self.concatenate(x)


class InceptionResidual(Concatenation, SEUnit):
    """`relu(x + scale * conv(branches(x)))`, SE after the 1x1 convolution that restores the channels.

    Args:
        channels: of the input and the output.
        branches: side by side.
        width: channels of their concatenation.
        scale: constant factor of the residual.
        relu: whether the sum is followed by a ReLU.
        build_se: builds SE from `channels`; None for none.

    Source: Szegedy et al., arXiv:1602.07261, Figures 16-20 and section 3.3; arXiv:1709.01507v4, section 3.3.
    """

    def __init__(
        self,
        channels: int,
        *branches: nn.Module,
        width: int,
        scale: float,
        build_se: BuildSE | None,
        relu: bool = True,
    ) -> None:
        super().__init__(*branches)
        self.scale = scale
        self.relu = relu
        self.conv2d = nn.Conv2d(width, channels, 1)
        self.se = None if build_se is None else build_se(channels)

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the 1x1 convolution; see `SEUnit`."""
        return (self.conv2d,)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same."""
        u = self.conv2d(self.concatenate(x))
        if self.se is not None:
            u = self.tail(u, se=self.se, relu=False)
        out: Tensor = u * self.scale + x
        return F.relu(out) if self.relu else out


def mixed_5b() -> nn.Module:
    """Build the Inception module after the stem: 192 -> 320 channels."""
    return Concatenation(
        unit(192, 96),
        nn.Sequential(unit(192, 48), unit(48, 64, 5)),
        nn.Sequential(unit(192, 64), unit(64, 96, 3), unit(96, 96, 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), unit(192, 64)),
    )


def block35(build_se: BuildSE | None) -> nn.Module:
    """Build a residual block of 35x35 maps of 320 channels."""
    return InceptionResidual(
        320,
        unit(320, 32),
        nn.Sequential(unit(320, 32), unit(32, 32, 3)),
        nn.Sequential(unit(320, 32), unit(32, 48, 3), unit(48, 64, 3)),
        width=128,
        scale=0.17,
        build_se=build_se,
    )


def mixed_6a() -> nn.Module:
    """Build the reduction from 35x35 to 17x17 maps: 320 -> 1088 channels."""
    return Concatenation(
        unit(320, 384, 3, 2, 0),
        nn.Sequential(unit(320, 256), unit(256, 256, 3), unit(256, 384, 3, 2, 0)),
        nn.MaxPool2d(3, 2),
    )


def block17(build_se: BuildSE | None) -> nn.Module:
    """Build a residual block of 17x17 maps of 1088 channels."""
    return InceptionResidual(
        1088,
        unit(1088, 192),
        nn.Sequential(unit(1088, 128), unit(128, 160, (1, 7)), unit(160, 192, (7, 1))),
        width=384,
        scale=0.1,
        build_se=build_se,
    )


def mixed_7a() -> nn.Module:
    """Build the reduction from 17x17 to 8x8 maps: 1088 -> 2080 channels."""
    return Concatenation(
        nn.Sequential(unit(1088, 256), unit(256, 384, 3, 2, 0)),
        nn.Sequential(unit(1088, 256), unit(256, 288, 3, 2, 0)),
        nn.Sequential(unit(1088, 256), unit(256, 288, 3), unit(288, 320, 3, 2, 0)),
        nn.MaxPool2d(3, 2),
    )


def block8(build_se: BuildSE | None, *, last: bool = False) -> nn.Module:
    """Build a residual block of 8x8 maps of 2080 channels; the last one has neither scale nor ReLU."""
    return InceptionResidual(
        2080,
        unit(2080, 192),
        nn.Sequential(unit(2080, 192), unit(192, 224, (1, 3)), unit(224, 256, (3, 1))),
        width=448,
        scale=1.0 if last else 0.2,
        relu=not last,
        build_se=build_se,
    )


class InceptionResNetV2(Network):
    """A stem, 10, 20 and 10 residual Inception blocks with reductions between, global pooling and one linear layer.

    The parameters have the names that timm gives them; SE is `se.fc1` and `se.fc2` of each residual block.

    Args:
        num_classes: of the linear layer; 0 leaves it out.
        in_channels: channels of the images, which must have at least 75 pixels a side.
        se: SE options; None for the plain network. The stages are 3, 4 and 5, of block35, block17 and block8; the
            placement is "standard".
        dropout: before the linear layer.

    Raises:
        SenetError: a stage or placement that does not exist, or an option out of its range.

    Source: Szegedy et al., arXiv:1602.07261; tensorflow/models, slim/nets/inception_resnet_v2.py, for the numbers of
    blocks and channels.
    """

    classifier_name = "classif"

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        se: SEOptions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_se(se, (3, 4, 5), ("standard",))
        se35, se17, se8 = (None if se is None else se.in_stage(stage) for stage in (3, 4, 5))
        self.conv2d_1a = unit(in_channels, 32, 3, 2, 0)
        self.conv2d_2a = unit(32, 32, 3, 1, 0)
        self.conv2d_2b = unit(32, 64, 3)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = unit(64, 80)
        self.conv2d_4a = unit(80, 192, 3, 1, 0)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        self.mixed_5b = mixed_5b()
        self.repeat = nn.Sequential(*(block35(se35) for _ in range(10)))
        self.mixed_6a = mixed_6a()
        self.repeat_1 = nn.Sequential(*(block17(se17) for _ in range(20)))
        self.mixed_7a = mixed_7a()
        self.repeat_2 = nn.Sequential(*(block8(se8) for _ in range(9)))
        self.block8 = block8(se8, last=True)
        self.conv2d_7b = unit(2080, 1536)
        self.trunk = tuple(name for name, _ in self.named_children())
        self.add_head(1536, num_classes, dropout)
        self.set_levels(
            ("conv2d_2b", 64, 2),
            ("conv2d_4a", 192, 4),
            ("repeat", 320, 8),
            ("repeat_1", 1088, 16),
            ("conv2d_7b", 1536, 32),
        )
        initialize(self)

    def last_side(self, side: int) -> int:
        """Return the side of the last feature map; five layers with stride 2 and two without have no padding."""
        reduction = self.feature_info[-1]["reduction"]
        for stride, total in ((2, 2), (1, 2), (2, 4), (1, 4), (2, 8), (2, 16), (2, 32)):
            if total <= reduction:
                side = (side - 3) // stride + 1
        return side
