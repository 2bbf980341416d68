"""Reading weights, and what is known of where they come from, from a file, a model folder or the hub."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from senet.data.preprocessing import Preprocessing, of_timm
from senet.errors import SenetError
from senet.models.build import option_value
from senet.models.catalog import CARDS, Card, model_card
from senet.models.config import ModelConfig, config_from_dict, se_from_dict
from senet.nn.block import SEBlock, SEOptions
from senet.weights.hub import FILES, fetch_model_folder, is_hub_id
from senet.weights.layouts import CAFFE, SENET, Layout, State, find_layout, is_first_layer, recognize
from senet.weights.reading import read_state

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
TIMM_WEIGHTS_FILE = "pytorch_model.bin"
NAMES_IN_TIMM = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d"),
    *("senet154", "vgg16_bn", "inception_resnet_v2"),
)
"""Names of networks that timm has too: a config.json of timm's means its own."""
CLASSIFIERS = ("fc", "classifier", "classifier.6", "classif")
"""What our networks call their last layer."""
NOT_OF_THE_WEIGHTS = ("dropout", "zero_init_last", "shake_forward", "shake_backward")
"""Options with which the same weights compute the same outputs in evaluation mode: these may differ, and no others."""
ADAPTABLE_SE = ("reduction", "bias", "factor")
"""SE options to which weights are fitted exactly, see `fit_se`: these may differ, and no others."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights and what is known of them.

    Args:
        source: the file, folder or hub id, for messages.
        raw: the tensors under the names that the source gives them.
        layout: whose names and shapes these are.
        config: what the network was built from, if it is one of ours.
        architecture: timm's name of the network, if it is stated.
        preprocessing: how the network wants its images, if it is stated.
        class_names: of the outputs, if they are stated.
        block: the class of the SE blocks that the weights were trained in, if `config` is known.
        notes: what was left out of the file, a phrase each.
    """

    source: str
    raw: State
    layout: Layout
    config: ModelConfig | None = None
    architecture: str | None = None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    block: str = SEBlock.__name__
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """The tensors with our keys and shapes."""
        return self.layout.convert(self.raw)

    @property
    def name(self) -> str | None:
        """Our name of the network that the weights are stated to be of."""
        if self.config is not None:
            return self.config.name
        return None if self.architecture is None else name_of_timm(self.architecture)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the weights; None if they have no classifier."""
        if self.config is not None:
            return self.config.num_classes
        state = self.state
        weights = (state[f"{name}.weight"] for name in CLASSIFIERS if f"{name}.weight" in state)
        return next((len(weight) for weight in weights if weight.dim()), None)

    @property
    def in_channels(self) -> int:
        """The number of channels of the images that the weights are for."""
        if self.config is not None:
            return self.config.in_channels
        return next((int(tensor.shape[1]) for key, tensor in self.state.items() if is_first_layer(key)), 3)

    def with_layout(self, layout: str | None) -> "Checkpoint":
        """Return the same weights, to be read in another layout; None for the one that the keys say.

        Raises:
            SenetError: there is no such layout, or the weights say themselves what they are.
        """
        if layout is None or layout == self.layout.name:
            return self
        found = find_layout(layout)
        if self.config is not None or self.layout is CAFFE:
            raise SenetError(f"{self.source} is known to have layout {self.layout.name}; leave layout={layout!r} out")
        return replace(self, layout=found)

    def options(self, card: Card) -> Mapping[str, Any]:
        """Return the options with which a network computes what the weights were made for."""
        if self.config is None:
            return {**self.layout.options(card), **read_off(card, self.state)}
        names = [name for name in card.options if name not in NOT_OF_THE_WEIGHTS]
        return {name: option_value(self.config, name) for name in names}

    def se_options(self) -> SEOptions:
        """Return the SE options that fit the weights: those they were made with, or what their shapes say."""
        if self.config is not None:
            return self.config.se
        state = self.state
        shapes = [state[key].shape[:2] for key in state if key.endswith(".se.fc1.weight")]
        shapes = [shape for shape in shapes if len(shape) == 2 and 0 < shape[0] <= shape[1]]  # others do not fit anyway
        if not shapes:
            return SEOptions()
        bias = any(key.endswith(".se.fc1.bias") for key in state)
        return SEOptions(reduction=reduction_of(shapes), bias=bias, stages=stages_of(state))

    def check_network(self, card: Card) -> None:
        """Raise a SenetError if the weights are stated to be of another network than `card`'s or its plain twin."""
        stated = None if self.config is None else self.config.name
        if (self.architecture or stated) and self.name not in card.starts_from:
            remedy = "none of ours" if self.name is None else f"create {self.name}"
            raise SenetError(f"{self.source} holds {self.architecture or stated}, not {card.name}: {remedy}")


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


def name_of_timm(architecture: str) -> str | None:
    """Return our name of one of timm's networks; None if it is not in the paper."""
    name = re.sub(r"^(legacy|tv|gluon)_|_v1b$", "", architecture)
    name = {"mobilenetv1_100": "mobilenet_v1"}.get(name, name)
    name = re.sub(r"^seres", "se_res", name)
    return name if name in CARDS else None


