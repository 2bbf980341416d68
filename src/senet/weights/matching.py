"""Which network weights are loaded into: what they state, what the caller asks for, and contradictions."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from senet.errors import SenetError
from senet.models.base import classifier_names
from senet.models.build import default_of, option_value
from senet.models.catalog import CARDS, Card, model_card
from senet.models.config import DROP_PATH_OPTIONS, ModelConfig
from senet.models.description import Surgery
from senet.models.external import is_external
from senet.nn.block import SEOptions
from senet.ops.gates import GATES
from senet.weights.checkpoint import Checkpoint
from senet.weights.layouts import TORCHVISION, State, is_first_layer, stranger

NOT_OF_THE_WEIGHTS = (
    *("dropout", *DROP_PATH_OPTIONS, "zero_init_last", "shake_forward", "shake_backward"),
    "output_stride",
)
"""Options that a network may have other than its weights had, and no others.

With all but the last, the same weights compute the same outputs in evaluation mode; `output_stride` is there to compute
finer maps from weights that were trained without it.
"""
ADAPTABLE_SE = ("reduction", "bias")
"""SE options to which weights are fitted exactly, see `fit_se`: these may differ, and no others."""

Adapt = Literal["classifier", "input"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the caller of `create_model` asks for; None for what the weights say, or else the network's card.

    Args:
        name: of the network.
        num_classes: another number than that of the weights starts a new classifier.
        in_channels: another number than that of the weights converts the first convolution.
        se: SE options.
        options: further arguments of the network; those that are left out are the weights'.
    """

    name: str
    num_classes: int | None = None
    in_channels: int | None = None
    se: SEOptions | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> ModelConfig:
        """Return the configuration of the network without weights."""
        return ModelConfig(
            name=self.name,
            num_classes=self.num_classes,
            in_channels=3 if self.in_channels is None else self.in_channels,
            se=self.se or SEOptions(),
            options=self.options,
        )

    def adapt(self) -> tuple[Adapt, ...]:
        """Return what may be adapted to what was asked for."""
        classifier: tuple[Adapt, ...] = () if self.num_classes is None else ("classifier",)
        return classifier if self.in_channels is None else (*classifier, "input")


def resolve(checkpoint: Checkpoint, asked: Asked) -> ModelConfig:
    """Return the configuration of the network that is asked for and that the weights fit.

    Raises:
        SenetError: the weights are of another network, or contradict what is asked for.
    """
    check_network(checkpoint, asked.name)
    stated = describe_weights(checkpoint, asked.name)
    config = ModelConfig(
        name=asked.name,
        num_classes=stated.num_classes if asked.num_classes is None else asked.num_classes,
        in_channels=stated.in_channels if asked.in_channels is None else asked.in_channels,
        se=stated.se if asked.se is None else asked.se,
        options={**stated.options, **asked.options},
    )
    check_options(config, checkpoint)
    return config


# ---- what the weights say --------------------------------------------------------------------------------------------


def describe_weights(checkpoint: Checkpoint, name: str) -> ModelConfig:
    """Return what weights state and show about their network, as a configuration of it or of its SE twin, `name`.

    Options that follow from the name of the network are left out.
    """
    config = checkpoint.config
    if is_external(name):
        return replace(config or ModelConfig(name=name), name=name)
    card, state = model_card(name), checkpoint.state
    if config is not None:
        options = {option: value for option, value in config.options.items() if option in card.options}
        return replace(config, name=name, se=config.se if card.has_se else SEOptions(), options=options)
    options = {option: value for option, value in computed_options(checkpoint, card).items() if option != "depth"}
    return ModelConfig(
        name=name,
        num_classes=number_of_classes(state),
        in_channels=next((int(x.shape[1]) for key, x in state.items() if is_first_layer(key) and x.dim() > 1), 3),
        se=se_options(state) if card.has_se else SEOptions(),
        options=options,
    )


