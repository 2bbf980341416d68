"""int8 for ONNX: ONNX Runtime's static quantization with SE's gates in float; weights alone in int8 or float16."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from senet.deployment.calibration import Array
from senet.deployment.layers import Layer, in_gates, left_in_float
from senet.deployment.steps import node_names, operations_of_onnx
from senet.errors import SenetError, first_line, needed_for
from senet.quiet import quiet

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""ONNX's layers, whose second input are weights."""
JOINING = ("Mul", "Add", "Relu")
"""What comes after the layer at the end of a block: the product with the gate, the sum with the shortcut, the ReLU."""
Activations = Literal["int8", "uint8"]
"""The type of activations. The products of uint8 and int8 overflow on x86 processors without VNNI, unless weights have
7 bits; those of two int8 do not (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html)."""
STORED = 256
"""Least number of values of a weight that is stored in fewer bits: smaller ones save nothing."""
LARGEST_FLOAT16 = 65504.0
QUANTIZED = 127
"""Largest weight in int8; -128 is not used, so that zero is in the middle."""


def layers_of(model: Any) -> list[Layer]:
    """Return the layers of an onnx.ModelProto in float whose weights are constants, those of gates too, in order."""
    with needed_for("the layers of an ONNX file"):
        from onnx import numpy_helper
    of_gates = in_gates(operations_of_onnx(model))
    constants = {each.name: each for each in model.graph.initializer}
    found = []
    for node, name in zip(model.graph.node, node_names(model), strict=True):
        if node.op_type in WEIGHTED and node.input[1] in constants:
            weight = numpy_helper.to_array(constants[node.input[1]])
            upright = node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)
            weight = weight if upright else weight.T
            found.append(Layer(node=name, weight=weight, in_gate=name in of_gates))
    return found


def quantize(
    model: Any,
    inputs: Sequence[Array],
    *,
    keep_float: Collection[str] = (),
    float_gates: bool = True,
    float_products: bool = True,
    activations: Activations = "uint8",
    seven_bits: bool = True,
    only_layers: bool = True,
    ranges: Path | None = None,
) -> Any:
    """Return an onnx.ModelProto that computes in 8-bit integers, QDQ; the one given stays as it is.

    Weights are symmetric, with a scale for each output channel; activations have one scale, from their least and
    largest values. uint8 activations with weights of 7 bits compute the same on every processor; int8 ones do too, but
    ONNX Runtime takes more than twice the time of float32 for them on x86 with VNNI (benchmarks/quantization.py).

    Args:
        model: in float32.
        inputs: of the model, for finding ranges.
        keep_float: names of nodes, of `layers_of`, that stay in float.
        float_gates: whether SE's gates stay in float.
        float_products: whether their products do, and sums. In 8 bits large batches are faster, and the gates rounded.
        activations: see `Activations`.
        seven_bits: weights of 7 bits.
        only_layers: quantize the layers with weights, but not sums and pooling.
        ranges: file that keeps the ranges, so that they are found only once; None for none.

    Raises:
        SenetError: ONNX Runtime refuses the model.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    with needed_for("int8 for ONNX"):
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    names = left_in_float(operations_of_onnx(model), keep_float, float_gates, float_products)
    types = WEIGHTED if float_products else (*WEIGHTED, *JOINING)
    kinds = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                prepared(model),
                path,
                Reader(model.graph.input[0].name, inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=seven_bits,
                activation_type=kinds[activations],
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(types) if only_layers else None,
                nodes_to_exclude=sorted(names),
                calibration_cache_path=ranges,
            )
        except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
            raise SenetError(f"ONNX Runtime cannot quantize the network: {first_line(error)}") from error
        found = onnx.load(path)
    del found.metadata_props[:]
    found.metadata_props.extend(model.metadata_props)
    return found


class Reader:
    """The inputs of a network, one by one, as ONNX Runtime asks for them.

    Args:
        name: of the input.
        inputs: of the network.
    """

    def __init__(self, name: str, inputs: Sequence[Array]) -> None:
        self.name = name
        self.inputs = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next input; None after the last one."""
        value = next(self.inputs, None)
        return None if value is None else {self.name: value}


def prepared(model: Any) -> Any:
    """Return a copy that ONNX Runtime takes for what its own preparation made: torch.onnx has done the same already.

    Its nodes have the names of `node_names`, by which ONNX Runtime is told what stays in float.
    """
    from onnx import helper

    copy = copy_of(model)
    for node, name in zip(copy.graph.node, node_names(copy), strict=True):
        node.name = name
    helper.set_model_props(copy, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return copy


def quantize_weights(model: Any) -> Any:
    """Return an onnx.ModelProto whose weights are stored in int8, one scale per output channel, and become float again.

    Source: DequantizeLinear of https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
    """
    from onnx import helper, numpy_helper

    found, nodes = copy_of(model), []
    for weight, axis in stored_weights(found):
        values = numpy_helper.to_array(weight)
        rest = tuple(i for i in range(values.ndim) if i != axis)
        scales = np.abs(values).max(rest) / QUANTIZED
        scales = np.where(scales == 0, 1, scales).astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        rounded = np.clip(np.round(values / scales.reshape(shape)), -QUANTIZED, QUANTIZED).astype(np.int8)
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(rounded, f"{name}_int8"))
        found.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
        nodes.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}_int8", f"{name}_scale"], [name], name=f"{name}_dequantized", axis=axis
            )
        )
    return with_first(found, nodes)


def float16_weights(model: Any) -> Any:
    """Return an onnx.ModelProto whose weights are stored in float16, and become float32 again when it is loaded.

    Weights that float16 cannot hold stay in float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    found, nodes = copy_of(model), []
    for weight in found.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < STORED or np.abs(values).max() > LARGEST_FLOAT16:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        nodes.append(helper.make_node("Cast", [f"{name}_float16"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    return with_first(found, nodes)


def copy_of(model: Any) -> Any:
    """Return a copy of an onnx.ModelProto."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def stored_weights(model: Any) -> list[tuple[Any, int]]:
    """Return the weights of layers that are worth storing in fewer bits, each with the axis of its output channels."""
    constants = {each.name: each for each in model.graph.initializer}
    axes: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in constants:
            upright = node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)
            axes[node.input[1]] = 0 if upright else len(constants[node.input[1]].dims) - 1
    return [(constants[name], axis) for name, axis in axes.items() if np.prod(constants[name].dims) >= STORED]


def with_first(model: Any, nodes: Sequence[Any]) -> Any:
    """Return a model with nodes before all others."""
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    return model
