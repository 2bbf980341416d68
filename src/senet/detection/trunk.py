"""The trunk of a detector: the pyramid of maps of a classification network, and which of its stages are frozen."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from senet.errors import SenetError, first_line
from senet.models.base import Network

MAX_LEVELS = 4
PROBE = (128, 192)
"""Height and width, in pixels, of the image that shows the strides of another library's network."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One map of a network's pyramid.

    Args:
        index: its place in what `levels_of` returns.
        module: the name of the module that computes it.
        channels: of the map.
        stride: pixels of the image for one position.
    """

    index: int
    module: str
    channels: int
    stride: int


class Backbone(nn.Module):
    """A trunk and a feature pyramid on some of its levels.

    The names of its modules are those in torchvision's detectors, so that state dicts of these fit.

    Args:
        body: a classification network without its classifier.
        levels: those that the pyramid is built on, the finest first.
        channels: of each map of the pyramid.
        extra: makes coarser levels of the last one.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", arXiv:1612.03144, section 3.
    """

    def __init__(self, body: nn.Module, levels: Sequence[Level], channels: int, extra: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.levels = tuple(levels)
        self.out_channels = channels
        self.fpn = FeaturePyramidNetwork([level.channels for level in levels], channels, extra)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the pyramid of images (N, 3, H, W): the maps by name, the finest first."""
        maps = compute_levels(self.body, images, self.levels)
        pyramid = self.fpn(OrderedDict((str(i), x) for i, x in enumerate(maps)))
        return cast(OrderedDict[str, Tensor], pyramid)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pyramid's maps."""
        extra = ("pool",) if isinstance(self.fpn.extra_blocks, LastLevelMaxPool) else ("p6", "p7")
        return (*map(str, range(len(self.levels))), *extra)


class PyramidMaps(nn.Module):
    """What a `Backbone` computes, without names, as torch.fx and the runtimes take it.

    Args:
        backbone: trunk and pyramid.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid of images (N, 3, H, W), the finest map first."""
        return tuple(self.backbone(images).values())


class NamedMaps(nn.Module):
    """A `Backbone` for inference: another module computes its maps.

    Args:
        maps: images (N, 3, H, W) -> the maps of the pyramid, the finest first.
        names: of the maps.
        channels: of each map.
    """

    def __init__(self, maps: nn.Module, names: Sequence[str], channels: int) -> None:
        super().__init__()
        self.maps, self.names, self.out_channels = maps, tuple(names), channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Compute the pyramid of images (N, 3, H, W): the maps by name, the finest first."""
        return OrderedDict(zip(self.names, self.maps(images), strict=True))


def compute_levels(body: nn.Module, images: Tensor, levels: Sequence[Level]) -> list[Tensor]:
    """Return the maps of some levels of a network's pyramid, the finest first."""
    if hasattr(body, "forward_intermediates"):
        run = cast(Callable[..., list[Tensor]], body.forward_intermediates)
        return run(images, indices=[level.index for level in levels], intermediates_only=True, stop_early=True)
    wanted, found, x = [level.module for level in levels], {}, images
    for name in chain_of(body):
        x = body.get_submodule(name)(x)
        if name in wanted:
            found[name] = x
        if len(found) == len(wanted):
            break
    return [found[name] for name in wanted]


# ---- levels and stages -----------------------------------------------------------------------------------------------


def levels_of(body: nn.Module, name: str) -> list[Level]:
    """Return the levels of a network's pyramid, the finest first.

    Args:
        body: a network of this library, timm or torchvision.
        name: of the network, for messages.

    Raises:
        SenetError: it does not make one, as a network for images of one size, or a transformer, does not.
    """
    if isinstance(body, Network):
        return [
            Level(index=i, module=info["module"], channels=info["num_chs"], stride=info["reduction"])
            for i, info in enumerate(body.feature_info)
        ]
    try:
        found = probe(body)
    except Exception as error:  # whatever another library's network says of an image of another size
        raise SenetError(
            f"{name} makes no pyramid of feature maps from images of any size ({first_line(error).rstrip('.')}); "
            "take a convolutional network as trunk"
        ) from error
    levels = []
    for i, (module, shape) in enumerate(found):
        strides = {round(side / max(1, own)) for side, own in zip(PROBE, shape[2:], strict=False)}
        if len(shape) != 4 or len(strides) != 1:
            raise SenetError(
                f"{name} makes no pyramid of feature maps: {module} returns {tuple(shape)} for an image of "
                f"{PROBE[0]}x{PROBE[1]} pixels; take a convolutional network as trunk"
            )
        levels.append(Level(index=i, module=module, channels=shape[1], stride=strides.pop()))
    return levels


