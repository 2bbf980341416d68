"""Starting from weights: the network and its preprocessing come with them, except for what the caller asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from senet.configs import overlaid, settings
from senet.data.classes import order_of
from senet.data.folders import is_number
from senet.data.preprocessing import Preprocessing
from senet.errors import SenetError
from senet.factory import assemble, read_weights, unnamed
from senet.models.base import Network
from senet.models.build import build, skeleton
from senet.models.catalog import CARDS, model_card
from senet.models.config import ModelConfig
from senet.models.external import build_external, describe_external, is_external, split_name
from senet.training.config import TrainConfig
from senet.weights.checkpoint import Checkpoint
from senet.weights.layouts import SENET
from senet.weights.matching import (
    NOT_OF_THE_WEIGHTS,
    Asked,
    check_network,
    computed_options,
    describe_weights,
    has_se,
    number_of_classes,
)
from senet.weights.reading import name_of_timm

ADAPTABLE = ("model.num_classes", "model.in_channels", *(f"model.options.{name}" for name in NOT_OF_THE_WEIGHTS))
"""What may differ from the weights of any network."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The weights that a run starts from, and what they say.

    Args:
        checkpoint: the weights.
        model: what they are of; the recipe's where they do not tell.
        preprocessing: of their images.
        class_names: of the images to train on; None if they are not known.
    """

    checkpoint: Checkpoint
    model: ModelConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None

    def for_classes(self, class_names: tuple[str, ...]) -> "WarmStart":
        """Return a start for images of these classes, whose classifier is kept only if it is of the same ones."""
        return replace(self, class_names=class_names)

    def keeps_classifier(self, class_names: tuple[str, ...]) -> bool:
        """Whether the classifier of the weights is used for images of these classes."""
        known = self.checkpoint.class_names
        if known is None or not (has_names(known) and has_names(class_names)):
            return len(class_names) == (number_of_outputs(self.checkpoint) if known is None else len(known))
        return order_of(class_names, known) is not None

    def build(self, config: ModelConfig) -> Network:
        """Build a network that these weights fit, and load them."""
        model = self.assembled(config)
        known, names = self.checkpoint.class_names, self.class_names
        if known is None or names is None or len(known) != len(names) or known == names:
            return model
        if not (has_names(known) and has_names(names)):
            return model
        state, fresh = model.state_dict(), build(model.config).state_dict()
        order = order_of(names, known)
        for key in classifier_keys(model):
            state[key] = fresh[key] if order is None else state[key][order]
        model.load_state_dict(state)
        model.class_names = None
        return model

    def assembled(self, config: ModelConfig) -> Network:
        """Build the network with the classifier of the weights, if that has as many classes."""
        asked = Asked(
            name=config.name,
            num_classes=config.num_classes,
            in_channels=config.in_channels,
            se=config.se if config.name in CARDS and model_card(config.name).has_se else None,
            options=config.options,
        )
        return assemble(self.checkpoint, asked)

    def classifier_note(self, class_names: tuple[str, ...]) -> str:
        """Return what is done with the classifier for as many classes of other names; empty for the same names."""
        known, source = self.checkpoint.class_names or (), self.checkpoint.source
        if len(known) != len(class_names) or known == class_names:
            return ""
        own, other = next((a, b) for a, b in zip(known, class_names, strict=True) if a != b)
        if not self.keeps_classifier(class_names):
            return (
                f"the classifier starts at random, for {source} has other classes: {own!r} where the data has {other!r}"
            )
        if has_names(known) and order_of(class_names, known) is not None:
            return f"the classifier of {source} is kept, its classes in the order of the data"
        return (
            f"the classifier of {source} is kept, for its classes are as many, though they have other "
            f"names: {own!r} where the data has {other!r}"
        )


@dataclass(frozen=True, kw_only=True)
class LibraryStart:
    """A network of timm or torchvision with weights of that library, which it downloads and fits by itself.

    Args:
        weights: "timm/NAME" or "torchvision/NAME", with a tag or without.
        model: the network.
        preprocessing: of the images of the weights.
    """

    weights: str
    model: ModelConfig
    preprocessing: Preprocessing

    def build(self, config: ModelConfig) -> Network:
        """Build a network with these weights."""
        return cast(Network, build_external(replace(config, name=self.weights), pretrained=True))

    def for_classes(self, class_names: tuple[str, ...]) -> "LibraryStart":
        """Return itself: which classes the library's weights are of is not known."""
        return self

    def keeps_classifier(self, class_names: tuple[str, ...]) -> bool:
        """Whether the classifier of the weights is used; where their number is not known, it is not."""
        return False

    def classifier_note(self, class_names: tuple[str, ...]) -> str:
        """Return nothing: which classes the library's weights are of is not known."""
        return ""


