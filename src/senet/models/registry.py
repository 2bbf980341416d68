"""Every network by name."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from fnmatch import fnmatchcase
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from senet.attachment import AttachedSE, attach_at, plain_class
from senet.block import SEBlock, SEOptions
from senet.errors import SenetError, nearest
from senet.models import networks
from senet.models.cards import Card, ModelConfig
from senet.models.foreign import build_foreign, is_foreign, tag_of
from senet.models.network import Network

CARDS: Mapping[str, Card] = MappingProxyType({card.name: card for card in networks.CARDS})


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the networks that match a shell pattern, such as "se_*", in the registry's order."""
    return [name for name in CARDS if fnmatchcase(name, pattern)]


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


def create_model(
    name: str,
    num_classes: int | None = None,
    in_channels: int = 3,
    *,
    se: SEOptions | None = None,
    weights: str | Path | None = None,
    layout: str | None = None,
    key: str | None = None,
    **options: Any,
) -> Network:
    """Build a network.

    The module carries `config` (the `ModelConfig` to build it again), `preprocessing` and `class_names` (None until
    trained or loaded).

    Args:
        name: see `list_models`; or "timm/NAME" or "torchvision/NAME" for the network of one of these libraries, at
            random, and with a tag of weights, such as "timm/resnet50.a1_in1k", with these.
        num_classes: None for the number of the network's own data set (or of the weights); 0 leaves the classifier out.
        in_channels: channels of the images.
        se: SE options, for networks with SE; None for the paper's.
        weights: a tag of the weights in the package, such as "cifar10"; or a file, a model folder or a hub id as
            `load_weights` takes them: then options and SE options that are left out are those of the weights, another
            `num_classes` starts the classifier anew, and another `in_channels` converts the first convolution, as in
            timm. None initialises at random.
        layout: of the weights, see `load_weights`; None for what the keys say.
        key: which of several networks in a file of weights, see `load_weights`.
        **options: further arguments that the card lists, such as `stride_on`, `stem_pool`, `dropout`, `zero_init_last`;
            `depth` for CIFAR ResNets of other depths.

    Returns:
        The network in training mode; in evaluation mode if it has weights.

    Raises:
        SenetError: an unknown name or option, options without effect, or weights that do not fit.

    >>> create_model("cifar_se_resnet20", num_classes=100).num_classes
    100
    """
    if se is not None and is_foreign(name):
        raise SenetError(f"se is given, but {name} is of another library; create it without, and call senet.insert_se")
    if se is not None and not model_card(name).has_se:
        twin = next((n for n in (f"se_{name}", name.replace("cifar_", "cifar_se_")) if n in CARDS and n != name), None)
        raise SenetError(f"se is given, but {name} is a plain network; the network with SE is {twin}")
    config = ModelConfig(
        name=name, num_classes=num_classes, in_channels=in_channels, se=se or SEOptions(), options=options
    )
    if weights is None:
        for argument, value in (("layout", layout), ("key", key)):
            if value is not None:
                raise SenetError(f"{argument}={value!r} has no effect without weights")
        return build(config).eval() if tag_of(name) else build(config)

    from senet.models.folder import find_weights  # the readers build networks with this module
    from senet.models.weights import create_from_weights

    checkpoint = find_weights(name, weights, layout=layout, key=key)
    return create_from_weights(config, checkpoint, se=se, convert_input=in_channels != 3)


def plain_twin(name: str) -> str:
    """Return the plain network of one with SE.

    Raises:
        SenetError: there is none.
    """
    twin = name.replace("se_", "", 1)
    if not model_card(name).has_se or twin not in CARDS or CARDS[twin].has_se:
        raise SenetError(f"{name} has no plain twin; name a network with one, such as se_resnet50 or cifar_se_resnet20")
    return twin


def build(config: ModelConfig) -> Network:
    """Build the network of a configuration, with random weights.

    One of another library's has that library's class, with the attributes that ours have.

    Raises:
        SenetError: as `create_model`.
    """
    if config.in_channels < 1:
        raise SenetError(f"in_channels is {config.in_channels}; expected at least 1")
    model = cast(Network, build_foreign(config)) if is_foreign(config.name) else build_own(config)
    if config.inserted:
        attach_at(model, config.inserted, config.inserted_se)
    for name in config.removed:
        model.set_submodule(name, nn.Identity(), strict=True)
    model.config = replace(
        model.config, inserted=config.inserted, inserted_se=config.inserted_se, removed=config.removed
    )
    return model


