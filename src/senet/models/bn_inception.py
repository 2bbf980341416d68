"""BN-Inception as the authors of SENet have it, SE after each of its ten modules."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.base import BuildSE, Network, SEUnit
from senet.models.initialization import check_se, initialize
from senet.nn.block import SEOptions
from senet.nn.fused import Fusible

MODULES: tuple[tuple[str, int, int, int, int, int, int], ...] = (
    ("3a", 64, 64, 64, 64, 96, 32),
    ("3b", 64, 64, 96, 64, 96, 64),
    ("3c", 0, 128, 160, 64, 96, 0),
    ("4a", 224, 64, 96, 96, 128, 128),
    ("4b", 192, 96, 128, 96, 128, 128),
    ("4c", 160, 128, 160, 128, 160, 128),
    ("4d", 96, 128, 192, 160, 192, 128),
    ("4e", 0, 128, 192, 192, 256, 0),
    ("5a", 352, 192, 320, 160, 224, 128),
    ("5b", 352, 192, 320, 192, 224, 128),
)
"""Name, and channels of 1x1, 3x3_reduce, 3x3, double3x3_reduce, both double3x3 and pool_proj; 0: left out, stride 2.

Source: hujie-frank/SENet, models/SE-BN-Inception.prototxt.
"""


class ConvUnit(Fusible):
    """A convolution without bias, BatchNorm and ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the convolution; one number, or height and width.
        stride: of the convolution.
        padding: of the convolution; None keeps the size where the stride is 1.
        eps: of the BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        around = (height // 2, width // 2) if padding is None else (padding, padding)
        self.conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, around, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, h, w)."""
        return self.tail(self.conv(x), self.bn)


class CeilMaxPool(nn.MaxPool2d):
    """3x3 max pooling with stride 2 to ceil(H / 2) x ceil(W / 2), the size that the branches with convolutions have.

    For an even side that is Caffe's pooling without padding; an odd side, which Caffe's network cannot take, gets one
    more window at its end.
    """

    def __init__(self) -> None:
        super().__init__(3, 2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        out: Tensor = super().forward(F.pad(x, (0, 1, 0, 1), value=-torch.inf))
        return out


class InceptionModule(SEUnit):
    """Up to four branches side by side, concatenated; SE on the concatenation.

    Args:
        in_channels: of the input.
        conv1x1: channels of the first branch, a 1x1 convolution; 0 leaves it out and gives the module stride 2.
        reduce3x3: channels of the 1x1 convolution of the second branch.
        conv3x3: channels of its 3x3 convolution.
        reduce_double3x3: channels of the 1x1 convolution of the third branch.
        double3x3: channels of each of its two 3x3 convolutions.
        pool_proj: channels of the 1x1 convolution after the pooling of the fourth branch; 0 leaves it out.
        pool: of the fourth branch.
        build_se: builds SE from the channels of the output; None for none.

    Source: Ioffe and Szegedy, arXiv:1502.03167, Figure 5; arXiv:1709.01507v4, Figure 2.
    """

    def __init__(
        self,
        in_channels: int,
        conv1x1: int,
        reduce3x3: int,
        conv3x3: int,
        reduce_double3x3: int,
        double3x3: int,
        pool_proj: int,
        *,
        pool: nn.Module,
        build_se: BuildSE | None,
    ) -> None:
        super().__init__()
        stride = 1 if conv1x1 else 2
        self.conv1x1 = ConvUnit(in_channels, conv1x1) if conv1x1 else None
        self.conv3x3_reduce = ConvUnit(in_channels, reduce3x3)
        self.conv3x3 = ConvUnit(reduce3x3, conv3x3, 3, stride)
        self.double3x3_reduce = ConvUnit(in_channels, reduce_double3x3)
        self.double3x3_1 = ConvUnit(reduce_double3x3, double3x3, 3)
        self.double3x3_2 = ConvUnit(double3x3, double3x3, 3, stride)
        self.pool = pool
        self.pool_proj = ConvUnit(in_channels, pool_proj) if pool_proj else None
        self.out_channels = conv1x1 + conv3x3 + double3x3 + (pool_proj or in_channels)
        self.se = None if build_se is None else build_se(self.out_channels)

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the BatchNorms that end the branches; nothing if one is a bare pooling. See `SEUnit`."""
        if self.conv1x1 is None or self.pool_proj is None:
            return ()
        return tuple(unit.bn for unit in (self.conv1x1, self.conv3x3, self.double3x3_2, self.pool_proj))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, out_channels, H / stride, W / stride)."""
        branches = (
            None if self.conv1x1 is None else self.conv1x1(x),
            self.conv3x3(self.conv3x3_reduce(x)),
            self.double3x3_2(self.double3x3_1(self.double3x3_reduce(x))),
            self.pool(x) if self.pool_proj is None else self.pool_proj(self.pool(x)),
        )
        u = torch.cat([branch for branch in branches if branch is not None], 1)
        return u if self.se is None else self.tail(u, se=self.se, relu=False)


class BNInception(Network):
    """A stem of three convolutions, ten Inception modules, global average pooling and one linear layer.

    Args:
        num_classes: of the linear layer; 0 leaves it out.
        in_channels: channels of the images.
        se: SE options; None for the plain network. The stages are 3, 4 and 5, of the modules 3a to 5b; the placement is
            "standard".
        dropout: before the linear layer.

    Raises:
        SenetError: a stage or placement that does not exist, or an option out of its range.

    Source: Ioffe and Szegedy, arXiv:1502.03167; hujie-frank/SENet, models/SE-BN-Inception.prototxt.
    """

    halvings = (True, False, False, True, True)

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
        self.conv1 = ConvUnit(in_channels, 64, 7, 2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2_reduce = ConvUnit(64, 64)
        self.conv2 = ConvUnit(64, 192, 3)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = 192
        names = []
        for name, *widths in MODULES:
            pool: nn.Module = nn.AvgPool2d(3, 1, padding=1)
            if not widths[0]:
                pool = CeilMaxPool()
            elif name == "5b":
                pool = nn.MaxPool2d(3, 1, padding=1)
            build_se = None if se is None else se.in_stage(int(name[0]))
            module = InceptionModule(channels, *widths, pool=pool, build_se=build_se)
            names.append(f"inception_{name}")
            self.add_module(names[-1], module)
            channels = module.out_channels
        self.add_head(channels, num_classes, dropout)
        self.trunk = ("conv1", "pool1", "conv2_reduce", "conv2", "pool2", *names)
        self.set_levels(
            ("conv1", 64, 2),
            ("conv2", 192, 4),
            ("inception_3b", 320, 8),
            ("inception_4d", 608, 16),
            (names[-1], 1024, 32),
        )
        initialize(self)