def read_checkpoint(source: str | Path, key: str | None = None, names: Collection[str] = ()) -> Checkpoint:
    """Read weights from a file, a model or run folder, or the hub; nothing in them is executed.

    Args:
        source: a path, or a hub id ("owner/name", "hf-hub:owner/name", with "@revision" if need be).
        key: which of several networks in a file, see `read_state`.
        names: see `read_state`.

    Raises:
        SenetError: it is absent, cannot be reached, truncated, or holds no weights.
    """
    path = Path(source)
    if path.is_file() or not (path.is_dir() or is_hub_id(str(source))):
        return read_file(path, key, names)
    if key is not None:
        raise SenetError(f"key={key!r} has no effect: {source} is no file, and holds one network")
    folder = find_model_folder(path) if path.is_dir() else fetch_model_folder(str(source))
    return read_folder(folder, str(source))


def find_model_folder(source: str | Path) -> Path:
    """Return the model folder in `source`: itself, or the best/ (else last/) of a run folder.

    Raises:
        SenetError: there is none.
    """
    source = Path(source)
    for folder in (source, source / "best", source / "last"):
        has_weights = any((folder / name).is_file() for name in (WEIGHTS_FILE, TIMM_WEIGHTS_FILE))
        if has_weights and (folder / CONFIG_FILE).is_file():
            return folder
    if not source.exists():
        raise SenetError(f"there is no folder {source}")
    files = [file for file in sorted(source.iterdir()) if file.suffix in FILES] if source.is_dir() else []
    remedy = f"; name the file in it, {files[0]}" if files else "; name one that senet train or senet convert wrote"
    raise SenetError(
        f"{source} is neither a model folder ({WEIGHTS_FILE} and {CONFIG_FILE}) nor a run folder (best/, last/){remedy}"
    )


def read_folder(folder: Path, source: str) -> Checkpoint:
    """Read a model folder of ours or of timm's: config.json and the weights beside it."""
    described = read_description(folder / CONFIG_FILE)
    file = folder / WEIGHTS_FILE
    found = read_state(file if file.is_file() else folder / TIMM_WEIGHTS_FILE)
    layout = SENET if "config" in described else recognize(found.tensors)
    return Checkpoint(source=source, raw=found.tensors, layout=layout, **described)


def read_file(path: Path, key: str | None = None, names: Collection[str] = ()) -> Checkpoint:
    """Read a file of weights; one that `save_pretrained` or the state dict of our networks wrote describes itself."""
    if path.suffix == ".caffemodel":
        if key is not None:
            raise SenetError(f"key={key!r} has no effect: {path} holds one network")
        from senet.weights.caffe import read_caffemodel, to_state_dict  # protobuf only where it is needed

        blobs = read_caffemodel(path)
        try:
            return Checkpoint(source=str(path), raw=to_state_dict(blobs), layout=CAFFE)
        except SenetError as error:
            raise SenetError(f"{path}: {error}") from error
    found = read_state(path, key, names)
    known: dict[str, Any] = {"source": str(path), "raw": found.tensors, "notes": found.notes}
    if found.description is None:
        return Checkpoint(layout=recognize(found.tensors), **known)
    try:
        return Checkpoint(layout=SENET, **known, **parse_description(json.loads(found.description)))
    except (ValueError, KeyError, TypeError) as error:
        raise SenetError(
            f"{path} has a description that this version does not read ({error}); it may be of a newer one"
        ) from error


def read_description(path: Path) -> dict[str, Any]:
    """Read a config.json: what `Checkpoint` takes of it.

    Raises:
        SenetError: it is neither what `save_pretrained` nor what timm writes.
    """
    try:
        return parse_description(json.loads(path.read_text()))
    except SenetError as error:
        raise SenetError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SenetError(f"{path} is not a senet model configuration ({error})") from error


def parse_description(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `Checkpoint` takes of the values of a config.json."""
    if "model" not in values and "architecture" in values:
        preprocessing = of_timm(values.get("pretrained_cfg", values))
        if values["architecture"] in CARDS and values["architecture"] not in NAMES_IN_TIMM:
            return {"config": config_of_timm(values), "preprocessing": preprocessing}
        return {"architecture": values["architecture"], "preprocessing": preprocessing}
    names = values["class_names"]
    return {
        "config": config_from_dict(values["model"]),
        "preprocessing": Preprocessing(**values["preprocessing"]),
        "class_names": None if names is None else tuple(names),
        "block": values.get("block", SEBlock.__name__),
    }


def config_of_timm(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of one of our networks that timm's functions have saved.

    Raises:
        SenetError: an argument of the network that cannot be read back.
    """
    name, arguments = values["architecture"], dict(values.get("model_args", {}))
    se = arguments.pop("se", {})
    for told_elsewhere in ("num_classes", "global_pool"):
        arguments.pop(told_elsewhere, None)
    in_channels = arguments.pop("in_chans", values.get("pretrained_cfg", values)["input_size"][0])
    dropout = arguments.pop("drop_rate", None)
    options = arguments if dropout is None else arguments | {"dropout": dropout}
    for option in options:
        if option not in model_card(name).options:
            raise SenetError(f"model_args has {option!r}, which {name} does not take; save it by senet.save_pretrained")
    return ModelConfig(
        name=name,
        num_classes=values["num_classes"],
        in_channels=in_channels,
        se=se if isinstance(se, SEOptions) else se_from_dict(se),
        options=options,
    )
