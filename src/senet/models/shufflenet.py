"""ShuffleNet v1 with three groups: grouped pointwise convolutions, channels shuffled between them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.base import BuildSE, Network, SEUnit
from senet.models.initialization import check_se, initialize
from senet.models.residual import conv3x3
from senet.nn.block import SEOptions

GROUPS = 3
STEM_CHANNELS = 24
STAGES = ((240, 4), (480, 8), (960, 4))
"""Output channels and units of stages 2, 3 and 4; each begins with a unit of stride 2."""


class ShuffleUnit(SEUnit):
    """A bottleneck of grouped 1x1, depthwise 3x3 and grouped 1x1 convolution, with SE at its end.

    With stride 1 the branch is added to the input. With stride 2 it is concatenated with the average-pooled input, so
    it has only the channels that the input lacks. There is no activation after the depthwise convolution.

    Args:
        in_channels: of the input; with stride 1 the output's.
        out_channels: of the output; the bottleneck has a fourth.
        stride: 1 or 2.
        entry_groups: of the first 1x1 convolution; the other has `GROUPS`.
        build_se: builds SE from the branch's channels; None for none.

    Source: Zhang et al., arXiv:1707.01083, Figure 2b and 2c.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, entry_groups: int, build_se: BuildSE | None
    ) -> None:
        super().__init__()
        width = out_channels // 4
        branch_channels = out_channels if stride == 1 else out_channels - in_channels
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, width, 1, groups=entry_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, branch_channels, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch_channels)
        self.se = None if build_se is None else build_se(branch_channels)

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the BatchNorm that ends the branch; see `SEUnit`."""
        return (self.bn3,)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        u = F.channel_shuffle(self.tail(self.conv1(x), self.bn1), GROUPS)
        u = self.conv3(self.tail(self.conv2(u), self.bn2, relu=False))
        if self.stride == 1:
            return self.tail(u, self.bn3, self.se, x)
        pooled = F.relu(F.avg_pool2d(x, 3, 2, padding=1))
        return torch.cat((pooled, self.tail(u, self.bn3, self.se)), 1)


class ShuffleNetV1(Network):
    """A 3x3 stem and max pooling, three stages of `ShuffleUnit`s, global average pooling and one linear layer.

    SE acts on the branch alone, `stageS.U.se.fc1` and `fc2`, before the sum or the concatenation: only then are its
    parameters the paper's 0.6 M.

    Args:
        num_classes: of the linear layer; 0 leaves it out.
        in_channels: channels of the images.
        se: SE options; None for the plain network. The stages are 2, 3 and 4; the placement is "standard".
        dropout: before the linear layer.

    Raises:
        SenetError: a stage or placement that does not exist, or an option out of its range.

    Source: Zhang et al., arXiv:1707.01083, Table 1, g = 3; arXiv:1709.01507v4, Table 3.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        se: SEOptions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        stages = range(2, 2 + len(STAGES))
        check_se(se, stages, ("standard",))
        channels = STEM_CHANNELS
        self.conv1 = conv3x3(in_channels, channels, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        levels = [("act1", channels, 2)]
        for stage, (out_channels, num_units) in zip(stages, STAGES, strict=True):
            build_se = None if se is None else se.in_stage(stage)
            units = nn.Sequential()
            for i in range(num_units):
                # so few channels come in from the stem that the paper leaves them in one group
                entry_groups = 1 if channels == STEM_CHANNELS else GROUPS
                units.append(ShuffleUnit(channels, out_channels, 2 if i == 0 else 1, entry_groups, build_se))
                channels = out_channels
            self.add_module(f"stage{stage}", units)
            levels.append((f"stage{stage}", channels, 2 ** (stage + 1)))
        self.add_head(channels, num_classes, dropout)
        self.trunk = ("conv1", "bn1", "act1", "maxpool", *(f"stage{stage}" for stage in stages))
        self.set_levels(*levels)
        initialize(self)
