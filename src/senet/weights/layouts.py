"""The layouts of other libraries' weights, recognized by their keys and turned into this library's."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from senet.data.preprocessing import STANDARDIZED, Preprocessing
from senet.errors import SenetError
from senet.models.catalog import Card

CHENYAOFO = {
    10: ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    100: ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}
"""Mean and standard deviation by the number of classes; source: pytorch-cifar-models, logs/*/resnet20/default.log."""

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The way a library names, shapes and uses the weights of a network.

    Args:
        name: what `load_weights` calls it.
        mark: a pattern that some key of every such file matches, and no file of the layouts after it.
        without: a pattern that no key of such a file matches.
        renames: patterns and replacements that turn its keys into this library's, applied in order.
        options: options of the card's network with which it computes what that library's network computes.
        preprocessing: of its networks, from a card with the number of classes of the weights.
        reshape: turns tensors into this library's shapes, after renaming.
        rearrange: turns a whole state into that of this library's network, after reshaping.
    """

    name: str
    mark: re.Pattern[str]
    without: re.Pattern[str] = re.compile("$^")
    renames: tuple[tuple[str, str], ...] = ()
    options: Callable[[Card], Mapping[str, Any]] = lambda card: {}
    preprocessing: Callable[[Card], Preprocessing] = lambda card: card.preprocessing
    reshape: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor
    rearrange: Callable[[State], State] = lambda state: state

    def fits(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys has this layout."""
        return any(self.mark.search(key) for key in keys) and not any(self.without.search(key) for key in keys)

    def convert(self, state: Mapping[str, Tensor]) -> State:
        """Return the state with this library's keys and shapes."""
        converted = {}
        for key, tensor in state.items():
            for pattern, replacement in self.renames:
                key = re.sub(pattern, replacement, key)
            converted[key] = self.reshape(key, tensor)
        return self.rearrange(converted)


def torchvision_options(card: Card) -> Mapping[str, Any]:
    """Return the options with which the network computes what torchvision's and timm's does."""
    return card.torchvision_options


def release_options(card: Card) -> Mapping[str, Any]:
    """Return the options with which the network computes what the authors' does."""
    return card.release_options


def timm_legacy_options(card: Card) -> Mapping[str, Any]:
    """Return the options of the release as timm has it, with a ReLU before SE in units of two convolutions."""
    return {**card.release_options, **({"relu_last": True} if "relu_last" in card.options else {})}


def moskomule_options(card: Card) -> Mapping[str, Any]:
    """Return the options of senet.pytorch: torchvision's for ImageNet, projection shortcuts on CIFAR."""
    return {"shortcut": "projection"} if "shortcut" in card.options else card.torchvision_options


def torchvision_preprocessing(card: Card) -> Preprocessing:
    """Return the preprocessing of torchvision's and timm's weights of the network."""
    return card.torchvision_preprocessing or card.preprocessing


def chenyaofo_preprocessing(card: Card) -> Preprocessing:
    """Return the preprocessing of pytorch-cifar-models: CIFAR-100's for 100 classes."""
    mean, std = CHENYAOFO.get(card.num_classes, CHENYAOFO[10])
    return replace(card.preprocessing, mean=mean, std=std)


def with_imagenets_statistics(card: Card) -> Preprocessing:
    """Return the card's preprocessing with the mean and standard deviation of ImageNet."""
    return replace(card.preprocessing, mean=STANDARDIZED.mean, std=STANDARDIZED.std)


def zeros_to_the_end(state: State) -> State:
    """Renumber channels so that parameter-free shortcuts append their zeros, where they stood on both sides.

    A unit that widens the map puts as many zero channels before the old ones as after them; this library's shortcut
    puts all of them after. The channels of the two later stages are renumbered, with all that writes and reads them,
    so that the network computes the same.
    """
    if any(".downsample." in key for key in state):
        return state
    orders: dict[int, Tensor] = {}
    for stage in (1, 2, 3):
        last = state.get(f"layer{stage}.0.conv2.weight")
        if last is None or last.dim() != 4:
            return state
        before = orders.get(stage - 1, torch.arange(len(last)))
        margin = (len(last) - len(before)) // 2
        new = [*range(margin), *range(margin + len(before), len(last))]
        orders[stage] = torch.cat((before + margin, torch.tensor(new, dtype=torch.long)))
    return {key: renumber(key, tensor, orders) for key, tensor in state.items()}


def renumber(key: str, tensor: Tensor, orders: Mapping[int, Tensor]) -> Tensor:
    """Renumber the channels of a layer that reads or writes what the stages put out; `orders` is by stage."""
    if key == "fc.weight":
        return tensor[:, orders[3]]
    place = re.match(r"layer([123])\.(\d+)\.(?:(conv1|se\.fc1)\.weight|(conv2|bn2|se\.fc2)\.)", key)
    if place is None or tensor.dim() == 0:
        return tensor
    stage, reads, writes = int(place[1]), place[3], place[4]
    if writes:
        return tensor[orders[stage]]
    first = reads == "conv1" and place[2] == "0" and stage > 1
    return tensor[:, orders[stage - 1 if first else stage]]


def linear_to_1x1(key: str, tensor: Tensor) -> Tensor:
    """Give the linear layers of SE the two further dimensions of a 1x1 convolution."""
    return tensor[:, :, None, None] if ".se.fc" in key and tensor.dim() == 2 else tensor


def vgg_classifier(key: str, tensor: Tensor) -> Tensor:
    """Flatten the convolutions by which timm computes the first layers of VGG's classifier."""
    return tensor.flatten(1) if key.startswith("classifier.") and tensor.dim() == 4 else tensor


LEGACY_RENAMES = ((r"^last_linear\.", "fc."), (r"\.se_module\.", ".se."))
"""Of Cadene's pretrained-models, which timm's legacy networks come from."""
SENET = Layout(name="senet", mark=re.compile("$^"))  # recognized by the description that comes with the weights
CAFFE = Layout(name="caffe", mark=re.compile("$^"), options=release_options)  # recognized by the file's suffix
TORCHVISION = Layout(
    name="torchvision",
    mark=re.compile(r"^(conv1(\.0)?|features\.0|conv2d_1a\.conv|conv_stem)\.weight$"),
    options=torchvision_options,
    preprocessing=torchvision_preprocessing,
)
LAYOUTS: tuple[Layout, ...] = (
    SENET,
    CAFFE,
    Layout(
        name="timm_legacy_deep",  # SENet-154
        mark=re.compile(r"^layer0\.conv3\.weight$"),
        renames=(
            (r"^layer0\.conv1\.", "conv1.0."),
            (r"^layer0\.bn1\.", "conv1.1."),
            (r"^layer0\.conv2\.", "conv1.3."),
            (r"^layer0\.bn2\.", "conv1.4."),
            (r"^layer0\.conv3\.", "conv1.6."),
            (r"^layer0\.bn3\.", "bn1."),
            *LEGACY_RENAMES,
        ),
        options=release_options,
        preprocessing=torchvision_preprocessing,
    ),
    Layout(
        name="timm_legacy",
        mark=re.compile(r"^layer0\.conv1\.weight$"),
        renames=((r"^layer0\.", ""), *LEGACY_RENAMES),
        options=timm_legacy_options,
        preprocessing=torchvision_preprocessing,
    ),
    Layout(
        name="mmpretrain",
        mark=re.compile(r"^backbone\.conv1\.weight$|\.se_layer\."),
        renames=(
            (r"^backbone\.", ""),
            (r"^head\.fc\.", "fc."),
            (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),
        ),
        options=torchvision_options,
        preprocessing=torchvision_preprocessing,
    ),
    Layout(
        name="moskomule",
        mark=re.compile(r"\.se\.fc\.0\.weight$"),
        renames=((r"\.se\.fc\.0\.", ".se.fc1."), (r"\.se\.fc\.2\.", ".se.fc2.")),
        options=moskomule_options,
        preprocessing=torchvision_preprocessing,
        reshape=linear_to_1x1,
    ),
    Layout(
        name="timm_vgg",
        mark=re.compile(r"^pre_logits\.fc1\.weight$"),
        renames=(
            (r"^pre_logits\.fc1\.", "classifier.0."),
            (r"^pre_logits\.fc2\.", "classifier.3."),
            (r"^head\.fc\.", "classifier.6."),
        ),
        preprocessing=torchvision_preprocessing,
        reshape=vgg_classifier,
    ),
    Layout(
        name="akamaster",
        mark=re.compile(r"^linear\.weight$"),
        without=re.compile(r"^(layer4|stage\d|pre)\.|\.(conv3|fc1)\."),
        renames=((r"^linear\.", "fc."), (r"\.shortcut\.", ".downsample.")),
        preprocessing=with_imagenets_statistics,
        rearrange=zeros_to_the_end,
    ),
    Layout(
        name="chenyaofo",
        mark=re.compile(r"^layer3\.0\.downsample\.0\.weight$"),
        without=re.compile(r"^layer4\.|\.conv3\.|\.se\.|^conv1\.0\."),
        preprocessing=chenyaofo_preprocessing,
    ),
    TORCHVISION,
)
FIRST_LAYER = re.compile(r"^((layer0\.)?conv1|conv1(\.0|\.conv)|features\.0|conv2d_1a\.conv|conv_stem|pre\.0)\.weight$")
"""The name of the convolution that sees the image, in these layouts, in this library's networks and in `STRANGERS`."""
STRANGERS = (
    (
        re.compile(r"^stage1\.0\.residual\.|^conv2_x\.0\.residual_function\."),
        "weiaicunzai's pytorch-cifar100, whose networks have 64 to 512 channels at 32 pixels",
    ),
    (
        re.compile(r"^layer4\.0\.(shortcut\.0\.weight|fc1\.weight)$"),
        "kuangliu's pytorch-cifar, whose networks have 64 to 512 channels at 32 pixels",
    ),
)
"""Marks of networks that this library does not have, and what they are."""


def is_first_layer(key: str) -> bool:
    """Whether a key without its prefix is that of a network's first convolution."""
    return FIRST_LAYER.search(key) is not None


def stranger(keys: Collection[str]) -> str | None:
    """Return which network the keys are of, if it is a known one that this library does not have."""
    return next((what for mark, what in STRANGERS if any(mark.search(key) for key in keys)), None)


def find_layout(name: str) -> Layout:
    """Return the layout of a name.

    Raises:
        SenetError: there is none.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise SenetError(f"layout is {name!r}; expected one of {', '.join(layout.name for layout in LAYOUTS)}")


def recognize(keys: Collection[str]) -> Layout:
    """Return the layout of a state dict with these keys; torchvision's, whose keys are this library's, if none fits."""
    return next((layout for layout in LAYOUTS if layout.fits(keys)), TORCHVISION)
