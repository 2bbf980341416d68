"""Where weights come from: the layouts of other libraries, recognised by their keys and turned into ours."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from senet.errors import SenetError
from senet.models.cards import Card
from senet.preprocessing import IMAGENET, Preprocessing

STANDARDISED = replace(IMAGENET, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What torchvision, timm, mmpretrain and the PyTorch ports of the release use."""
HALVES = replace(IMAGENET, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic")
"""What timm's weights of the Inception and MobileNet kind use."""

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The way a library names, shapes and uses the weights of a network.

    Args:
        name: what `load_weights` calls it.
        mark: a pattern that some key of every such file matches, and no file of the layouts after it.
        renames: patterns and replacements that turn its keys into ours, applied in order.
        options: how its networks differ in computation from ours with the same keys: options of the card's network.
        preprocessing: how its networks want their images.
        reshape: turns tensors into the shapes of ours, after renaming.
    """

    name: str
    mark: re.Pattern[str]
    renames: tuple[tuple[str, str], ...] = ()
    options: Callable[[Card], Mapping[str, Any]] = lambda card: {}
    preprocessing: Callable[[Card], Preprocessing] = lambda card: card.preprocessing
    reshape: Callable[[str, Tensor], Tensor] = lambda key, tensor: tensor

    def convert(self, state: Mapping[str, Tensor]) -> State:
        """Return the state with our keys and shapes."""
        converted = {}
        for key, tensor in state.items():
            for pattern, replacement in self.renames:
                key = re.sub(pattern, replacement, key)
            converted[key] = self.reshape(key, tensor)
        return converted


def of_torchvision(card: Card) -> Mapping[str, Any]:
    """Return the options that make our networks for ImageNet compute what torchvision's and timm's do."""
    if card.name.startswith("cifar_"):
        return {}
    theirs = {"stride_on": "3x3", "stem_pool": "pad", "relu_last": False, "activation": "relu6"}
    return {option: value for option, value in theirs.items() if option in card.options}


def of_release(card: Card) -> Mapping[str, Any]:
    """Return the options of the authors' networks: stride on the 3x3 in ResNeXt and SENet-154 only, ceil pooling."""
    if "stem_pool" not in card.options:
        return {}
    stride = {"stride_on": "3x3" if "resnext" in card.name or card.name == "senet154" else "1x1"}
    return {"stem_pool": "ceil"} | (stride if "stride_on" in card.options else {})


def of_timm_legacy(card: Card) -> Mapping[str, Any]:
    """Return the options of the release as timm has it, with a ReLU before SE in units of two convolutions."""
    return {**of_release(card), **({"relu_last": True} if "relu_last" in card.options else {})}


def of_moskomule(card: Card) -> Mapping[str, Any]:
    """Return the options of senet.pytorch: torchvision's for ImageNet, projection shortcuts on CIFAR."""
    return {"shortcut": "projection"} if "shortcut" in card.options else of_torchvision(card)


def standardised(card: Card) -> Preprocessing:
    """Return the usual mean and standard deviation of ImageNet, or the card's preprocessing on other data."""
    if card.name.startswith("cifar_"):
        return card.preprocessing
    if card.name.endswith("inception_resnet_v2"):
        return replace(HALVES, image_size=299, resize=333)
    if card.name.endswith("mobilenet_v1"):
        return HALVES
    return replace(STANDARDISED, image_size=card.preprocessing.image_size, resize=card.preprocessing.resize)


def linear_to_1x1(key: str, tensor: Tensor) -> Tensor:
    """Give the linear layers of SE the two further dimensions of a 1x1 convolution."""
    return tensor[:, :, None, None] if ".se.fc" in key and tensor.dim() == 2 else tensor


def vgg_classifier(key: str, tensor: Tensor) -> Tensor:
    """Flatten the convolutions by which timm computes the first layers of VGG's classifier."""
    return tensor.flatten(1) if key.startswith("classifier.") and tensor.dim() == 4 else tensor


LEGACY_RENAMES = ((r"^last_linear\.", "fc."), (r"\.se_module\.", ".se."))
"""Of Cadene's pretrained-models, which timm's legacy networks come from."""
SENET = Layout(name="senet", mark=re.compile("$^"))  # recognised by the description beside the weights, not by keys
CAFFE = Layout(name="caffe", mark=re.compile("$^"), options=of_release)  # recognised by the file's suffix
TORCHVISION = Layout(
    name="torchvision",
    mark=re.compile(r"^(conv1(\.0)?|features\.0|conv2d_1a\.conv|conv_stem)\.weight$"),
    options=of_torchvision,
    preprocessing=standardised,
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
        options=of_release,
        preprocessing=standardised,
    ),
    Layout(
        name="timm_legacy",
        mark=re.compile(r"^layer0\.conv1\.weight$"),
        renames=((r"^layer0\.", ""), *LEGACY_RENAMES),
        options=of_timm_legacy,
        preprocessing=standardised,
    ),
    Layout(
        name="mmpretrain",
        mark=re.compile(r"^backbone\.conv1\.weight$"),
        renames=(
            (r"^backbone\.", ""),
            (r"^head\.fc\.", "fc."),
            (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),
        ),
        options=of_torchvision,
        preprocessing=standardised,
    ),
    Layout(
        name="moskomule",
        mark=re.compile(r"\.se\.fc\.0\.weight$"),
        renames=((r"\.se\.fc\.0\.", ".se.fc1."), (r"\.se\.fc\.2\.", ".se.fc2.")),
        options=of_moskomule,
        preprocessing=standardised,
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
        preprocessing=standardised,
        reshape=vgg_classifier,
    ),
    TORCHVISION,
)


def find_layout(name: str) -> Layout:
    """Return the layout of a name.

    Raises:
        SenetError: there is none.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    raise SenetError(f"layout is {name!r}; expected one of {', '.join(layout.name for layout in LAYOUTS)}")


def recognise(keys: Collection[str]) -> Layout:
    """Return the layout of a state dict with these keys; torchvision's, whose keys are ours, if none is recognised."""
    return next((layout for layout in LAYOUTS if any(layout.mark.search(key) for key in keys)), TORCHVISION)