def computed_options(checkpoint: Checkpoint, card: Card) -> Mapping[str, Any]:
    """Return the options with which the network of a card computes what the weights were made for."""
    if checkpoint.config is None:
        return {**checkpoint.layout.options(card), **read_off(card, checkpoint.state)}
    names = [name for name in card.options if name not in NOT_OF_THE_WEIGHTS]
    return {name: option_value(checkpoint.config, name) for name in names}


def number_of_classes(state: State) -> int | None:
    """Return the number of classes of a state dict under this library's keys; None if it has no classifier."""
    weights = (state[f"{name}.weight"] for name in sorted(classifier_names()) if f"{name}.weight" in state)
    return next((len(weight) for weight in weights if weight.dim()), None)


def has_se(checkpoint: Checkpoint) -> bool:
    """Whether the weights have SE blocks that are not inserted."""
    if checkpoint.config is None:
        return any(".se." in key for key in checkpoint.state)
    return checkpoint.config.name in CARDS and model_card(checkpoint.config.name).has_se


def se_options(state: State) -> SEOptions:
    """Return the SE options that the shapes of a state dict show; the paper's if it has no SE blocks."""
    shapes = [state[key].shape[:2] for key in state if key.endswith(".se.fc1.weight")]
    shapes = [shape for shape in shapes if len(shape) == 2 and 0 < shape[0] <= shape[1]]  # others do not fit anyway
    if not shapes:
        return SEOptions()
    bias = any(key.endswith(".se.fc1.bias") for key in state)
    doubled = any(state[key].item() == 2 for key in state if key.endswith(".se.factor"))  # of "senet/1"
    gate = "sigmoid_x2" if doubled else "sigmoid"
    return SEOptions(reduction=reduction_of(shapes), gate=gate, bias=bias, stages=stages_of(state))


def stages_of(state: State) -> tuple[int, ...] | None:
    """Return the stages of a ResNet that have SE; None for all, and for networks whose keys do not name stages."""
    every = {int(key[5]) + 1 for key in state if re.match(r"layer\d\.", key)}
    some = {int(key[5]) + 1 for key in state if re.match(r"layer\d\..*\.se\.fc1\.", key)}
    return tuple(sorted(some)) if some and some != every else None