def has_names(class_names: tuple[str, ...]) -> bool:
    """Whether classes have names, not just numbers."""
    return not all(is_number(name) for name in class_names)


def number_of_outputs(checkpoint: Checkpoint) -> int | None:
    """Return the number of classes of weights that do not name them; None if it is not known."""
    return number_of_classes(checkpoint.state) if checkpoint.config is None else checkpoint.config.num_classes


def classifier_keys(model: Network) -> list[str]:
    """Return the names of the tensors of a network whose shapes depend on the number of classes."""
    state = model.state_dict()
    other = skeleton(replace(model.config, num_classes=model.num_classes + 1)).state_dict()
    return [key for key, tensor in state.items() if key in other and other[key].shape != tensor.shape]


Start = WarmStart | LibraryStart
"""What a run starts from."""


def start_from_weights(config: TrainConfig) -> tuple[TrainConfig, Start]:
    """Read the weights that a run starts from.

    Returns:
        The configuration with the network and the preprocessing that it trains, and the weights.

    Raises:
        SenetError: there are no such weights, or what was asked for contradicts them.
    """
    assert config.weights is not None
    asked = config.asked()
    if published := library_s_own(config.weights, config.model.name, asked):
        return start_from_library(config, published, asked)
    checkpoint = read_run_weights(config, config.weights)
    model = model_of(checkpoint, config.model, asked)
    stated = checkpoint.preprocessing
    if stated is None:  # use their library's, or the recipe's for weights of this library
        stated = preprocessing_of_library(checkpoint, model.name, config.data.preprocessing)
    start = WarmStart(checkpoint=checkpoint, model=model, preprocessing=stated.with_channels(model.in_channels))
    check_asked(asked, start)
    return with_asked(config, model, start.preprocessing), start


def read_run_weights(config: TrainConfig, weights: str) -> Checkpoint:
    """Read the weights of a run; an error names the run's own options.

    Raises:
        SenetError: as `read_weights`.
    """
    try:
        return read_weights(config.model.name, weights, layout=config.weights_layout, key=config.weights_key)
    except SenetError as error:
        said = re.sub(r"(?<![\w.])(key|layout)=", r"weights_\1=", str(error))
        if said == str(error):
            raise
        raise SenetError(said) from error


def preprocessing_of_library(checkpoint: Checkpoint, name: str, own: Preprocessing) -> Preprocessing:
    """Return the preprocessing of weights that do not state theirs.

    Args:
        checkpoint: the weights.
        name: of their network.
        own: of the run, for weights of this library.
    """
    if is_external(name):
        return describe_external(ModelConfig(name=name), name)
    return own if checkpoint.layout is SENET else checkpoint.layout.preprocessing(model_card(name))


def library_s_own(weights: str, name: str, asked: Mapping[str, Any]) -> str:
    """Return the weights if timm or torchvision itself loads them; an empty text if they are read here.

    They are read here for a network of this library. "timm/resnet50.a1_in1k" fits one of them too, so it is that
    network which is trained, unless another one is asked for.

    Args:
        weights: of the run.
        name: of the network of the run's configuration.
        asked: what the caller asked for.
    """
    if not is_external(weights) or Path(weights).exists():
        return ""
    library, architecture, _ = split_name(weights)
    of_library = f"{library}/{architecture}"
    if "model.name" in asked or name == of_library:
        return weights if name == of_library else ""
    return "" if name_of_timm(architecture) else weights


