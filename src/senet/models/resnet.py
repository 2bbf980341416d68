"""ResNet, ResNeXt, SENet-154, and the CIFAR ResNets (plain, pre-activated, wide): one class, built from units."""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

from torch import nn

from senet.errors import SenetError, check_choice
from senet.models.base import Network
from senet.models.dilation import check_output_stride, dilate
from senet.models.initialization import check_se, initialize
from senet.models.residual import (
    BasicUnit,
    BottleneckUnit,
    BuildShortcut,
    PadShortcut,
    PreActivationBasicUnit,
    PreActivationBottleneckUnit,
    PreActivationUnit,
    ResidualUnit,
    StrideOn,
    Wiring,
    add_drop_path,
    bare_projection,
    conv3x3,
    projection,
)
from senet.nn.block import SEOptions
from senet.nn.drop_path import check_rate
from senet.nn.fused import Chain

StemPool = Literal["ceil", "pad"]
Shortcut = Literal["pad", "projection"]
BuildUnit = Callable[[int, int, int, Wiring], ResidualUnit]
"""(in_channels, planes, stride, wiring) -> unit."""


class ResNet(Network):
    """A stem, stages of residual units, global average pooling and one linear layer.

    The parameters have the names that torchvision and timm give them; SE is `*.se.fc1` and `*.se.fc2`, as in timm.

    Args:
        unit: builds a residual unit.
        layers: number of units of each stage.
        planes: of each stage; its output has `planes` times the unit's expansion channels.
        stem: the convolution (or stack) before the first BatchNorm.
        stem_channels: its output channels.
        stem_pool: "ceil" (3x3, stride 2, no padding, ceil mode: the authors' release), "pad" (3x3, stride 2, padding 1:
            torchvision) or None (CIFAR).
        build_shortcut: from the number of a stage, the function that builds its shortcuts where the shape changes.
        num_classes: of the linear layer; 0 leaves it out.
        se: SE options; None for the plain network.
        dropout: before the linear layer.
        drop_path: stochastic depth, see `add_drop_path`; 0 for none.
        zero_init_last: start every branch at zero by its last BatchNorm (Goyal et al., arXiv:1706.02677). Off here,
            on in timm: the paper uses He initialization alone. Turn it on for recipes made for timm's networks.
        output_stride: of the last feature map: that of a stage after the first. The stages after that one keep its
            resolution, and their convolutions are dilated instead, see `dilate`. None for that of the last stage.

    Raises:
        SenetError: a stage that does not exist, an option out of its range, or one that has no effect here.

    Source: He et al., arXiv:1512.03385; Xie et al., arXiv:1611.05431; arXiv:1709.01507v4, Table 1 and appendix.
    """

    def __init__(
        self,
        unit: BuildUnit,
        layers: tuple[int, ...],
        planes: tuple[int, ...],
        *,
        stem: nn.Module,
        stem_channels: int,
        stem_pool: StemPool | None,
        build_shortcut: Callable[[int], BuildShortcut],
        num_classes: int,
        se: SEOptions | None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_last: bool = False,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        stages = range(2, 2 + len(layers))
        strides = [2**i if stem_pool is None else 4 * 2**i for i in range(len(layers))]
        last_stride = check_output_stride(output_stride, strides)
        check_se(se, stages)
        check_rate(drop_path)
        channels, spacing = stem_channels, 1
        all_units: list[ResidualUnit] = []
        residual_stages: dict[str, nn.Module] = {}
        levels = []
        for i, stage in enumerate(stages):
            wiring = Wiring(
                build_shortcut=build_shortcut(stage),
                build_se=None if se is None else se.in_stage(stage),
                placement="standard" if se is None else se.placement,
            )
            units: list[ResidualUnit] = []
            for j in range(layers[i]):
                stride = 2 if i > 0 and j == 0 else 1
                units.append(unit(channels, planes[i], stride, wiring))
                channels = units[-1].out_channels
            if strides[i] > last_stride:
                spacing = dilate(units, spacing)
            residual_stages[f"layer{i + 1}"] = nn.Sequential(*units)
            all_units += units
            levels.append((f"layer{i + 1}", channels, min(strides[i], last_stride)))
        pool = build_stem_pool(stem_pool)
        if isinstance(units[-1], PreActivationUnit):
            levels[-1] = ("act1", *levels[-1][1:])
            self.add_trunk(conv1=stem, maxpool=pool, **residual_stages, bn1=nn.BatchNorm2d(channels), act1=nn.ReLU())
        else:
            self.add_trunk(
                conv1=stem, bn1=nn.BatchNorm2d(stem_channels), act1=nn.ReLU(), maxpool=pool, **residual_stages
            )
        if drop_path:
            add_drop_path(all_units, drop_path)
        self.add_head(channels, num_classes, dropout)
        if stem_pool is not None:
            levels.insert(0, ("act1", stem_channels, 2))
        if stem_pool == "ceil":
            self.halvings = (True, False, True, True, True)
        self.set_levels(*levels)
        initialize(self)
        if zero_init_last:
            self.zero_init_last()

    def zero_init_last(self) -> None:
        """Set the last BatchNorm of every branch to zero."""
        for module in self.modules():
            if isinstance(module, ResidualUnit):
                if not isinstance(module.last_affine, nn.BatchNorm2d):
                    raise SenetError(
                        "zero_init_last is True; a pre-activation branch does not end in a BatchNorm, leave it out"
                    )
                nn.init.zeros_(module.last_affine.weight)


def build_stem_pool(stem_pool: StemPool | None) -> nn.Module:
    """Build the pooling after the stem; see `ResNet`."""
    if stem_pool is None:
        return nn.Identity()
    return nn.MaxPool2d(3, 2, padding=1) if stem_pool == "pad" else nn.MaxPool2d(3, 2, ceil_mode=True)


def deep_stem(in_channels: int) -> nn.Module:
    """Build SENet-154's stem: three 3x3 convolutions of 64 (stride 2), 64 and 128 channels."""
    return Chain(
        conv3x3(in_channels, 64, 2),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        conv3x3(64, 64),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        conv3x3(64, 128),
    )


def imagenet_resnet(
    layers: tuple[int, ...],
    *,
    bottleneck: bool = True,
    groups: int = 1,
    width_per_group: int = 64,
    entry_divisor: int = 1,
    projection_kernel: int = 1,
    deep: bool = False,
    num_classes: int = 1000,
    in_channels: int = 3,
    se: SEOptions | None = None,
    stride_on: StrideOn = "1x1",
    stem_pool: StemPool = "ceil",
    relu_last: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init_last: bool = False,
    output_stride: int | None = None,
) -> ResNet:
    """Build a four-stage network for images of about 224 pixels.

    Args:
        layers: units of each stage.
        bottleneck: units of three convolutions instead of two.
        groups: see `BottleneckUnit`.
        width_per_group: see `BottleneckUnit`.
        entry_divisor: see `BottleneckUnit`.
        projection_kernel: size of the projection shortcuts after the first stage, where it is always 1.
        deep: SENet-154's stem of three 3x3 convolutions instead of one 7x7.
        num_classes: see `ResNet`.
        in_channels: channels of the images.
        se: see `ResNet`.
        stride_on: which convolution of a bottleneck carries the stride: "1x1" in the paper's ResNets, "3x3" in its
            ResNeXts and in torchvision.
        stem_pool: see `ResNet`; "pad" in torchvision.
        relu_last: see `BasicUnit`; for units of two convolutions.
        dropout: see `ResNet`.
        drop_path: see `ResNet`.
        zero_init_last: see `ResNet`.
        output_stride: 8, 16 or 32 (None), see `ResNet`.
    """
    check_choice("stride_on", stride_on, get_args(StrideOn))
    check_choice("stem_pool", stem_pool, get_args(StemPool))
    unit: BuildUnit = partial(BasicUnit, relu_last=relu_last)
    if bottleneck:
        unit = partial(
            BottleneckUnit,
            groups=groups,
            width_per_group=width_per_group,
            entry_divisor=entry_divisor,
            stride_on=stride_on,
        )
    return ResNet(
        unit,
        layers,
        (64, 128, 256, 512),
        stem=deep_stem(in_channels) if deep else nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False),
        stem_channels=128 if deep else 64,
        stem_pool=stem_pool,
        build_shortcut=lambda stage: partial(projection, kernel_size=1 if stage == 2 else projection_kernel),
        num_classes=num_classes,
        se=se,
        dropout=dropout,
        drop_path=drop_path,
        zero_init_last=zero_init_last,
        output_stride=output_stride,
    )