def reduction_of(shapes: Sequence[Sequence[int]]) -> int:
    """Return the largest reduction with which blocks have these (hidden width, channels), or else are no narrower.

    A block has max(1, channels // reduction) hidden units. Where the widths follow another rule (timm rounds them to
    multiples of 8), no reduction gives them, and units without effect are added, see `fit_se`.
    """
    wide = [channels // hidden for hidden, channels in shapes if hidden > 1]
    largest = min(wide, default=max(channels for _, channels in shapes))
    if all(max(1, channels // largest) == hidden for hidden, channels in shapes):
        return largest
    return max(1, min(channels // hidden for hidden, channels in shapes))


def read_off(card: Card, state: State) -> Mapping[str, Any]:
    """Return the options of a CIFAR ResNet that the names of its tensors show."""
    found: dict[str, Any] = {}
    if "shortcut" in card.options:
        found["shortcut"] = "projection" if "layer2.0.downsample.0.weight" in state else "pad"
    units = [sum(re.match(rf"layer{i}\.\d+\.conv1\.weight", key) is not None for key in state) for i in (1, 2, 3)]
    if "depth" in card.options and units[0] and len(set(units)) == 1:
        found["depth"] = 6 * units[0] + 2
    return found


# ---- what contradicts them -------------------------------------------------------------------------------------------


def check_network(checkpoint: Checkpoint, name: str) -> None:
    """Raise a SenetError if the weights are of another network than `name`, or than its plain twin, as far as is known.

    Blocks that were inserted or removed are part of a network: then its twin is another.
    """
    stated, source = checkpoint.stated, checkpoint.source
    if checkpoint.description is not None:
        raise SenetError(
            f"{source} holds a model for {checkpoint.description['task']}, not {name}; open it by "
            "senet.from_pretrained, or start a run from it by `senet train --weights`"
        )
    if stated is None:
        what = None if is_external(name) else stranger(checkpoint.state)
        if what is not None:
            raise SenetError(f"{source} is of {what}, none of this library's; load it into the class it was saved from")
        return
    if is_external(name):
        fits = name == stated or (checkpoint.config is None and name.partition("/")[2] == stated)
    else:
        fits = checkpoint.name in ((name,) if checkpoint.surgery else model_card(name).starts_from)
    if not fits:
        remedy = "none of this library's" if checkpoint.name is None else f"create {checkpoint.name}"
        raise SenetError(f"{source} holds {stated}, not {name}: {remedy}")


def check_options(config: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raise a SenetError for the first option with which the weights would compute something else, or do not fit."""
    source, stated = checkpoint.source, checkpoint.config
    if is_external(config.name):
        if stated is not None:
            check_external(config, stated, source)
        return
    card, layout = model_card(config.name), checkpoint.layout
    for option, needed in computed_options(checkpoint, card).items():
        own = option_value(config, option)
        if option == "depth" and own != needed:
            remedy = network_of_depth(card, needed) or f"it with depth={needed}"
            raise SenetError(f"{source} is of a network of depth {needed}, the model of {own}; create {remedy}")
        if own != needed:
            remedy = "; if they are of a network of this library, pass layout='senet'" if layout is TORCHVISION else ""
            raise SenetError(
                f"{source} has weights for {option}={needed!r} (layout {layout.name}), but the model has {own!r}; "
                f"create it with {option}={needed!r}{remedy}"
            )
    if stated is not None and model_card(stated.name).has_se:
        check_se_options("se", config.se, stated.se, source, ADAPTABLE_SE)


def network_of_depth(card: Card, depth: int) -> str | None:
    """Return the name of the network of a card's family with another depth, if there is one."""
    for other in CARDS.values():
        if (other.family, other.has_se) == (card.family, card.has_se) and default_of(other, "depth") == depth:
            return other.name
    return None


def check_external(config: ModelConfig, stated: ModelConfig, source: str) -> None:
    """Raise a SenetError for the first option in which another library's network differs from what weights say."""
    for option, value in config.options.items():
        if option not in NOT_OF_THE_WEIGHTS and stated.options.get(option, value) != value:
            raise SenetError(f"{source} has weights for {option}={stated.options[option]!r}; leave {option} out")


def check_surgery(surgery: Surgery, checkpoint: Checkpoint) -> None:
    """Raise a SenetError if the weights have inserted or removed blocks that a network has not, or of another kind."""
    stated, source = checkpoint.surgery, checkpoint.source
    pairs = (("inserted", surgery.inserted, stated.inserted), ("removed", surgery.removed, stated.removed))
    for what, own, stored in pairs:
        if set(own) != set(stored) and (stored or what == "removed"):
            raise SenetError(
                f"{source} has other {what} SE blocks than the model; "
                f"open it with them: senet.from_pretrained({source!r})"
            )
    if stated.inserted:
        check_se_options("inserted_se", surgery.inserted_se, stated.inserted_se, source, ())


def doubles(a: str, b: str) -> bool:
    """Whether two gates are the same, or one is twice the other: a network then takes that of the weights."""
    return b in (a, GATES[a].doubled) or a == GATES[b].doubled


def check_se_options(name: str, own: SEOptions, stated: SEOptions, source: str, adaptable: Collection[str]) -> None:
    """Raise a SenetError for the first SE option in which weights and model differ, unless it is adaptable."""
    for option in (each.name for each in fields(stated) if each.name not in adaptable):
        stored = getattr(stated, option)
        if option == "gate" and adaptable and doubles(own.gate, stored):
            continue
        if getattr(own, option) != stored:
            asked = f"SEOptions({option}={stored!r})" if name == "se" else f"blocks inserted with {option}={stored!r}"
            raise SenetError(
                f"{source} has weights for {name}.{option}={stored!r}, but the model has {getattr(own, option)!r}; "
                f"create it with {asked}"
            )
