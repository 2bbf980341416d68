"""MobileNet v1: depthwise-separable units, SE at the end of each."""

from types import MappingProxyType
from typing import Literal, get_args

from torch import Tensor, nn

from senet.errors import check_choice
from senet.models.base import BuildSE, Network, SEUnit
from senet.models.initialization import check_se, initialize
from senet.models.residual import conv1x1, conv3x3
from senet.nn.block import SEOptions

Activation = Literal["relu", "relu6"]

ACTIVATIONS = MappingProxyType({"relu": nn.ReLU, "relu6": nn.ReLU6})
STAGES = ((64,), (128, 128), (256, 256), (512,) * 6, (1024, 1024))
"""Output channels of each unit; every stage but the first, whose stride is the stem's, begins with stride 2."""


class SeparableUnit(SEUnit):
    """A 3x3 depthwise and a 1x1 pointwise convolution, each with BatchNorm and activation, then SE.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution.
        activation: "relu" or "relu6".
        build_se: builds SE from a number of channels; None for none.

    Source: Howard et al., arXiv:1704.04861, Figure 3 right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activation: Activation, build_se: BuildSE | None
    ) -> None:
        super().__init__()
        self.conv_dw = conv3x3(in_channels, in_channels, stride, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.act = ACTIVATIONS[activation]()
        self.conv_pw = conv1x1(in_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.se = None if build_se is None else build_se(out_channels)

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        """Return the BatchNorm before a ReLU; nothing before a ReLU6, which is not homogeneous. See `SEUnit`."""
        return () if isinstance(self.act, nn.ReLU6) else (self.bn2,)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        x = self.chain((self.bn1, self.act), self.conv_dw(x))
        x = self.chain((self.bn2, self.act), self.conv_pw(x))
        return x if self.se is None else self.tail(x, se=self.se, relu=False)


class MobileNetV1(Network):
    """A 3x3 stem with stride 2, thirteen depthwise-separable units in five stages, pooling and one linear layer.

    The parameters have the names that timm gives them; SE is `blocks.S.B.se.fc1` and `fc2`, in every unit. The paper
    adds SE "similarly" to the residual networks; its 0.5 M parameters are those of SE after every pointwise
    convolution.

    Args:
        num_classes: of the linear layer; 0 leaves it out.
        in_channels: channels of the images.
        se: SE options; None for the plain network. The stages are 1 to 5, where stage s ends in maps of 1 / 2**s of the
            image's side; the placement is "standard".
        activation: "relu", or "relu6" as in timm; after every BatchNorm.
        dropout: before the linear layer.

    Raises:
        SenetError: a stage or placement that does not exist, or an option out of its range.

    Source: Howard et al., arXiv:1704.04861, Table 1; arXiv:1709.01507v4, Table 3.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        se: SEOptions | None = None,
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, get_args(Activation))
        check_se(se, range(1, 1 + len(STAGES)), ("standard",))
        channels = 32
        self.conv_stem = conv3x3(in_channels, channels, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = ACTIVATIONS[activation]()
        self.blocks = nn.Sequential()
        for stage, widths in enumerate(STAGES, start=1):
            build_se = None if se is None else se.in_stage(stage)
            units = nn.Sequential()
            for i, width in enumerate(widths):
                stride = 2 if stage > 1 and i == 0 else 1
                units.append(SeparableUnit(channels, width, stride, activation, build_se))
                channels = width
            self.blocks.append(units)
        self.add_head(channels, num_classes, dropout)
        names = tuple(f"blocks.{i}" for i in range(len(STAGES)))
        self.trunk = ("conv_stem", "bn1", "act1", *names)
        self.set_levels(*((name, STAGES[i][-1], 2 ** (i + 1)) for i, name in enumerate(names)))
        initialize(self)
