"""The cards of all networks: every network by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from types import MappingProxyType
from typing import Any

from senet.data.preprocessing import CIFAR, CIFAR100, HALVES, IMAGENET, STANDARDIZED, Preprocessing
from senet.errors import SenetError, nearest
from senet.models.base import Network
from senet.models.bn_inception import BNInception
from senet.models.inception_resnet import InceptionResNetV2
from senet.models.mobilenet import MobileNetV1
from senet.models.public_weights import PUBLIC_WEIGHTS
from senet.models.resnet import cifar_resnet, imagenet_resnet, wide_resnet
from senet.models.shake import shake_resnet, shake_resnext
from senet.models.shufflenet import ShuffleNetV1
from senet.models.vgg import VGG16


@dataclass(frozen=True, kw_only=True)
class PaperFigures:
    """What the paper reports of a network; None where it says nothing.

    Args:
        multiply_adds: in millions, at the card's input size.
        parameters: in millions.
        top1_error: % on one crop, on the data that the card's number of classes is of: ImageNet, CIFAR-10 or CIFAR-100.
        top5_error: % on one crop.
        source: the table.
        cost_note: why our multiply-adds or parameters differ from the paper's, where they do.
    """

    multiply_adds: float | None = None
    parameters: float | None = None
    top1_error: float | None = None
    top5_error: float | None = None
    source: str | None = None
    cost_note: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One network of the registry.

    Args:
        name: what `create_model` takes.
        build: the builder; takes `num_classes`, `in_channels`, `se` and the card's options.
        family: the networks of one family differ in depth and width alone, such as "resnet" or "vgg".
        has_se: whether the network has SE blocks.
        twin: the name of the same network with SE, or without it where this one has SE; None if there is none.
        source: where the architecture is described.
        preprocessing: how it wants its images.
        num_classes: of the data it was designed for.
        options: names of further arguments of the builder that users may set.
        release_options: the values with which the network computes what the authors' released weights were trained
            for.
        torchvision_options: likewise, for the weights of torchvision and timm.
        torchvision_preprocessing: how those want their images; None for the card's own.
        paper: the paper's figures.
        weights: public ones, as `create_model(weights=...)` takes them; `pretrained=True` means the first.
    """

    name: str
    build: Callable[..., Network]
    family: str
    has_se: bool
    twin: str | None = None
    source: str
    preprocessing: Preprocessing
    num_classes: int
    options: tuple[str, ...] = ()
    release_options: Mapping[str, Any] = field(default_factory=dict)
    torchvision_options: Mapping[str, Any] = field(default_factory=dict)
    torchvision_preprocessing: Preprocessing | None = None
    paper: PaperFigures = field(default_factory=PaperFigures)
    weights: tuple[str, ...] = ()

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The networks whose weights this one can start from: itself and, if it has SE, its plain twin."""
        return (self.name, self.twin) if self.has_se and self.twin else (self.name,)


def pair(
    name: str,
    build: Callable[..., Network],
    *,
    prefix: str = "",
    plain_paper: PaperFigures | None = None,
    se_paper: PaperFigures | None = None,
    **card: Any,
) -> tuple[Card, Card]:
    """Return the cards of a plain network, `prefix + name`, and of its SE twin, `prefix + "se_" + name`."""
    plain, se = prefix + name, f"{prefix}se_{name}"
    return (
        Card(name=plain, twin=se, build=build, has_se=False, paper=plain_paper or PaperFigures(), **card),
        Card(name=se, twin=plain, build=build, has_se=True, paper=se_paper or PaperFigures(), **card),
    )


BOTTLENECK_OPTIONS = ("stride_on", "stem_pool", "dropout", "zero_init_last")
SHAKE_OPTIONS = ("shake_forward", "shake_backward", "dropout")
BASIC_OPTIONS = ("stem_pool", "relu_last", "dropout", "zero_init_last")
BASIC_ELSEWHERE: dict[str, Any] = {
    "release_options": {"stem_pool": "ceil"},
    "torchvision_options": {"stem_pool": "pad", "relu_last": False},
}
"""Of ResNets with basic units."""
RESNET_ELSEWHERE: dict[str, Any] = {
    "release_options": {"stem_pool": "ceil", "stride_on": "1x1"},
    "torchvision_options": {"stem_pool": "pad", "stride_on": "3x3"},
}
"""Of ResNets with bottleneck units."""
RESNEXT_ELSEWHERE: dict[str, Any] = {
    "release_options": {"stem_pool": "ceil", "stride_on": "3x3"},
    "torchvision_options": {"stem_pool": "pad", "stride_on": "3x3"},
}
"""Of ResNeXts and SENet-154."""


def table2(
    multiply_adds: float, top1: float, top5: float, parameters: float | None = None, cost_note: str = ""
) -> PaperFigures:
    """Return a row of Table 2; multiply-adds in billions, parameters in millions."""
    return PaperFigures(
        multiply_adds=1000 * multiply_adds,
        parameters=parameters,
        top1_error=top1,
        top5_error=top5,
        source="Table 2",
        cost_note=cost_note,
    )


def table3(multiply_adds: float, top1: float, top5: float, parameters: float, cost_note: str = "") -> PaperFigures:
    """Return a row of Table 3; multiply-adds and parameters in millions."""
    return PaperFigures(
        multiply_adds=multiply_adds,
        parameters=parameters,
        top1_error=top1,
        top5_error=top5,
        source="Table 3",
        cost_note=cost_note,
    )


def table4(top1_error: float) -> PaperFigures:
    """Return a row of Table 4, CIFAR-10."""
    return PaperFigures(top1_error=top1_error, source="Table 4")


RESNET = "arXiv:1512.03385"
RESNEXT = "arXiv:1611.05431"
PRE_ACTIVATION = "arXiv:1603.05027"


INCEPTION_299 = (
    "cause unknown, the release has no file of it: at 299 pixels the network counts 13,156 however its pooling rounds; "
    "5, 20 and 5 blocks would count 11,756, and 297 pixels 11,732, where pooling rounds down, as Caffe's does not"
)
SHUFFLENET_BUDGET = "140 is the budget of all 1x ShuffleNets; arXiv:1707.01083, Table 1, counts 137 for g=3"
SHAKE_SHAKE = "arXiv:1705.07485"


imagenet = partial(pair, preprocessing=IMAGENET, num_classes=1000, torchvision_preprocessing=STANDARDIZED)


cifar = partial(pair, preprocessing=CIFAR, num_classes=10, prefix="cifar_")


_CARDS: tuple[Card, ...] = (
    *(
        card
        for depth, layers in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3)))
        for card in imagenet(
            f"resnet{depth}",
            partial(imagenet_resnet, layers, bottleneck=False),
            family="resnet",
            source=RESNET,
            options=BASIC_OPTIONS,
            **BASIC_ELSEWHERE,
        )
    ),
    *imagenet(
        "resnet50",
        partial(imagenet_resnet, (3, 4, 6, 3)),
        family="resnet",
        source=RESNET,
        options=BOTTLENECK_OPTIONS,
        **RESNET_ELSEWHERE,
        plain_paper=table2(3.86, 24.80, 7.48, 25.6),
        se_paper=table2(3.87, 23.29, 6.62, 28.1),
    ),
    *imagenet(
        "resnet101",
        partial(imagenet_resnet, (3, 4, 23, 3)),
        family="resnet",
        source=RESNET,
        options=BOTTLENECK_OPTIONS,
        **RESNET_ELSEWHERE,
        plain_paper=table2(7.58, 23.17, 6.52),
        se_paper=table2(7.60, 22.38, 6.07),
    ),
    *imagenet(
        "resnet152",
        partial(imagenet_resnet, (3, 8, 36, 3)),
        family="resnet",
        source=RESNET,
        options=BOTTLENECK_OPTIONS,
        **RESNET_ELSEWHERE,
        plain_paper=table2(11.30, 22.42, 6.34),
        se_paper=table2(11.32, 21.57, 5.73),
    ),
    *imagenet(
        "resnext50_32x4d",
        partial(imagenet_resnet, (3, 4, 6, 3), groups=32, width_per_group=4, stride_on="3x3"),
        family="resnext",
        source=RESNEXT,
        options=BOTTLENECK_OPTIONS,
        **RESNEXT_ELSEWHERE,
        plain_paper=table2(4.24, 22.11, 5.90),
        se_paper=table2(4.25, 21.10, 5.49),
    ),
    *imagenet(
        "resnext101_32x4d",
        partial(imagenet_resnet, (3, 4, 23, 3), groups=32, width_per_group=4, stride_on="3x3"),
        family="resnext",
        source=RESNEXT,
        options=BOTTLENECK_OPTIONS,
        **RESNEXT_ELSEWHERE,
        plain_paper=table2(7.99, 21.18, 5.57),
        se_paper=table2(8.00, 20.70, 5.01),
    ),
    Card(
        name="senet154",
        build=partial(
            imagenet_resnet,
            (3, 8, 36, 3),
            groups=64,
            width_per_group=4,
            entry_divisor=2,
            projection_kernel=3,
            deep=True,
            stride_on="3x3",
            dropout=0.2,
        ),
        family="senet",
        has_se=True,
        source="arXiv:1709.01507v4, appendix",
        preprocessing=IMAGENET,
        num_classes=1000,
        options=BOTTLENECK_OPTIONS,
        torchvision_preprocessing=STANDARDIZED,
        **RESNEXT_ELSEWHERE,
        paper=PaperFigures(top1_error=18.68, top5_error=4.47, source="Table 8"),
    ),
    *imagenet(
        "vgg16_bn",
        VGG16,
        family="vgg",
        source="arXiv:1409.1556",
        options=("dropout",),
        plain_paper=table2(15.47, 27.02, 8.81),
        se_paper=table2(15.48, 25.22, 7.70),
    ),
    *imagenet(
        "bn_inception",
        BNInception,
        family="bn_inception",
        source="arXiv:1502.03167",
        options=("dropout",),
        plain_paper=table2(2.03, 25.38, 7.89),
        se_paper=table2(2.04, 24.23, 7.14),
    ),
    *imagenet(
        "inception_resnet_v2",
        InceptionResNetV2,
        family="inception_resnet",
        source="arXiv:1602.07261",
        preprocessing=replace(IMAGENET, image_size=299, resize=352),
        torchvision_preprocessing=replace(HALVES, image_size=299, resize=333),
        options=("dropout",),
        plain_paper=table2(11.75, 20.37, 5.21, cost_note=INCEPTION_299),
        se_paper=table2(11.76, 19.80, 4.79, cost_note=INCEPTION_299),
    ),
    *imagenet(
        "mobilenet_v1",
        MobileNetV1,
        family="mobilenet",
        source="arXiv:1704.04861",
        options=("activation", "dropout"),
        torchvision_options={"activation": "relu6"},
        torchvision_preprocessing=HALVES,
        plain_paper=table3(569, 28.4, 9.4, 4.2),
        se_paper=table3(572, 25.3, 7.7, 4.7),
    ),
    *imagenet(
        "shufflenet_v1_g3",
        ShuffleNetV1,
        family="shufflenet",
        source="arXiv:1707.01083",
        options=("dropout",),
        plain_paper=table3(140, 32.6, 12.5, 1.8, SHUFFLENET_BUDGET),
        se_paper=table3(142, 31.0, 11.1, 2.4, f"{SHUFFLENET_BUDGET}; the 2 that SE adds are with its pooling"),
    ),
    *(
        card
        for depth in (20, 32, 44, 56, 110)
        for card in cifar(
            f"resnet{depth}",
            partial(cifar_resnet, depth=depth),
            family="cifar_resnet",
            source=RESNET,
            options=("depth", "shortcut", "dropout", "zero_init_last"),
        )
    ),
    *cifar(
        "preact_resnet110",
        partial(cifar_resnet, 110, pre_activation=True),
        family="cifar_preact_resnet",
        source=PRE_ACTIVATION,
        options=("dropout",),
        plain_paper=table4(6.37),
        se_paper=table4(5.21),
    ),
    *cifar(
        "preact_resnet164",
        partial(cifar_resnet, 164, pre_activation=True, bottleneck=True),
        family="cifar_preact_resnet",
        source=PRE_ACTIVATION,
        options=("stride_on", "dropout"),
        plain_paper=table4(5.46),
        se_paper=table4(4.39),
    ),
    *cifar(
        "wrn16_8",
        partial(wide_resnet, 16, 8),
        family="wide_resnet",
        source="arXiv:1605.07146",
        options=("dropout",),
        plain_paper=table4(4.27),
        se_paper=table4(3.88),
    ),
    *cifar(
        "shake_shake26_2x96d",
        partial(shake_resnet, 26, 96),
        family="shake",
        source=SHAKE_SHAKE,
        options=SHAKE_OPTIONS,
        plain_paper=table4(2.56),
        se_paper=table4(2.12),
    ),
    *cifar(
        "shake_even29_2x4x64d",
        partial(shake_resnext, 29, 4, 64),
        family="shake",
        source=SHAKE_SHAKE,
        options=SHAKE_OPTIONS,
        preprocessing=CIFAR100,
        num_classes=100,
        plain_paper=PaperFigures(top1_error=15.85, source="Table 5"),
        se_paper=PaperFigures(top1_error=15.41, source="Table 5"),
    ),
)


CARDS: Mapping[str, Card] = MappingProxyType(
    {card.name: replace(card, weights=PUBLIC_WEIGHTS.get(card.name, ())) for card in _CARDS}
)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Return the names of the networks, in the registry's order.

    Args:
        pattern: a shell pattern that they match, such as "se_*".
        pretrained: only those with public weights, which `create_model(name, pretrained=True)` loads.
    """
    return [name for name, card in CARDS.items() if fnmatchcase(name, pattern) and (card.weights or not pretrained)]


def model_card(name: str) -> Card:
    """Return the card of a network.

    Raises:
        SenetError: no network has this name; the message lists the nearest.
    """
    if name not in CARDS:
        raise SenetError(
            f"no network is called {name!r}; the nearest are {nearest(name, CARDS)} (`senet models` lists all)"
        )
    return CARDS[name]
