"""The graphs of exported networks, and of the original: what is computed from what, and the inner values."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from senet.deployment.flow import Points, points_in
from senet.deployment.sessions import open_session
from senet.deployment.steps import (
    Step,
    key_of,
    operations_of_onnx,
    operations_of_openvino,
    operations_of_run,
    place_of,
    steps_from,
)
from senet.errors import SenetError, needed_for
from senet.nn.modes import eval_mode
from senet.optimization.runners import compile_openvino, openvino_core
from senet.surgery.dataflow import trace_dataflow

Array = npt.NDArray[Any]


class InnerGraph(ABC):
    """The graph of an exported network whose inner values can be read.

    Args:
        path: of the file.
    """

    points: Points
    steps: list[Step]

    @abstractmethod
    def values(self, images: Array, places: Sequence[int]) -> list[Array]:
        """Return the values at some positions of `steps`, for images as the file takes them."""


class OnnxGraph(InnerGraph):
    """The graph of an ONNX file; its values are outputs of a copy, which ONNX Runtime runs.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        with needed_for("reading the blocks of an ONNX file"):
            import onnx

        self.model = onnx.load(path)
        if any(node.op_type.startswith("QLinear") for node in self.model.graph.node):
            raise SenetError(
                f"{path.name} computes with integers (the format QOperator), so its inner values cannot be compared; "
                "quantize it to QDQ"
            )
        self.steps = steps_from(operations_of_onnx(self.model))
        self.points = points_in(self.steps, place_of(self.steps, self.model.graph.output[0].name))
        self.session: Any = None
        self.read: tuple[int, ...] = ()

    def values(self, images: Array, places: Sequence[int]) -> list[Array]:
        """See `InnerGraph.values`."""
        if self.session is None or self.read != tuple(places):
            self.session, self.read = self.opened(places), tuple(places)
        names = [self.steps[place].key for place in places]
        found: list[Array] = self.session.run(names, {self.session.get_inputs()[0].name: images})
        return found

    def opened(self, places: Sequence[int]) -> Any:
        """Return a session of a copy in which the values at some positions are outputs."""
        with needed_for("reading the blocks of an ONNX file"):
            import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        outputs = {each.name for each in copy.graph.output}
        for place in places:
            if self.steps[place].key not in outputs:
                copy.graph.output.append(onnx.ValueInfoProto(name=self.steps[place].key))
                outputs.add(self.steps[place].key)
        with needed_for("reading the blocks of an ONNX file"):
            return open_session(copy.SerializeToString())


class OpenVINOGraph(InnerGraph):
    """The graph of an OpenVINO file; its values are outputs of a copy.

    Args:
        path: of the .xml file.
    """

    def __init__(self, path: Path) -> None:
        with needed_for("reading the blocks of an OpenVINO file"):
            import openvino  # noqa: F401

        self.model = openvino_core().read_model(path)
        self.steps = steps_from(operations_of_openvino(self.model))
        result = self.model.get_results()[0].input(0).get_source_output()
        self.points = points_in(self.steps, place_of(self.steps, key_of(result)))
        self.compiled: Any = None
        self.read: tuple[int, ...] = ()

    def values(self, images: Array, places: Sequence[int]) -> list[Array]:
        """See `InnerGraph.values`."""
        if self.compiled is None or self.read != tuple(places):
            self.compiled, self.read = self.opened(places), tuple(places)
        found = self.compiled(images)
        first = len(found) - len(places)
        return [np.array(found[first + i]) for i in range(len(places))]

    def opened(self, places: Sequence[int]) -> Any:
        """Return a compiled copy in which the values at some positions are outputs."""
        copy = self.model.clone()
        nodes = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
        copy.add_outputs([nodes[name].output(i) for name, i in (self.steps[place].key for place in places)])
        return compile_openvino(copy)


READERS = {".onnx": OnnxGraph, ".xml": OpenVINOGraph}


def open_graph(path: Path) -> InnerGraph:
    """Open the graph of an exported network.

    Raises:
        SenetError: the inner values of such files cannot be read.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        known = " and ".join(READERS)
        raise SenetError(f"the inner values of {path.suffix or 'such'} files cannot be read, only of {known}")
    return reader(path)


class OriginalGraph:
    """One run of the original network on some images, every layer by itself.

    Args:
        model: the network.
        images: (N, C, H, W).
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        with eval_mode(model, layer_by_layer=True):
            flow = trace_dataflow(model, images)
        self.steps = steps_from(operations_of_run(flow))
        output = next(i for i, step in reversed(list(enumerate(self.steps))) if step.key.tensor is flow.outputs)
        self.points = points_in(self.steps, output)

    def values(self, places: Sequence[int]) -> list[Array]:
        """Return the values at some positions."""
        return [self.steps[place].key.tensor.float().numpy() for place in places]

    def scope(self, place: int) -> str:
        """Return the name of the innermost module that computed the value at a position."""
        return str(self.steps[place].key.scope)