@torch.no_grad()
def probe(body: nn.Module) -> list[tuple[str, torch.Size]]:
    """Run a network of timm or torchvision on one image; return its levels' modules and the shapes of their maps."""
    modes = {name: module.training for name, module in body.named_modules()}
    image = next(body.parameters()).new_zeros(1, 3, *PROBE)
    body.eval()
    try:
        if hasattr(body, "forward_intermediates"):
            infos = cast(Sequence[dict[str, Any]], body.feature_info)
            run = cast(Callable[..., list[Tensor]], body.forward_intermediates)
            maps = run(image, intermediates_only=True)
            return [(info["module"], x.shape) for info, x in zip(infos, maps, strict=True)]
        return last_of_each_side(body, image)
    finally:
        for name, module in body.named_modules():
            module.training = modes[name]


def last_of_each_side(body: nn.Module, image: Tensor) -> list[tuple[str, torch.Size]]:
    """Return the last modules of a chain before its maps become smaller, and the shapes of their outputs."""
    found: list[tuple[str, torch.Size]] = []
    for name in chain_of(body):
        image = body.get_submodule(name)(image)
        if found and found[-1][1][2:] == image.shape[2:]:
            found.pop()
        found.append((name, image.shape))
    return found


AFTER_THE_TRUNK = ("avgpool", "fc", "classifier", "head", "heads", "dropout", "flatten", "permute", "norm")
"""What torchvision's networks call the modules after their last feature map."""
CHAINS = ("features", "trunk_output", "layers", "blocks")
"""What they call sequences of stages."""


def chain_of(body: nn.Module) -> list[str]:
    """Return the names of the modules that one of torchvision's networks runs one after another for its last map."""
    names = []
    for name, module in body.named_children():
        if name in AFTER_THE_TRUNK:
            break
        inside = name in CHAINS and isinstance(module, nn.Sequential | nn.ModuleList)
        names += [f"{name}.{child}" for child, _ in module.named_children()] if inside else [name]
    return names


def pyramid_levels(levels: Sequence[Level], name: str, number: int = MAX_LEVELS) -> list[Level]:
    """Return the levels that a feature pyramid is built on: the last ones, each of half the stride of the next.

    These are the maps of strides 4, 8, 16 and 32 of most networks, and those of strides 2 and 4 of networks for images
    of 32 pixels, whose maps of stride 1 are left out: they have as many positions as the image has pixels.

    Args:
        levels: of the network.
        name: of the network, for messages.
        number: at most so many.

    Raises:
        SenetError: there are fewer than two.
    """
    last = {level.stride: level for level in levels}  # of several with one stride the last
    stride = max(last, default=0)
    chosen: list[Level] = []
    while stride in last and stride > 1 and len(chosen) < number:
        chosen.insert(0, last[stride])
        stride //= 2
    if len(chosen) < 2:
        strides = ", ".join(str(level.stride) for level in levels) or "none"
        raise SenetError(
            f"{name} has no pyramid of feature maps of different strides (its levels have {strides}); take a "
            "convolutional network as trunk"
        )
    return chosen


def frozen_modules(body: nn.Module, levels: Sequence[Level], frozen_stages: int, name: str) -> list[str]:
    """Return the names of the layers of the first stages of a network.

    Stage 1 is the stem; where the stem has no level of its own, the first level is the end of stage 2.

    Args:
        body: the network, whose modules are registered in the order in which they run.
        levels: all of its levels.
        frozen_stages: number of stages.
        name: of the network, for messages.

    Raises:
        SenetError: the network has fewer stages, or none that are modules.
    """
    if frozen_stages == 0:
        return []
    first = 1 if levels[0].stride == 2 else 2
    last = first + len(levels) - 1
    if frozen_stages > last:
        raise SenetError(f"frozen_stages is {frozen_stages}; {name} has {last} stages")
    end = levels[max(0, frozen_stages - first)].module
    layers = [layer for layer, module in body.named_modules() if is_layer(module)]
    inside = [i for i, layer in enumerate(layers) if layer == end or layer.startswith(f"{end}.")]
    if not inside:
        raise SenetError(
            f"frozen_stages is {frozen_stages}, but the stages of {name} cannot be told from its modules; pass 0"
        )
    return layers[: inside[0]] if frozen_stages < first else layers[: inside[-1] + 1]


def is_layer(module: nn.Module) -> bool:
    """Whether a module has parameters of its own, or no others inside."""
    return bool(module._parameters or module._buffers) or not any(True for _ in module.children())


def norm_layers(body: nn.Module) -> list[str]:
    """Return the names of the BatchNorm layers of a network."""
    return [name for name, module in body.named_modules() if isinstance(module, _BatchNorm)]


def freeze(body: nn.Module, layers: Sequence[str]) -> None:
    """Take the parameters of some layers out of training."""
    for name in layers:
        for parameter in body.get_submodule(name).parameters(recurse=False):
            parameter.requires_grad_(False)
