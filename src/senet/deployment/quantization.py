"""int8 for OpenVINO: NNCF's post-training quantization with SE's gates in float, and weights alone in int8."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from senet.deployment.calibration import Array
from senet.deployment.layers import Layer, in_gates, left_in_float
from senet.deployment.steps import operations_of_openvino
from senet.errors import SenetError, first_line, needed_for
from senet.quiet import quiet

WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
"""OpenVINO's layers, whose second input are weights."""
Preset = Literal["performance", "mixed"]
"""Of NNCF: activations symmetric, or asymmetric where they have both signs."""


def layers_of(model: Any) -> list[Layer]:
    """Return the layers of an openvino.Model in float whose weights are constants, those of gates too, in order."""
    of_gates = in_gates(operations_of_openvino(model))
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() not in WEIGHTED:
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() == "Constant":
            name, weight = node.get_friendly_name(), constant.get_data()
            if node.get_type_name() == "GroupConvolution":  # (groups, C_out / groups, ...)
                weight = weight.reshape(-1, *weight.shape[2:])
            found.append(Layer(node=name, weight=weight, in_gate=name in of_gates))
    return found


def quantize(
    model: Any,
    inputs: Sequence[Array],
    *,
    keep_float: Collection[str] = (),
    float_gates: bool = True,
    preset: Preset = "mixed",
    thorough: bool = True,
) -> Any:
    """Return an openvino.Model that computes in 8-bit integers; the one given stays as it is.

    The ranges of activations are those from the least to the largest value; NNCF's default, the mean over images of
    each image's largest value, clips what is larger: the logits of cifar_se_resnet20 then change four times as much
    (benchmarks/quantization.py).

    Args:
        model: in float32.
        inputs: of the model, for finding ranges.
        keep_float: names of nodes, of `layers_of`, that stay in float.
        float_gates: whether SE's gates and their products stay in float.
        preset: see `Preset`.
        thorough: correct biases layer by layer, which runs the network once for each; False estimates them.

    Raises:
        SenetError: NNCF refuses the model.
        MissingExtraError: nncf is not installed.
    """
    with needed_for("int8 for OpenVINO"):
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    names = left_in_float(operations_of_openvino(model), keep_float, float_gates)
    with quiet():
        try:
            return nncf.quantize(
                model.clone(),
                nncf.Dataset(inputs),
                subset_size=len(inputs),
                preset=nncf.QuantizationPreset(preset),
                ignored_scope=nncf.IgnoredScope(names=sorted(names), validate=False),
                fast_bias_correction=not thorough,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
                ),
            )
        except (nncf.ValidationError, nncf.InternalError, RuntimeError, ValueError) as error:
            raise SenetError(f"NNCF cannot quantize the network: {first_line(error)}") from error


def quantize_weights(model: Any) -> Any:
    """Return an openvino.Model whose weights are stored in 8-bit integers, and computed with in float.

    Raises:
        MissingExtraError: nncf is not installed.
    """
    with needed_for("weights in int8 for OpenVINO"):
        import nncf
    with quiet():
        return nncf.compress_weights(model.clone(), mode=nncf.CompressWeightsMode.INT8_SYM)
