"""The layers of an exported graph: called as in the network, whatever the format calls them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from senet.deployment.calibration import Array
from senet.deployment.gate_scopes import Operation, gate_scopes, kept_in_float

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
    """Return the names of the operations of all gates, without the products that they are factors of."""
    return {name for scope in gate_scopes(operations) for name in scope.operations}


def left_in_float(operations: Sequence[Operation], keep_float: Collection[str], float_gates: bool) -> set[str]:
    """Return the names of the operations that int8 leaves in float.

    Args:
        operations: of the graph.
        keep_float: those that are asked for.
        float_gates: whether SE's gates and their products are among them.
    """
    gates = kept_in_float(gate_scopes(operations)) if float_gates else ()
    return {*keep_float, *before_layers(operations), *gates}


def before_layers(operations: Sequence[Operation]) -> list[str]:
    """Return the operations that come before every layer with weights: preprocessing, which stays in float."""
    after: set[str] = set()
    found = []
    for operation in operations:
        if operation.kind == "weighted" or any(name in after for name in operation.inputs):
            after.add(operation.name)
        elif operation.kind != "input":
            found.append(operation.name)
    return found