def three_stages(depth: int, per_unit: int, extra: int) -> tuple[int, int, int]:
    """Return the number of units of each stage; raise a SenetError unless `depth` is `per_unit` * n + `extra`."""
    if not isinstance(depth, int):
        raise SenetError(f"depth is {depth!r}; expected a whole number, {per_unit}n + {extra}")
    units, rest = divmod(depth - extra, per_unit)
    if units < 1 or rest:
        raise SenetError(f"depth is {depth}; expected {per_unit}n + {extra}")
    return units, units, units


def cifar_resnet(
    depth: int,
    *,
    pre_activation: bool = False,
    bottleneck: bool = False,
    num_classes: int = 10,
    in_channels: int = 3,
    se: SEOptions | None = None,
    stride_on: StrideOn = "1x1",
    shortcut: Shortcut = "pad",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    zero_init_last: bool = False,
    output_stride: int | None = None,
) -> ResNet:
    """Build a three-stage network of 16, 32 and 64 planes for images of about 32 pixels.

    Bottleneck units change shape with a bare 1x1 projection.

    Args:
        depth: number of weighted layers, 6n + 2 with basic and 9n + 2 with bottleneck units.
        pre_activation: BatchNorm and ReLU before the convolutions; bottleneck units exist in this form only.
        bottleneck: units of three convolutions instead of two.
        num_classes: see `ResNet`.
        in_channels: channels of the images.
        se: see `ResNet`.
        stride_on: see `imagenet_resnet`.
        shortcut: where basic units change shape, "pad" (option A of the paper, no parameters) or, without
            pre-activation, "projection" (option B, 1x1 convolution and BatchNorm).
        dropout: see `ResNet`.
        drop_path: see `ResNet`.
        zero_init_last: see `ResNet`.
        output_stride: 2 or 4 (None), see `ResNet`.

    Raises:
        SenetError: a depth that no such network has, or an option out of its range or without effect here.

    Source: He et al., arXiv:1512.03385, section 4.2; arXiv:1603.05027, section 5.
    """
    check_choice("stride_on", stride_on, get_args(StrideOn))
    check_choice("shortcut", shortcut, get_args(Shortcut))
    if shortcut == "projection" and (pre_activation or bottleneck):
        raise SenetError(
            "shortcut is 'projection'; expected 'pad', for only basic units without pre-activation have a choice"
        )
    unit: BuildUnit = PreActivationBasicUnit if pre_activation else BasicUnit
    build_shortcut: BuildShortcut = projection if shortcut == "projection" else PadShortcut
    if bottleneck:
        unit = partial(PreActivationBottleneckUnit, stride_on=stride_on)
        build_shortcut = bare_projection
    return ResNet(
        unit,
        three_stages(depth, 9 if bottleneck else 6, 2),
        (16, 32, 64),
        stem=conv3x3(in_channels, 16),
        stem_channels=16,
        stem_pool=None,
        build_shortcut=lambda stage: build_shortcut,
        num_classes=num_classes,
        se=se,
        dropout=dropout,
        drop_path=drop_path,
        zero_init_last=zero_init_last,
        output_stride=output_stride,
    )


