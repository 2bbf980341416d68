"""What `--model` names: a network and the weights to start from."""

from dataclasses import dataclass
from pathlib import Path

from senet.errors import SenetError
from senet.factory import public_weights
from senet.models.catalog import CARDS, model_card
from senet.models.external import is_external, names_elsewhere, split_name
from senet.weights.reading import find_model_folder
from senet.weights.words import is_source, refuse_unknown


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network and its weights, as `TrainConfig` takes them.

    Args:
        name: of the network; empty for that which the weights name.
        weights: see `TrainConfig.weights`; None for random ones.
    """

    name: str
    weights: str | None


def resolve_source(model: str, pretrained: bool = True) -> Source:
    """Return what a word means, as for `senet.from_pretrained`; nothing is read or downloaded yet.

    Args:
        model: a run or model folder, a file of weights, a hub id, the name of a network with public weights, or
            "timm/NAME" or "torchvision/NAME" for that library's network with its weights.
        pretrained: False for random weights.

    Raises:
        SenetError: there is no such network, folder or file; or a network of this library has no public weights.
    """
    word = str(model)
    if Path(word).exists():
        if Path(word).is_dir():
            find_model_folder(word)  # says what is wrong
        return Source(name="", weights=word)
    if is_external(word):
        library, architecture, tag = split_name(word)
        if not pretrained and tag:
            raise SenetError(f"pretrained=False contradicts {word}, which means the weights {tag!r}; leave one out")
        return Source(name=f"{library}/{architecture}", weights=word if pretrained else None)
    if word in CARDS:
        return Source(name=word, weights=weights_of(word) if pretrained else None)
    if not is_source(word):
        if elsewhere := names_elsewhere(word):
            raise SenetError(f"{word} is no network of this library; name it {' or '.join(elsewhere)}")
        refuse_unknown(word)
    return Source(name="", weights=word)


def weights_of(name: str) -> str:
    """Return the weights of a network of this library.

    Raises:
        SenetError: there are no public ones.
    """
    if not model_card(name).weights:
        raise SenetError(
            f"{name} has no public weights to start from (`senet models --weights` lists the networks that have some); "
            f"name a run, a folder or a file of weights, or train it from scratch with pretrained=False"
        )
    return public_weights(name)
