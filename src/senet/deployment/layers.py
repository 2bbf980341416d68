"""The layers of an exported graph: called as in the network, whatever the format calls them."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from senet.deployment.calibration import Array
from senet.deployment.flow import LAYERS, gates_in
from senet.deployment.steps import CONSTANT, INPUT, Operation, from_sizes, steps_from

TOLERANCE = 1e-4
"""Largest difference of two directions of weights, each of length 1, that are taken for the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A convolution or a product with a constant matrix.

    Args:
        node: its name in the file.
        weight: (C_out, ...).
        in_gate: whether it is part of a gate.
    """

    node: str
    weight: Array
    in_gate: bool


def named_layers(layers: Sequence[Layer], weights: Mapping[str, Array]) -> dict[str, str]:
    """Return for each layer's node the name of the layer in the network, by the weights themselves.

    A BatchNorm that an exporter folds scales the weights of each output channel: only their directions are compared.

    Args:
        layers: of the file.
        weights: parameters and buffers of the network by name, of which those of layers are called "LAYER.weight".

    Returns:
        Name in the network by node; a layer that is not found there keeps the name of its node.
    """
    unused = {name: directions(weight) for name, weight in weights.items() if weight.ndim >= 2}
    found = {}
    for layer in layers:
        own = directions(layer.weight)
        alike = (name for name, other in unused.items() if same(own, other))
        name = next(alike, None)
        found[layer.node] = layer.node if name is None else name.removesuffix(".weight")
        if name is not None:
            del unused[name]
    return found


def directions(weight: Array) -> Array:
    """Return weights (C_out, ...) as one row of length 1 for each output channel, in float32."""
    rows = weight.astype(np.float32).reshape(len(weight), -1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Array = rows / np.where(lengths == 0, 1, lengths)
    return found


def same(own: Array, other: Array) -> bool:
    """Return whether two layers have the same directions; those of channels with a negative scale are opposite."""
    if own.shape != other.shape:
        return False
    along = (own * other).sum(1, keepdims=True)
    return bool(np.abs(own - np.sign(along) * other).max() < TOLERANCE)


def in_gates(operations: Sequence[Operation]) -> set[str]:
    """Return the names of the nodes of all gates, without the products that they are factors of."""
    steps = steps_from(operations)
    return {steps[i].node for gate in gates_in(steps) for i in gate.operations}


def left_in_float(
    operations: Sequence[Operation], keep_float: Collection[str], float_gates: bool, float_products: bool = True
) -> set[str]:
    """Return the names of the nodes that int8 leaves in float.

    Args:
        operations: of the graph.
        keep_float: nodes that are asked for.
        float_gates: whether SE's gates are among them.
        float_products: with them their products with the feature maps: quantizing these rounds the gate itself once.
    """
    found = {*keep_float, *before_layers(operations)}
    if float_gates:
        steps = steps_from(operations)
        found |= in_gates(operations)
        found |= {steps[gate.product].node for gate in gates_in(steps)} if float_products else set()
    return found


def before_layers(operations: Sequence[Operation]) -> set[str]:
    """Return the names of the nodes that come before every layer with weights: preprocessing, which stays in float.

    The product with a matrix that is computed from the size of a picture, which scales it, is no layer with weights.
    """
    sizes = from_sizes(operations)
    after: set[Hashable] = set()
    found = set()
    for each in operations:
        is_layer = each.operation in LAYERS and not any(key in sizes for key in each.sources)
        if is_layer or any(key in after for key in each.sources):
            after.update(each.results)
        elif each.operation not in (INPUT, CONSTANT):
            found.add(each.node)
    return found
