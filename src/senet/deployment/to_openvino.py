"""OpenVINO: an .xml with the graph and a .bin with the weights, computed on the CPU."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.deployment.calibration import CalibrationImages
from senet.deployment.config import ExportConfig
from senet.deployment.damage import reason, unreadable
from senet.deployment.graph import INPUT, OUTPUT, ExportGraph
from senet.deployment.metadata import KEY, as_text, from_text
from senet.deployment.quantization import layers_of, quantize, quantize_weights
from senet.deployment.sensitivity import Sensitivity, inputs_for, layer_costs
from senet.errors import MissingFileError, SenetError, counted, first_line, needed_for
from senet.optimization.runners import compile_openvino, converted_to_openvino, openvino_core

logger = logging.getLogger(__name__)


def write(
    graph: ExportGraph, path: Path, config: ExportConfig, metadata: Any, calibration: CalibrationImages | None
) -> Sensitivity | None:
    """Write an .xml and a .bin file, see `senet.deployment.targets.Format`."""
    model, costs = to_model(graph), None
    if config.precision == "int8_weights":
        model = quantize_weights(model)
    elif calibration is not None:
        costs, kept = layer_costs(graph, layers_of(model), calibration, config.keep_float)
        logger.info("quantizing, with ranges from %s", counted(len(calibration), "image"))
        model = quantize(model, inputs_for(graph, calibration), keep_float=kept)
    save(model, path, metadata, fp16=config.precision == "fp16")
    return costs


def to_model(graph: ExportGraph) -> Any:
    """Return a network as an openvino.Model.

    Raises:
        SenetError: OpenVINO lacks one of its operators.
    """
    import openvino

    program = graph.program()
    try:
        model = converted_to_openvino(program)
    except Exception as error:  # of a class in a compiled module
        raise SenetError(f"the network cannot be exported to OpenVINO: {cause(error)}") from error
    model.inputs[0].get_tensor().set_names({INPUT})
    model.outputs[0].get_tensor().set_names({OUTPUT})
    shape = [size if isinstance(size, int) else -1 for size in graph.shape]
    model.reshape(openvino.PartialShape(shape))
    return model


def cause(error: Exception) -> str:
    """Return what OpenVINO says of an operator that it lacks, which is not in the first line; else that line."""
    lacking = re.search(r"No conversion rule found for operations: ([^\n]+)", str(error))
    return f"it lacks {lacking[1]}" if lacking else first_line(error)


def save(model: Any, path: Path, metadata: Any, *, fp16: bool = False) -> None:
    """Write an openvino.Model with our metadata; with `fp16` its weights in half precision.

    Raises:
        SenetError: the disk is full.
    """
    import openvino

    model.set_rt_info(as_text(metadata), [KEY])
    try:
        openvino.save_model(model, path, compress_to_fp16=fp16)
    except RuntimeError as error:  # "basic_ios::clear: iostream error" is all that it says of a full disk
        raise SenetError(f"{path} cannot be written ({reason(error)}); make room, or name another output") from error


def open_file(path: Path) -> tuple[Any, Any]:
    """Open an .xml file on the CPU, see `senet.deployment.targets.Format`."""
    with needed_for(f"{path}"):
        import openvino  # noqa: F401
    weights = path.with_suffix(".bin")
    if not weights.exists():
        raise MissingFileError(f"{path} has no weights beside it: {weights} is missing; keep both in one folder")
    check_weights(path, weights)
    try:
        model = openvino_core().read_model(path)
        compiled = compile_openvino(model)
        stated = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    except (RuntimeError, UnicodeDecodeError) as error:
        raise unreadable(path, "OpenVINO", error) from error
    metadata = {} if stated is None else from_text(stated, path)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        outputs = compiled(images.contiguous().numpy())
        return tuple(torch.from_numpy(outputs[i].copy()) for i in range(len(outputs)))

    return run, metadata


def check_weights(path: Path, weights: Path) -> None:
    """Raise a SenetError for a .bin file that is shorter than the graph in an .xml file says.

    Source: https://docs.openvino.ai/2024/documentation/openvino-ir-format.html, the attributes of "data".
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    parts = re.findall(r'\boffset="(\d{1,19})" size="(\d{1,19})"', text)
    needed = max((int(start) + int(size) for start, size in parts), default=0)
    found = weights.stat().st_size
    if found < needed:
        raise SenetError(f"{weights} has {found:,} bytes, but {path} needs {needed:,}; it is cut, so copy both again")
