"""How much each layer costs in int8: the network with that layer alone in 8 bits, beside the network in float."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from senet.deployment.calibration import Array, CalibrationImages, normalized
from senet.deployment.continued import Continued, nothing_in_place
from senet.deployment.graph import ExportGraph
from senet.deployment.layers import Layer, named_layers
from senet.errors import SenetError, counted
from senet.nn.modes import eval_mode
from senet.terminal import tracked

logger = logging.getLogger(__name__)

PIXELS = 1_600_000
"""Of all images together that the table is measured on: 32 of 224 pixels, or all 300 of 32 pixels."""
LEAST = 16
"""Images that it is measured on at least: the error of the logits varies little between images."""
AT_ONCE, PIXELS_AT_ONCE = 16, 200_704
"""Images of a batch at most, and their pixels: all values of SE-ResNet-50 are kept, 130 MB for an image of 224."""
LEVELS = 255
"""Steps of 8 bits."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer in int8 costs.

    Args:
        name: of the layer, as in the network.
        error: root mean square of the change of the logits, relative to that of the logits.
        changed: images whose predicted class changes, in %.
        accuracy: change of the top-1 accuracy in points, on the calibration images; None without labels.
    """

    name: str
    error: float
    changed: float
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What the layers of a network cost in int8.

    Args:
        layers: the costliest first; those of SE's gates are none of them, for they stay in float.
        images: that it was measured on, of the calibration images.
        kept_float: names of the layers that stay in float.
    """

    layers: tuple[LayerCost, ...]
    images: int
    kept_float: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values, for JSON."""
        return asdict(self)

    def worst(self, number: int) -> tuple[str, ...]:
        """Return the names of the layers that cost the most.

        Raises:
            SenetError: there are not more than that, so that nothing would be left to compute in int8.
        """
        check_kept(number, len(self.layers))
        return tuple(cost.name for cost in self.layers[:number])


def check_kept(number: int, layers: int) -> None:
    """Raise a SenetError for so many layers in float that none is left to compute in int8."""
    if number >= max(1, layers):
        raise SenetError(
            f"keep_float is {number}, but the network has {counted(layers, 'layer')} outside of gates; "
            "keep fewer in float, or export in float"
        )


def measure(network: nn.Module, images: Tensor, names: Sequence[str], labels: Tensor | None = None) -> Sensitivity:
    """Return what each layer costs, with the rounding that both OpenVINO and ONNX Runtime do.

    Weights have a scale for each output channel; the input of the layer has one, from its least to its largest value.

    Args:
        network: on the CPU in float32; unchanged.
        images: (N, C, H, W), normalized.
        names: of its layers that are to compute in int8.
        labels: (N,) of the images; None if they are not known.
    """
    area = images.shape[2] * images.shape[3]
    images = images[: max(LEAST, PIXELS // area)]
    batches = images.split(max(1, min(AT_ONCE, PIXELS_AT_ONCE // area)))
    layers = {name: network.get_submodule(name) for name in names}
    before, after = list[Tensor](), {name: list[Tensor]() for name in layers}
    logger.info("measuring what each of %d layers costs in int8", len(layers))
    with eval_mode(network, layer_by_layer=True), nothing_in_place(network), torch.no_grad():
        with ranges_recorded(layers) as ranges:
            for batch in batches:
                network(batch)
        for batch in tracked(batches, "Measuring layers in int8", len(batches)):
            kept = Continued(network, batch)
            before.append(kept.logits)
            for name, layer in layers.items():
                with rounded(layer, *ranges[name]):
                    after[name].append(kept.logits_from(name))
    labels = None if labels is None else labels[: len(images)]
    costs = [cost_of(name, torch.cat(before), torch.cat(logits), labels) for name, logits in after.items()]
    costs.sort(key=lambda cost: cost.error, reverse=True)
    return Sensitivity(layers=tuple(costs), images=len(images))


def layer_costs(
    graph: ExportGraph, layers: Sequence[Layer], calibration: CalibrationImages, keep_float: int
) -> tuple[Sensitivity, list[str]]:
    """Return what the layers of a file cost in int8, and the nodes of those that stay in float.

    Args:
        graph: what is exported.
        layers: of the file.
        calibration: images that the costs are measured on.
        keep_float: number of layers that stay in float, the costliest.

    Raises:
        SenetError: no layer would be left to compute in int8.
    """
    names = named_layers(layers, {name: value.numpy() for name, value in graph.network.state_dict().items()})
    modules = {name for name, _ in graph.network.named_modules()}
    nodes = {names[layer.node]: layer.node for layer in layers if not layer.in_gate and names[layer.node] in modules}
    check_kept(keep_float, len(nodes))  # before the minutes that measuring takes
    images = normalized(calibration.pixels, calibration.preprocessing)
    costs = measure(graph.network, images, list(nodes), calibration.labels)
    kept = costs.worst(keep_float)
    return replace(costs, kept_float=kept), [nodes[name] for name in kept]


def inputs_for(graph: ExportGraph, calibration: CalibrationImages) -> list[Array]:
    """Return calibration images as inputs of what is exported."""
    batch_size = 1 if 0 in graph.dynamic else len(graph.example)
    return calibration.inputs(pixels=graph.example.dtype == torch.uint8, batch_size=batch_size)


@contextmanager
def ranges_recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[float, float]]]:
    """Yield what holds, after the network has run, the least and the largest value of each layer's input, and zero."""
    ranges = dict.fromkeys(layers, (0.0, 0.0))

    def record(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = ranges[name]
        ranges[name] = (min(low, float(inputs[0].min())), max(high, float(inputs[0].max())))

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(partial(record, name)).remove)
        yield ranges


@contextmanager
def rounded(layer: nn.Module, low: float, high: float) -> Iterator[None]:
    """Round the weights and the input of a layer to 8 bits for a while."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    scale = max(high - low, 1e-12) / LEVELS
    zero = round(-low / scale)

    def round_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, LEVELS), *inputs[1:])

    exact = weight.detach().clone()
    scales = (exact.flatten(1).abs().amax(1) / 127).clamp(min=1e-12)
    hook = layer.register_forward_pre_hook(round_input)
    try:
        weight.data = torch.fake_quantize_per_channel_affine(
            exact, scales, torch.zeros(len(scales), dtype=torch.int32), 0, -127, 127
        )
        yield
    finally:
        weight.data = exact
        hook.remove()


def cost_of(name: str, before: Tensor, after: Tensor, labels: Tensor | None) -> LayerCost:
    """Return what a layer costs, from the logits before and after, (N, classes)."""
    first, then = before.argmax(1), after.argmax(1)
    accuracy = None if labels is None else 100 * float(((then == labels).float() - (first == labels).float()).mean())
    return LayerCost(
        name=name,
        error=float((after - before).norm() / before.norm()),
        changed=100 * float((first != then).float().mean()),
        accuracy=accuracy,
    )
