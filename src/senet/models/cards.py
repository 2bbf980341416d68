"""What a network is: its card, and the configuration it is built from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from senet.block import SEOptions
from senet.models.network import Network
from senet.preprocessing import Preprocessing


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
        has_se: whether the network has SE blocks.
        source: where the architecture is described.
        preprocessing: how it wants its images.
        num_classes: of the data it was designed for.
        options: names of further arguments of the builder that users may set.
        paper: the paper's figures.
    """

    name: str
    build: Callable[..., Network]
    has_se: bool
    source: str
    preprocessing: Preprocessing
    num_classes: int
    options: tuple[str, ...] = ()
    paper: PaperFigures = field(default_factory=PaperFigures)


def twins(
    name: str,
    build: Callable[..., Network],
    *,
    prefix: str = "",
    plain_paper: PaperFigures | None = None,
    se_paper: PaperFigures | None = None,
    **card: Any,
) -> tuple[Card, Card]:
    """Return the cards of a plain network, `prefix + name`, and of its SE twin, `prefix + "se_" + name`."""
    return (
        Card(name=prefix + name, build=build, has_se=False, paper=plain_paper or PaperFigures(), **card),
        Card(name=f"{prefix}se_{name}", build=build, has_se=True, paper=se_paper or PaperFigures(), **card),
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that `create_model` needs to build a network again.

    Args:
        name: of the network, see `senet models`; or "timm/..." or "torchvision/..." for one of these libraries.
        num_classes: None for the card's number; 0 for no classifier.
        in_channels: channels of the images.
        se: SE options; must stay at their defaults for a plain network.
        options: further arguments of the network, such as stride_on, stem_pool, dropout, zero_init_last.
        inserted: the blocks of `senet.insert_se`, "module=channels" each, with ">" in front of one on a module's input.
        inserted_se: their options.
        removed: the names of the network's own blocks that `senet.prune_se` took out.
    """

    name: str
    num_classes: int | None = None
    in_channels: int = 3
    se: SEOptions = field(default_factory=SEOptions)
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()
    inserted_se: SEOptions = field(default_factory=SEOptions)
    removed: tuple[str, ...] = ()
