"""What is exported: a network, rewritten or as it is, with its preprocessing inside if that is asked for."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from senet.data.preprocessing import Preprocessing, preprocessing_of
from senet.deployment.config import Axis, ExportConfig
from senet.deployment.pixels import FromPixels
from senet.errors import SenetError, counted, first_line
from senet.evaluation.functions import class_names_of
from senet.nn.fused import set_fused
from senet.optimization.inference import InferenceModel
from senet.optimization.rewriting import rewrite
from senet.surgery.probe import first_convolution

logger = logging.getLogger(__name__)

INPUT, OUTPUT = "images", "logits"
"""The names of input and output in every format that has names."""
AXES: Mapping[Axis, int] = {"batch": 0, "height": 2, "width": 3}
"""Of images (N, C, H, W)."""
PIXEL_AXES: Mapping[Axis, int] = {"batch": 0, "height": 1, "width": 2}
"""Of pictures (N, H, W, 3)."""
ODD = 7
"""Pixels by which the sides of an example picture differ from each other: equal ones would be taken for one number."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
"""What holds a network as its `module`."""
STATED = ("preprocessing", "class_names")
"""What is said of a network by attributes, its own or those of what wraps it."""


@dataclass(frozen=True, kw_only=True)
class ExportGraph:
    """A network ready for export.

    Args:
        module: on the CPU, in float32, in evaluation mode; one input.
        original: the network that is exported, as it was given.
        network: the part of it that takes normalized images (N, C, H, W), whatever is before it in `module`.
        example: an input of `module`; its dynamic axes are longer than 1.
        dynamic: the axes whose length is free, by position.
        preprocessing: of the images that `network` takes.
        outputs: the names of the outputs.
    """

    module: nn.Module
    original: nn.Module
    network: nn.Module
    example: Tensor
    dynamic: Mapping[int, Axis]
    preprocessing: Preprocessing
    outputs: tuple[str, ...] = (OUTPUT,)

    @property
    def shape(self) -> tuple[int | str, ...]:
        """The shape of the input, with the names of its dynamic axes."""
        return tuple(self.dynamic.get(axis, size) for axis, size in enumerate(self.example.shape))

    def num_outputs(self) -> int:
        """Return the number of logits of an image."""
        with torch.no_grad():
            return int(self.module(self.example).shape[1])

    def program(self) -> torch.export.ExportedProgram:
        """Return the program that torch.export records.

        Raises:
            SenetError: the network cannot be recorded, or not with these axes dynamic.
        """
        dims = dict.fromkeys(self.dynamic, torch.export.Dim.DYNAMIC)
        try:
            with torch.no_grad():
                return torch.export.export(self.module, (self.example,), dynamic_shapes=(dims,))
        except Exception as error:  # torch.export has many, some of them internal
            free = f" with dynamic {', '.join(self.dynamic.values())}" if dims else ""
            raise SenetError(
                f"the network cannot be exported{free}, for torch.export cannot record it: {first_line(error)}"
            ) from error


def build_graph(model: nn.Module, config: ExportConfig) -> ExportGraph:
    """Return what is exported of a network, which stays as it is.

    Args:
        model: a network that classifies, on any device and of any floating-point type, not wrapped (`bare_network`).
        config: of the export.

    Raises:
        SenetError: it has no preprocessing, cannot be rewritten, does not take pictures in color or what its
            preprocessing makes, or has class names that are not as many as its logits.
    """
    preprocessing = sized(preprocessing_of(model), config)
    network = plain_copy(model, rewritten=config.rewrite)
    channels = preprocessing.in_channels
    if config.takes_pixels and channels not in ((1, 3) if config.to == "web" else (3,)):
        taker = "a page takes RGB and gray" if config.to == "web" else "preprocess=True takes RGB"
        remedy = "to onnx" if config.to == "web" else "without"
        raise SenetError(
            f"{taker} pictures, but the network takes {counted(channels, 'channel')}; export it {remedy}, and "
            "normalize its images as its preprocessing says"
        )
    height, width = config.image_size or (preprocessing.image_size,) * 2
    batch = 2 if "batch" in config.free_axes else config.images_at_once
    if not config.takes_pixels:
        example, axes, module = torch.zeros(batch, channels, height, width), AXES, network
    else:
        if config.resize:
            height, width = preprocessing.resize + ODD, preprocessing.resize + 2 * ODD
        example, axes = torch.zeros(batch, height, width, channels, dtype=torch.uint8), PIXEL_AXES
        module = nn.Sequential(FromPixels(preprocessing, resize=config.resize), network).eval()
    graph = ExportGraph(
        module=module,
        original=model,
        network=network,
        example=example,
        dynamic={axes[axis]: axis for axis in axes if axis in config.free_axes},
        preprocessing=preprocessing,
    )
    check_fits(graph)
    return graph