class WithoutInitialization(TorchFunctionMode):
    """Leaves out what `torch.nn.init` does: on the meta device, it takes most of the time and changes nothing."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Return the tensor as it is, for a function of `torch.nn.init`; call any other."""
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return function(*args, **(kwargs or {}))


def skeleton(config: ModelConfig) -> Network:
    """Build the network of a configuration without values, to look at its parts and the shapes of its tensors.

    Raises:
        SenetError: as `create_model`.
    """
    with torch.device("meta"), WithoutInitialization():
        return build(config)


def build_own(config: ModelConfig) -> Network:
    """Build a network of the registry, without inserted blocks."""
    card = model_card(config.name)
    if not card.has_se and config.se != SEOptions():
        raise SenetError(f"model.se has no effect: {config.name} is a plain network")
    num_classes = card.num_classes if config.num_classes is None else config.num_classes
    if num_classes < 0:
        raise SenetError(f"num_classes is {num_classes}; expected at least 0")
    for option in config.options:
        if option not in card.options:
            raise SenetError(f"{config.name} has no option {option!r}; its options are {', '.join(card.options)}")
    model = card.build(
        num_classes=num_classes,
        in_channels=config.in_channels,
        se=config.se if card.has_se else None,
        **config.options,
    )
    model.config = replace(config, num_classes=num_classes)
    model.preprocessing = card.preprocessing.with_channels(config.in_channels)
    model.class_names = None
    model.register_state_dict_post_hook(describe_state)  # type: ignore[no-untyped-call]
    return model


def option_value(config: ModelConfig, option: str) -> Any:
    """Return the value of an option of a network: the configuration's, or the builder's default."""
    return config.options.get(option, signature(model_card(config.name).build).parameters[option].default)


def block_class(model: nn.Module) -> str:
    """Return the name of the class of a network's own SE blocks that is not this library's; SEBlock if none is."""
    kinds = {plain_class(module) for module in model.modules() if isinstance(module, SEBlock)}
    return next((kind.__name__ for kind in kinds if kind not in (SEBlock, AttachedSE)), SEBlock.__name__)


def describe(model: Network) -> dict[str, Any]:
    """Return what config.json says of a network: architecture, preprocessing, classes."""
    block = block_class(model)
    return {
        "format": "senet/1",
        "model": config_to_dict(model.config),
        "preprocessing": asdict(model.preprocessing),
        "class_names": None if model.class_names is None else list(model.class_names),
    } | ({} if block == SEBlock.__name__ else {"block": block})


def describe_state(model: nn.Module, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    """Note in a state dict's metadata what network it is of: its keys alone could be torchvision's as well."""
    if isinstance(getattr(model, "config", None), ModelConfig):
        metadata["senet"] = json.dumps(describe(cast(Network, model)))


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as plain values, for JSON."""
    without = [name for name in ("inserted", "inserted_se", "removed") if not getattr(config, name)]
    without += [] if config.inserted else ["inserted_se"]
    values = asdict(config) | {"options": dict(config.options)}
    known = [field.name for field in fields(SEOptions)]  # not those of a subclass
    values |= {name: {option: values[name][option] for option in known} for name in ("se", "inserted_se")}
    return {name: value for name, value in values.items() if name not in without}


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that `config_to_dict` wrote.

    Raises:
        TypeError: a field that does not exist.
    """
    options = {name: se_from_dict(values.get(name, {})) for name in ("se", "inserted_se")}
    names = {name: tuple(values.get(name, ())) for name in ("inserted", "removed")}
    return ModelConfig(**{**values, **options, **names})


def se_from_dict(values: Mapping[str, Any]) -> SEOptions:
    """Return the SE options of plain values.

    Raises:
        TypeError: an option that does not exist.
    """
    stages = values.get("stages")
    return SEOptions(**{**values, "stages": None if stages is None else tuple(stages)})
