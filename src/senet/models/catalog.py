"""The cards of all networks: every network by name, and the way to add one.

Of many there are no public weights (`Card.weights`): they are here for the paper's tables, and this project has not
trained them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
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
from senet.registry import Registry, calling_module


@dataclass(frozen=True, kw_only=True)
class Card:
    """One network of the registry.

    Args:
        name: what `create_model` takes.
        build: the function or class that builds it, with the arguments `num_classes`, `in_channels`, `se` (SEOptions;
            None for a plain network) and the card's options.
        family: the networks of one family differ in depth and width alone, such as "resnet" or "vgg".
        has_se: whether the network has SE blocks.
        twin: the name of the same network with SE, or without it where this one has SE; None if there is none.
        source: where the architecture is described.
        preprocessing: the size, mean and standard deviation of its images.
        num_classes: of the data that it was designed for.
        options: names of further arguments of the builder that users may set.
        release_options: the values with which the network computes what the authors' released weights were trained
            for.
        torchvision_options: likewise, for the weights of torchvision and timm.
        torchvision_preprocessing: the preprocessing of those weights; None for the card's own.
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
    weights: tuple[str, ...] = ()

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The networks whose weights this one can start from: itself and, if it has SE, its plain twin."""
        return (self.name, self.twin) if self.has_se and self.twin else (self.name,)


def twins(name: str, build: Callable[..., Network], *, prefix: str = "", **card: Any) -> tuple[Card, Card]:
    """Return the cards of a plain network, `prefix + name`, and of its SE twin, `prefix + "se_" + name`."""
    plain, se = prefix + name, f"{prefix}se_{name}"
    return (
        Card(name=plain, twin=se, build=build, has_se=False, **card),
        Card(name=se, twin=plain, build=build, has_se=True, **card),
    )


on_imagenet = partial(twins, preprocessing=IMAGENET, num_classes=1000, torchvision_preprocessing=STANDARDIZED)
on_cifar = partial(twins, preprocessing=CIFAR, num_classes=10, prefix="cifar_")
basic_resnets = partial(
    on_imagenet,
    family="resnet",
    source="arXiv:1512.03385",
    options=("stem_pool", "relu_last", "dropout", "drop_path", "zero_init_last", "output_stride"),
    release_options={"stem_pool": "ceil"},
    torchvision_options={"stem_pool": "pad", "relu_last": False},
)
"""ResNets with units of two convolutions."""
BOTTLENECK: Mapping[str, Any] = {
    "options": ("stride_on", "stem_pool", "dropout", "drop_path", "zero_init_last", "output_stride"),
    "torchvision_options": {"stem_pool": "pad", "stride_on": "3x3"},
}
"""Units of three convolutions."""
bottleneck_resnets = partial(
    on_imagenet,
    family="resnet",
    source="arXiv:1512.03385",
    release_options={"stem_pool": "ceil", "stride_on": "1x1"},
    **BOTTLENECK,
)
resnexts = partial(
    on_imagenet,
    family="resnext",
    source="arXiv:1611.05431",
    release_options={"stem_pool": "ceil", "stride_on": "3x3"},
    **BOTTLENECK,
)
RESNEXT: Mapping[str, Any] = {"groups": 32, "width_per_group": 4, "stride_on": "3x3"}
cifar_resnets = partial(
    on_cifar,
    family="cifar_resnet",
    source="arXiv:1512.03385",
    options=("depth", "shortcut", "dropout", "drop_path", "zero_init_last", "output_stride"),
)
preact_resnets = partial(on_cifar, family="cifar_preact_resnet", source="arXiv:1603.05027")
shake_nets = partial(
    on_cifar, family="shake", source="arXiv:1705.07485", options=("shake_forward", "shake_backward", "dropout")
)

_CARDS: tuple[Card, ...] = (
    *basic_resnets("resnet18", partial(imagenet_resnet, (2, 2, 2, 2), bottleneck=False)),
    *basic_resnets("resnet34", partial(imagenet_resnet, (3, 4, 6, 3), bottleneck=False)),
    *bottleneck_resnets("resnet50", partial(imagenet_resnet, (3, 4, 6, 3))),
    *bottleneck_resnets("resnet101", partial(imagenet_resnet, (3, 4, 23, 3))),
    *bottleneck_resnets("resnet152", partial(imagenet_resnet, (3, 8, 36, 3))),
    *resnexts("resnext50_32x4d", partial(imagenet_resnet, (3, 4, 6, 3), **RESNEXT)),
    *resnexts("resnext101_32x4d", partial(imagenet_resnet, (3, 4, 23, 3), **RESNEXT)),
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
        release_options={"stem_pool": "ceil", "stride_on": "3x3"},
        torchvision_preprocessing=STANDARDIZED,
        **BOTTLENECK,
    ),
    *on_imagenet("vgg16_bn", VGG16, family="vgg", source="arXiv:1409.1556", options=("dropout",)),
    *on_imagenet("bn_inception", BNInception, family="bn_inception", source="arXiv:1502.03167", options=("dropout",)),
    *on_imagenet(
        "inception_resnet_v2",
        InceptionResNetV2,
        family="inception_resnet",
        source="arXiv:1602.07261",
        preprocessing=replace(IMAGENET, image_size=299, resize=352),
        options=("dropout",),
        torchvision_preprocessing=replace(HALVES, image_size=299, resize=333),
    ),
    *on_imagenet(
        "mobilenet_v1",
        MobileNetV1,
        family="mobilenet",
        source="arXiv:1704.04861",
        options=("activation", "dropout"),
        torchvision_options={"activation": "relu6"},
        torchvision_preprocessing=HALVES,
    ),
    *on_imagenet(
        "shufflenet_v1_g3", ShuffleNetV1, family="shufflenet", source="arXiv:1707.01083", options=("dropout",)
    ),
    *(
        card
        for depth in (20, 32, 44, 56, 110)
        for card in cifar_resnets(f"resnet{depth}", partial(cifar_resnet, depth=depth))
    ),
    *preact_resnets(
        "preact_resnet110",
        partial(cifar_resnet, 110, pre_activation=True),
        options=("dropout", "drop_path", "output_stride"),
    ),
    *preact_resnets(
        "preact_resnet164",
        partial(cifar_resnet, 164, pre_activation=True, bottleneck=True),
        options=("stride_on", "dropout", "drop_path", "output_stride"),
    ),
    *on_cifar(
        "wrn16_8",
        partial(wide_resnet, 16, 8),
        family="wide_resnet",
        source="arXiv:1605.07146",
        options=("dropout", "drop_path", "output_stride"),
    ),
    *shake_nets("shake_shake26_2x96d", partial(shake_resnet, 26, 96)),
    *shake_nets("shake_even29_2x4x64d", partial(shake_resnext, 29, 4, 64), preprocessing=CIFAR100, num_classes=100),
)

CARDS: Registry[Card] = Registry(
    "network", {card.name: replace(card, weights=PUBLIC_WEIGHTS.get(card.name, ())) for card in _CARDS}
)
"""Every network by name; `register_model` adds to it."""


def register_model(card: Card) -> None:
    """Add a network of another package: all functions and commands take its name from then on.

    Call it in a module of that package for each card, the plain network and its SE twin. A model folder of the network
    names this module as what it needs.

    Args:
        card: of the network.

    Raises:
        SenetError: the name is taken, or has a "/", which is for the networks of timm and torchvision.
    """
    if "/" in card.name:
        raise SenetError(
            f"name is {card.name!r}; expected one without '/', which is for timm/NAME and torchvision/NAME"
        )
    CARDS.register(card.name, card, calling_module())


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