def start_from_library(config: TrainConfig, weights: str, asked: Mapping[str, Any]) -> tuple[TrainConfig, LibraryStart]:
    """Take the network and the preprocessing of weights of timm or torchvision, except for what was asked for."""
    for option in ("weights_layout", "weights_key"):
        if getattr(config, option) is not None:
            raise SenetError(f"{option} has no effect on {weights}, which its library loads; leave it out")
    if "model.se" in {name.rpartition(".")[0] for name in asked}:
        raise SenetError(f"model.se has no effect on {weights}, a network of another library; insert SE by insert_se")
    model = ModelConfig(
        name=weights.partition(".")[0],
        in_channels=asked.get("model.in_channels", 3),
        options=config.model.options if config.model.name == weights.partition(".")[0] else {},
    )
    start = LibraryStart(weights=weights, model=model, preprocessing=describe_external(model, weights))
    return with_asked(config, model, start.preprocessing), start


def model_of(checkpoint: Checkpoint, config: ModelConfig, asked: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of the weights' network, under the caller's name if they fit that too.

    Args:
        checkpoint: the weights.
        config: the network of the run's configuration.
        asked: what the caller asked for.

    Raises:
        SenetError: they do not fit the name that the caller asked for.
    """
    stated, name = checkpoint.name, config.name
    known = stated is not None or checkpoint.architecture is not None
    fits = not known or stated in (CARDS[name].starts_from if name in CARDS else (name,))
    if not (name or checkpoint.name):
        raise SenetError(unnamed(checkpoint))
    if "model.name" in asked and not fits:
        raise SenetError(
            f"model.name is {name!r}, but {checkpoint.source} holds {checkpoint.architecture or stated}; "
            "leave model.name out or start from other weights"
        )
    if checkpoint.name is not None and not ("model.name" in asked or (checkpoint.config is None and fits)):
        name = checkpoint.name
    check_network(checkpoint, name)
    model = describe_weights(checkpoint, name)
    if name in CARDS and model_card(name).has_se and not has_se(checkpoint):
        model = replace(model, se=config.se)
    return replace(model, num_classes=None)


def is_exact(checkpoint: Checkpoint) -> bool:
    """Whether the network is built exactly as the weights describe it, except for its classes."""
    config = checkpoint.config
    return config is not None and (bool(checkpoint.surgery) or is_external(config.name))


def check_asked(asked: Mapping[str, Any], start: WarmStart) -> None:
    """Raise a SenetError for the first thing asked for that contradicts the weights."""
    checkpoint, own = start.checkpoint, dict(settings(start.model, "model"))
    if start.model.name in CARDS:  # options at their defaults count, too
        stated = computed_options(checkpoint, model_card(start.model.name))
        own |= {f"model.options.{key}": value for key, value in stated.items()}
    for name, value in asked.items():
        if name not in own or own[name] == value or name in ADAPTABLE:
            continue
        if not is_exact(checkpoint) and adapts(name, value, own[name], has_se(checkpoint)):
            continue
        raise SenetError(
            f"{name} is {value!r}, but {checkpoint.source} has {own[name]!r}; leave it out or start from other weights"
        )


def adapts(name: str, asked: Any, own: Any, with_se: bool) -> bool:
    """Whether weights of a network of this package can be changed to what was asked for, see `load_weights`."""
    if name.startswith("model.se."):
        wider = name == "model.se.reduction" and asked < own
        return not with_se or wider or (name == "model.se.bias" and asked)
    return False


def with_asked(config: TrainConfig, model: ModelConfig, preprocessing: Preprocessing) -> TrainConfig:
    """Return the configuration with another network and preprocessing, but with what was asked for.

    Raises:
        SenetError: it does not go together.
    """
    asked = config.asked()
    model = overlaid(model, asked, "model")
    preprocessing = preprocessing_asked(preprocessing.with_channels(model.in_channels), asked)
    found = replace(config, model=model, data=replace(config.data, preprocessing=preprocessing))
    found.check_channels()
    return found


def preprocessing_asked(preprocessing: Preprocessing, asked: Mapping[str, Any]) -> Preprocessing:
    """Return a preprocessing with what was asked for; another size of image changes `resize` in proportion."""
    size = asked.get("data.preprocessing.image_size", preprocessing.image_size)
    if size != preprocessing.image_size:
        resize = asked.get("data.preprocessing.resize", preprocessing.resize_for(size))
        preprocessing = replace(preprocessing, image_size=size, resize=resize)
    found: Preprocessing = overlaid(preprocessing, asked, "data.preprocessing")
    return found
