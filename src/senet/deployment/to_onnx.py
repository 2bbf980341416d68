"""ONNX: written by torch.onnx, checked by onnx, computed by ONNX Runtime."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.deployment.calibration import CalibrationImages
from senet.deployment.config import OPSETS, ExportConfig
from senet.deployment.damage import unreadable
from senet.deployment.graph import INPUT, ExportGraph
from senet.deployment.metadata import KEY, as_text, from_text
from senet.deployment.sensitivity import Sensitivity, inputs_for, layer_costs
from senet.deployment.sessions import open_session
from senet.deployment.static_quantization import float16_weights, layers_of, quantize, quantize_weights
from senet.errors import SenetError, counted, first_line, needed_for

logger = logging.getLogger(__name__)


def write(
    graph: ExportGraph, path: Path, config: ExportConfig, metadata: Any, calibration: CalibrationImages | None
) -> Sensitivity | None:
    """Write a .onnx file, see `senet.deployment.targets.Format`."""
    model, costs = to_proto(graph, config.opset or OPSETS[0]), None
    if config.precision == "fp16":
        model = float16_weights(model)
    elif config.precision == "int8_weights":
        model = quantize_weights(model)
    elif calibration is not None:
        costs, kept = layer_costs(graph, layers_of(model), calibration, config.keep_float)
        logger.info("quantizing, with ranges from %s", counted(len(calibration), "image"))
        model = quantize(model, inputs_for(graph, calibration), keep_float=kept)
    save(model, path, metadata)
    return costs


def to_proto(graph: ExportGraph, opset: int) -> Any:
    """Return a network as an onnx.ModelProto.

    Raises:
        SenetError: ONNX lacks one of its operators.
    """
    program = graph.program()
    try:
        with torch.no_grad():
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT],
                output_names=graph.outputs,
            )
    except Exception as error:  # torch.onnx raises a kind of its own for every stage
        raise SenetError(f"the network cannot be exported to ONNX: {cause(error)}") from error
    assert made is not None
    model = made.model_proto
    name_axes(model, graph)
    return model


def cause(error: BaseException) -> str:
    """Return what torch.onnx met at first: its own messages are pages of advice about how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lacking = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    return f"it lacks {lacking[1]}" if lacking else str(error).strip().partition("\n")[0] or type(error).__name__


def name_axes(model: Any, graph: ExportGraph) -> None:
    """Give the dynamic axes their names, where torch.onnx has symbols such as s77."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = {dims[axis].dim_param: name for axis, name in graph.dynamic.items()}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def save(model: Any, path: Path, metadata: Any) -> None:
    """Write an onnx.ModelProto with our metadata, and check what was written.

    Raises:
        SenetError: it is no valid model.
    """
    import onnx

    onnx.helper.set_model_props(model, {KEY: as_text(metadata)})
    try:
        onnx.save(model, path)
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise SenetError(f"the exported model is not valid ONNX: {first_line(error)}") from error


def open_file(path: Path) -> tuple[Any, Any]:
    """Open a .onnx file in ONNX Runtime, see `senet.deployment.targets.Format`."""
    with needed_for(f"{path}"):
        import onnxruntime  # noqa: F401
    try:
        session = open_session(path)
        props = session.get_modelmeta().custom_metadata_map
        name = session.get_inputs()[0].name
    except Exception as error:  # of classes in a compiled module; names that are no text
        raise unreadable(path, "ONNX Runtime", error) from error

    def run(images: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(found) for found in session.run(None, {name: images.contiguous().numpy()}))

    return run, from_text(props[KEY], path) if KEY in props else {}
