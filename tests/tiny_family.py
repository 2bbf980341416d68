"""A family of networks as another package would add it; its cards are in tests/models/test_registering.py."""

from torch import Tensor, nn

from senet.models.base import BuildSE, Network, SEUnit
from senet.models.initialization import check_se, initialize
from senet.nn.block import SEOptions


class TinyUnit(SEUnit):
    """A convolution, BatchNorm, SE and ReLU, with the shortcut."""

    def __init__(self, channels: int, build_se: BuildSE | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.se = None if build_se is None else build_se(channels)

    def affine_before_se(self) -> tuple[nn.Module, ...]:
        return (self.bn,)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.conv(x), self.bn, self.se, x)


class TinyNet(Network):
    """A stem with stride 2, one stage of units, and a head that is called `head`."""

    classifier_name = "head"

    def __init__(
        self,
        *,
        width: int = 16,
        num_classes: int = 10,
        in_channels: int = 3,
        se: SEOptions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_se(se, (2,), ("standard",))
        build_se = None if se is None else se.in_stage(2)
        self.add_trunk(
            entry=nn.Conv2d(in_channels, width, 3, 2, padding=1),
            stage2=nn.Sequential(*(TinyUnit(width, build_se) for _ in range(2))),
        )
        self.add_head(width, num_classes, dropout)
        self.set_levels(("stage2", width, 2))
        initialize(self)
