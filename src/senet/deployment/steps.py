"""What is computed from what in a network: read alike from a run in PyTorch, an ONNX file and an OpenVINO file.

The steps of a network are the values that depend on the images. Constants are none, nor what is computed from constants
alone, such as weights that are stored in fewer bits (read through Cast, DequantizeLinear, Convert or FakeQuantize), nor
what is computed from the sizes of an image alone.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from senet.surgery.dataflow import Dataflow

INPUT, CONSTANT = "input", "constant"
SIZES = frozenset(["shape", "shapeof", "size"])
"""What is computed from the sizes of an image only."""
LIKE = frozenset(["expand_as", "view_as", "reshape_as", "type_as"])
"""Functions of PyTorch that take nothing but the size or the type of their second tensor."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation of a graph, which may compute several values.

    Args:
        operation: what is computed, in small letters; `INPUT` for the inputs of the graph, `CONSTANT` for constants.
        sources: keys of the values that it reads, constants among them.
        results: keys of the values that it computes.
        node: its name in the file; empty in PyTorch.
    """

    operation: str
    sources: Sequence[Hashable]
    results: Sequence[Hashable]
    node: str = ""


@dataclass(frozen=True, eq=False)
class Step:
    """A value of a graph.

    Args:
        operation: see `Operation`.
        inputs: the positions of the values that it is computed from.
        key: how its graph calls it.
        node: see `Operation`.
    """

    operation: str
    inputs: tuple[int, ...]
    key: Any
    node: str = ""


def steps_from(operations: Sequence[Operation]) -> list[Step]:
    """Return the values of a graph that depend on the images, each after those that it is computed from.

    Args:
        operations: of the graph, each after those whose values it reads.
    """
    steps: list[Step] = []
    places: dict[Hashable, int] = {}
    for each in operations:
        inputs = tuple(places[key] for key in each.sources if key in places)
        if each.operation == INPUT or (inputs and each.operation not in SIZES):
            for key in each.results:
                places[key] = len(steps)
                steps.append(Step(each.operation, inputs, key, each.node))
    return steps


def place_of(steps: Sequence[Step], key: Hashable) -> int:
    """Return the position of a value."""
    return next(i for i, step in enumerate(steps) if step.key == key)


def from_sizes(operations: Sequence[Operation]) -> set[Hashable]:
    """Return the keys of the values that depend on the sizes of the images, and not on the images themselves."""
    of_images = {step.key for step in steps_from(operations)}
    found: set[Hashable] = set()
    for each in operations:
        if each.operation in SIZES or any(key in found for key in each.sources):
            found.update(key for key in each.results if key not in of_images)
    return found


def operations_of_run(flow: Dataflow) -> list[Operation]:
    """Return the operations of a run in PyTorch; the keys are its values."""
    return [
        Operation(
            operation=value.operation.lower(),
            sources=value.inputs[:1] if value.operation in LIKE else value.inputs,
            results=(value,),
        )
        for value in flow.values
    ]


def operations_of_onnx(model: Any) -> list[Operation]:
    """Return the operations of an onnx.ModelProto; the keys are names of values, the nodes those of `node_names`."""
    constants = {each.name for each in model.graph.initializer}  # old files list them among the inputs too
    inputs = [each.name for each in model.graph.input if each.name not in constants]
    found = [Operation(operation=INPUT, sources=(), results=inputs)]
    for node, name in zip(model.graph.node, node_names(model), strict=True):
        results = [key for key in node.output if key]  # an output that is left out has an empty name
        found.append(Operation(operation=node.op_type.lower(), sources=node.input, results=results, node=name))
    return found


def node_names(model: Any) -> list[str]:
    """Return a name of its own for each node of an onnx.ModelProto.

    ONNX asks for none, and some exporters give none, or the same to several nodes: these are called after their first
    output, which is unique.

    Source: https://onnx.ai/onnx/repo-docs/IR.html, section "Nodes"
    """
    taken = Counter(node.name for node in model.graph.node)
    found = []
    for node in model.graph.node:
        name = node.name
        if not name or taken[name] > 1:
            name = next(filter(None, node.output), node.op_type)
            while name in taken:
                name += "_"
            taken[name] += 1
        found.append(name)
    return found


def operations_of_openvino(model: Any) -> list[Operation]:
    """Return the operations of an openvino.Model; the keys are those of `key_of`."""
    found = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name().lower()
        if kind != "result":  # repeats what it reads
            found.append(
                Operation(
                    operation=INPUT if kind == "parameter" else kind,
                    sources=[key_of(given.get_source_output()) for given in node.inputs()],
                    results=[key_of(output) for output in node.outputs()],
                    node=node.get_friendly_name(),
                )
            )
    return found


def key_of(output: Any) -> tuple[str, int]:
    """Return the name of the node and the number of an output of an OpenVINO graph."""
    return output.get_node().get_friendly_name(), output.get_index()