def wide_resnet(
    depth: int,
    widen: int,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    se: SEOptions | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    output_stride: int | None = None,
) -> ResNet:
    """Build a three-stage network of 16, 32 and 64 times `widen` planes for images of about 32 pixels.

    Its pre-activated basic units change shape with a bare 1x1 projection, and have no dropout inside.

    Args:
        depth: number of convolutions, 6n + 4: the stem, two in a unit, and the three projections.
        widen: the widening factor.
        num_classes: see `ResNet`.
        in_channels: channels of the images.
        se: see `ResNet`.
        dropout: see `ResNet`.
        drop_path: see `ResNet`.
        output_stride: 2 or 4 (None), see `ResNet`.

    Raises:
        SenetError: a depth that no such network has, or a widening factor below 1.

    Source: Zagoruyko and Komodakis, arXiv:1605.07146, Table 1.
    """
    if widen < 1:
        raise SenetError(f"widen is {widen}; expected at least 1")
    return ResNet(
        PreActivationBasicUnit,
        three_stages(depth, 6, 4),
        (16 * widen, 32 * widen, 64 * widen),
        stem=conv3x3(in_channels, 16),
        stem_channels=16,
        stem_pool=None,
        build_shortcut=lambda stage: bare_projection,
        num_classes=num_classes,
        se=se,
        dropout=dropout,
        drop_path=drop_path,
        output_stride=output_stride,
    )
