"""int8 in OpenVINO and ONNX Runtime: what is computed in 8 bits, what stays in float, and how little changes."""

import numpy as np
import pytest
import torch

import senet
from senet.data.preprocessing import preprocessing_of
from senet.deployment.calibration import calibration_images
from senet.deployment.flow import gates_in
from senet.deployment.layers import named_layers
from senet.deployment.steps import operations_of_onnx, operations_of_openvino, steps_from
from senet.errors import MissingExtraError
from senet.optimization.rewriting import rewrite

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")

from senet.deployment import quantization, static_quantization  # noqa: E402

NODES = {"layer1.0.conv1", "layer3.2.conv2"}


def pictures(number):
    """Soft pictures of some colors, on which the packaged network does not saturate."""
    generator = torch.Generator().manual_seed(0)
    soft = torch.nn.functional.interpolate(torch.rand(number, 3, 6, 6, generator=generator), 32, mode="bicubic")
    return soft.clamp(0, 1).mul(255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def packaged():
    return senet.create_model("cifar_se_resnet20", weights="cifar10").eval()


@pytest.fixture(scope="module")
def program(packaged):
    network = rewrite(packaged)
    dims = ({0: torch.export.Dim.DYNAMIC},)
    return network, torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=dims)


@pytest.fixture(scope="module")
def proto(program):
    return torch.onnx.export(program[1], dynamo=True, verbose=False, input_names=["images"]).model_proto


@pytest.fixture(scope="module")
def images(packaged):
    return calibration_images(pictures(32), preprocessing_of(packaged), number=32)


def run_onnx(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def error(after, before):
    return np.linalg.norm(after - before) / np.linalg.norm(before)


def expected(packaged, images):
    batch = np.concatenate(images.inputs())
    with torch.no_grad():
        return batch, packaged(torch.from_numpy(batch)).numpy()


def in_eight_bits(model):
    """Names of the nodes of an ONNX model whose first input comes from 8 bits."""
    rounded = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {node.name for node in model.graph.node if node.input and node.input[0] in rounded}


def test_onnx_computes_in_int8_but_for_the_gates(packaged, proto, images):
    int8 = static_quantization.quantize(proto, images.inputs())
    onnx.checker.check_model(int8, full_check=True)
    layers = static_quantization.layers_of(proto)
    assert sum(layer.in_gate for layer in layers) == 18
    assert {layer.node for layer in layers if not layer.in_gate} <= in_eight_bits(int8)
    assert not {layer.node for layer in layers if layer.in_gate} & in_eight_bits(int8)
    batch, before = expected(packaged, images)
    assert 1e-4 < error(run_onnx(int8, batch), before) < 0.1
    assert len(int8.SerializeToString()) < 0.5 * len(proto.SerializeToString())


def test_onnx_keeps_named_layers_in_float(program, proto, images):
    layers = static_quantization.layers_of(proto)
    names = named_layers(layers, {name: value.numpy() for name, value in program[0].state_dict().items()})
    kept = {node for node, name in names.items() if name in NODES}
    assert len(kept) == 2
    int8 = static_quantization.quantize(proto, images.inputs(), keep_float=kept)
    assert not kept & in_eight_bits(int8)
    assert len(in_eight_bits(int8)) > 10


def test_onnx_gates_in_int8_on_request(proto, images):
    int8 = static_quantization.quantize(proto, images.inputs(), float_gates=False)
    assert {layer.node for layer in static_quantization.layers_of(proto)} <= in_eight_bits(int8)
    assert len(gates_in(steps_from(operations_of_onnx(int8)))) == 9


@pytest.mark.parametrize(
    ("convert", "share", "bound"), [("float16_weights", 0.6, 2e-3), ("quantize_weights", 0.4, 0.1)]
)
def test_onnx_weights_alone(packaged, proto, images, convert, share, bound):
    small = getattr(static_quantization, convert)(proto)
    onnx.checker.check_model(small, full_check=True)
    batch, before = expected(packaged, images)
    assert 1e-6 < error(run_onnx(small, batch), before) < bound
    assert len(small.SerializeToString()) < share * len(proto.SerializeToString())


def test_weights_that_float16_cannot_hold_stay(proto):
    large = onnx.ModelProto()
    large.CopyFrom(proto)
    weight = next(each for each in large.graph.initializer if each.name == "layer1.0.conv1.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e5
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    types = {each.name: each.data_type for each in static_quantization.float16_weights(large).graph.initializer}
    assert types["layer1.0.conv1.weight"] == onnx.TensorProto.FLOAT
    assert types["layer1.0.conv2.weight_float16"] == onnx.TensorProto.FLOAT16


def test_openvino_layers_have_the_names_of_the_network(program):
    network, exported = program
    layers = quantization.layers_of(openvino.convert_model(exported))
    names = named_layers(layers, {name: value.numpy() for name, value in network.state_dict().items()})
    weighted = [
        name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert sorted(names.values()) == sorted(weighted)
    assert {names[layer.node] for layer in layers if layer.in_gate} == {name for name in weighted if ".se." in name}


@pytest.mark.slow
def test_openvino_computes_in_int8_but_for_the_gates(packaged, program, images):
    pytest.importorskip("nncf", reason="nncf is not installed")
    model = openvino.convert_model(program[1])
    layers = quantization.layers_of(model)
    kept = layers[1].node
    int8 = quantization.quantize(model, images.inputs(), keep_float=[kept])
    rounded = {
        node.get_friendly_name()
        for node in int8.get_ops()
        if node.get_type_name() in ("Convolution", "MatMul")
        and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    }
    assert rounded == {layer.node for layer in layers if not layer.in_gate and layer.node != kept}
    assert len(gates_in(steps_from(operations_of_openvino(int8)))) == 9
    batch, before = expected(packaged, images)
    after = openvino.compile_model(int8, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0]
    assert 1e-4 < error(after, before) < 0.1


@pytest.mark.slow
def test_openvino_weights_alone(packaged, program, images, tmp_path):
    pytest.importorskip("nncf", reason="nncf is not installed")
    model = openvino.convert_model(program[1])
    small = quantization.quantize_weights(model)
    batch, before = expected(packaged, images)
    after = openvino.compile_model(small, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(batch)[0]
    assert 1e-4 < error(after, before) < 0.1
    for name, each in (("small", small), ("float", model)):
        openvino.save_model(each, tmp_path / f"{name}.xml", compress_to_fp16=False)
    assert (tmp_path / "small.bin").stat().st_size < 0.4 * (tmp_path / "float.bin").stat().st_size


@pytest.mark.slow
def test_nncf_is_missing(program, images, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nncf", None)
    with pytest.raises(
        MissingExtraError, match=r"needs nncf, which is not installed; run: pip install 'senet\[int8\]'"
    ):
        quantization.quantize(openvino.convert_model(program[1]), images.inputs())


def test_products_and_sums_in_eight_bits_leave_the_gates_in_float(packaged, proto, images):
    made = static_quantization.quantize(proto, images.inputs(), float_products=False)
    steps, rounded = steps_from(operations_of_onnx(proto)), in_eight_bits(made)
    products = {steps[gate.product].node for gate in gates_in(steps)}
    assert len(products) == 9
    assert products <= rounded
    assert not {layer.node for layer in static_quantization.layers_of(proto) if layer.in_gate} & rounded
    batch, before = expected(packaged, images)
    assert error(run_onnx(made, batch), before) < 0.1
