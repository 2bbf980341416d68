"""Where the gates of SE are in an exported graph, found by structure; int8 leaves them in float."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["input", "mean", "product", "weighted", "other"]
"""What an operation is to the search: a mean or maximum over positions, a product, or a layer with weights."""
MAX_OPERATIONS = 64
"""Largest number of operations of a gate; the search of a product's operand ends after as many."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a graph, of whichever format.

    Args:
        name: in the file.
        kind: see `Kind`.
        inputs: names of the operations whose outputs it reads; constants are left out.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GateScope:
    """The operations of one gate.

    Args:
        operations: names, from the mean to the non-linearity, in the order of the graph.
        product: name of the operation that scales the feature map.
    """

    operations: tuple[str, ...]
    product: str


def gate_scopes(operations: Sequence[Operation]) -> list[GateScope]:
    """Find the gates: what scales a feature map, and comes from means over positions alone by a layer with weights.

    NNCF knows a gate by a pattern of operations (mean, convolution, bias, ReLU, convolution, bias, sigmoid, product of
    the same map). It finds none where biases are zero, where the gate comes from the input of the convolution whose
    output it scales, or where the non-linearity is another one. The structure is the same in all of these.

    Args:
        operations: in an order in which each comes after those that it reads.
    """
    known = {operation.name: operation for operation in operations}
    order = {operation.name: place for place, operation in enumerate(operations)}
    found = []
    for operation in operations:
        if operation.kind != "product" or len(operation.inputs) != 2:
            continue
        pooled = [way_to_means(known, name) for name in operation.inputs]
        gates = [way for way in pooled if way is not None]
        if len(gates) != 1 or not any(known[name].kind == "weighted" for name in gates[0]):
            continue  # of two pooled operands neither is a feature map: SiLU after the last pooling, for example
        found.append(GateScope(operations=tuple(sorted(gates[0], key=order.__getitem__)), product=operation.name))
    return found


def way_to_means(known: dict[str, Operation], name: str) -> set[str] | None:
    """Return the operations from this one back to the means that it comes from; None if not from means alone."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        operation = known.get(waiting.pop())
        if operation is None or operation.kind == "input" or len(found) >= MAX_OPERATIONS:
            return None
        if operation.name in found:
            continue
        found.add(operation.name)
        if operation.kind == "mean":
            continue
        if not operation.inputs:
            return None
        waiting += operation.inputs
    return found


def kept_in_float(scopes: Sequence[GateScope]) -> Iterator[str]:
    """Yield the names of all operations of gates, with their products: quantizing these would round the gate itself."""
    for scope in scopes:
        yield from scope.operations
        yield scope.product
