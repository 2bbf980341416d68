"""Whether the weights and the network agree, beyond the shapes of tensors."""

from collections.abc import Collection
from dataclasses import fields

from torch import nn

from senet.errors import SenetError
from senet.models.build import default_of, option_value
from senet.models.catalog import CARDS, Card, model_card
from senet.models.config import ModelConfig
from senet.models.description import block_class
from senet.nn.block import SEOptions
from senet.weights.checkpoint import ADAPTABLE_SE, Checkpoint
from senet.weights.layouts import TORCHVISION, stranger


def check_known(checkpoint: Checkpoint) -> None:
    """Raise a SenetError for weights of a network that is known to be none of this library's."""
    what = None if checkpoint.config or checkpoint.architecture else stranger(checkpoint.raw)
    if what is not None:
        raise SenetError(
            f"{checkpoint.source} is of {what}, none of this library's; load it into the class that it was saved from"
        )


def check_options(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for the first option with which the same weights would compute something else."""
    source, layout, card = checkpoint.source, checkpoint.layout, model_card(config.name)
    for option, theirs in checkpoint.options(card).items():
        ours = option_value(config, option)
        if option == "depth" and ours != theirs:
            remedy = network_of_depth(card, theirs) or f"it with depth={theirs}"
            raise SenetError(f"{source} is of a network of depth {theirs}, the model of {ours}; create {remedy}")
        if ours != theirs:
            remedy = "; if they are of one of our networks, pass layout='senet'" if layout is TORCHVISION else ""
            raise SenetError(
                f"{source} has weights for {option}={theirs!r} (layout {layout.name}), but the model has {ours!r}; "
                f"create it with {option}={theirs!r}{remedy}"
            )
    check_surgery(config, checkpoint)
    if checkpoint.config is not None and model_card(checkpoint.config.name).has_se:
        check_se_options("se", config.se, checkpoint.config.se, source, ADAPTABLE_SE)


def network_of_depth(card: Card, depth: int) -> str | None:
    """Return the name of the network of a card's family with another depth, if there is one."""
    for other in CARDS.values():
        if (other.family, other.has_se) == (card.family, card.has_se) and default_of(other, "depth") == depth:
            return other.name
    return None


def check_surgery(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise a SenetError if the weights have inserted or removed blocks that the model has not, or of another kind."""
    theirs = checkpoint.config
    if theirs is None:
        return
    for what, own, stored in (
        ("inserted", config.inserted, theirs.inserted),
        ("removed", config.removed, theirs.removed),
    ):
        if stored != own and (stored or what == "removed"):
            raise SenetError(
                f"{checkpoint.source} has other {what} SE blocks than the model; "
                f"open it with them: senet.from_pretrained({checkpoint.source!r})"
            )
    if theirs.inserted:
        check_se_options("inserted_se", config.inserted_se, theirs.inserted_se, checkpoint.source, ())


def check_blocks(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for weights that are known to be of SE blocks of another class than the model's."""
    has_se = checkpoint.config is not None and model_card(checkpoint.config.name).has_se
    own, theirs = block_class(model), checkpoint.block
    if has_se and own != theirs:
        raise SenetError(
            f"{checkpoint.source} has weights of SE blocks of class {theirs}, the model has {own}; create the network "
            f"with {theirs} and call load_weights"
        )


def check_se_options(name: str, own: SEOptions, theirs: SEOptions, source: str, adaptable: Collection[str]) -> None:
    """Raise a SenetError for the first SE option in which weights and model differ, unless it is adaptable."""
    for option in (field.name for field in fields(theirs) if field.name not in adaptable):
        stored = getattr(theirs, option)
        if getattr(own, option) != stored:
            asked = f"SEOptions({option}={stored!r})" if name == "se" else f"blocks inserted with {option}={stored!r}"
            raise SenetError(
                f"{source} has weights for {name}.{option}={stored!r}, but the model has {getattr(own, option)!r}; "
                f"create it with {asked}"
            )