def check_fits(graph: ExportGraph) -> None:
    """Raise a SenetError unless a network computes a logit for each class from what its preprocessing makes."""
    name, names = type(graph.original).__name__, class_names_of(graph.original)
    try:
        with torch.no_grad():
            found = graph.module(graph.example)
    except Exception as error:  # whatever somebody's network may raise
        given, (_, taken) = graph.preprocessing.in_channels, first_convolution(graph.network)
        if given != taken:
            raise SenetError(
                f"{name} takes images of {counted(taken, 'channel')}, but its preprocessing has {given}; set "
                f"model.preprocessing to a senet.Preprocessing with {taken} in mean and std"
            ) from error
        raise SenetError(
            f"{name} cannot be exported for it does not run on an input of shape {tuple(graph.example.shape)}: "
            f"{first_line(error)}; give another image_size, or set model.preprocessing"
        ) from error
    if not isinstance(found, Tensor) or found.dim() != 2:
        kind = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise SenetError(f"{name} returns {kind}; networks that return logits (N, classes) can be exported")
    if names and len(names) != found.shape[1]:
        raise SenetError(
            f"model.class_names has {counted(len(names), 'name')}, but {name} computes "
            f"{counted(found.shape[1], 'logit')}; give a name for each, in their order, or None"
        )


def sized(preprocessing: Preprocessing, config: ExportConfig) -> Preprocessing:
    """Return the preprocessing for images of the size that is asked for, scaled in the same proportion."""
    if config.image_size is None or config.image_size[0] != config.image_size[1]:
        return preprocessing
    size = config.image_size[0]
    return replace(preprocessing, image_size=size, resize=preprocessing.resize_for(size))


def bare_network(model: nn.Module) -> nn.Module:
    """Return a network without what wraps or compiles it, in float32; itself if it is that.

    Preprocessing and class names of a wrapper count where the network has none.

    Raises:
        SenetError: it is on the meta device, where networks have no weights.
    """
    network, stated = model, dict[str, Any]()
    while (inner := inside(network)) is not None:
        stated |= {name: vars(network)[name] for name in STATED if name in vars(network)}
        network = inner
    stated = {name: value for name, value in stated.items() if getattr(network, name, None) is None}
    if stated or network._compiled_call_impl is not None:
        network = copy.copy(network)  # of the same weights, and not compiled
        vars(network).update(stated)
    tensors = [*network.parameters(), *network.buffers()]
    if any(each.is_meta for each in tensors):
        raise SenetError(f"{type(network).__name__} is on the meta device, where it has no weights; load them first")
    others = {each.dtype for each in tensors if each.is_floating_point()} - {torch.float32}
    if others and not isinstance(network, InferenceModel):
        kinds = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in others))
        logger.info("the network is in %s; its copy in float32 is exported", kinds)
        network = copy.deepcopy(network).float()
    return network


def inside(model: nn.Module) -> nn.Module | None:
    """Return the network that another module wraps or compiles; None if it is no such wrapper."""
    inner = model.module if isinstance(model, WRAPPERS) else vars(model).get("_modules", {}).get("_orig_mod")
    return inner if isinstance(inner, nn.Module) else None


def plain_copy(model: Any, *, rewritten: bool) -> nn.Module:
    """Return a copy of a network on the CPU, in float32 and evaluation mode, in which every layer runs by itself.

    Raises:
        SenetError: it cannot be rewritten.
    """
    if isinstance(model, InferenceModel):
        model, rewritten = model.network, False  # it is rewritten already
    network: nn.Module = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    network = network.to(memory_format=torch.contiguous_format)
    if rewritten:
        return rewrite(network)
    set_fused(network, False)
    return network
