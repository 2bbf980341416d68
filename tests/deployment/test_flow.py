"""The gates of SE in the graphs of networks, found by structure, whatever the network and the exporter made of them."""

import pytest
import torch
from torch import nn

import senet
from senet.deployment.flow import gates_in
from senet.deployment.graphs import OriginalGraph
from senet.deployment.layers import before_layers, in_gates, left_in_float
from senet.deployment.steps import (
    Operation,
    operations_of_onnx,
    operations_of_openvino,
    place_of,
    steps_from,
)
from senet.optimization.rewriting import rewrite


def operations(*rows):
    return [
        Operation(operation=kind, sources=inputs.split(), results=[name], node=f"{name}_node")
        for name, kind, inputs in rows
    ]


def gates_of(*rows):
    """The names of the values of each gate, of itself and of its product."""
    steps = steps_from(operations(*rows))
    name = lambda place: steps[place].key  # noqa: E731
    return [([name(i) for i in gate.operations], name(gate.place), name(gate.product)) for gate in gates_in(steps)]


INPUT = (("x", "input", ""), ("w", "constant", ""), ("v", "conv", "x w"))
SE = (
    *INPUT,
    ("squeeze", "reducemean", "v"),
    ("fc1", "conv", "squeeze w"),
    ("relu", "relu", "fc1"),
    ("fc2", "conv", "relu w"),
    ("sigmoid", "sigmoid", "fc2"),
    ("y", "mul", "v sigmoid"),
)


def test_a_gate_reaches_from_the_mean_to_the_nonlinearity():
    assert gates_of(*SE) == [(["squeeze", "fc1", "relu", "fc2", "sigmoid"], "sigmoid", "y")]
    of_gate = {"squeeze_node", "fc1_node", "relu_node", "fc2_node", "sigmoid_node"}
    assert in_gates(operations(*SE)) == of_gate
    assert left_in_float(operations(*SE), ["v_node"], True) == {*of_gate, "y_node", "v_node"}
    assert left_in_float(operations(*SE), ["v_node"], True, float_products=False) == {*of_gate, "v_node"}
    assert left_in_float(operations(*SE), ["v_node"], False) == {"v_node"}


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((("y", "mul", "v v"),), id="square"),
        pytest.param((("a", "sigmoid", "v"), ("y", "mul", "v a")), id="SiLU"),
        pytest.param((("m", "reducemean", "v"), ("s", "sigmoid", "m"), ("y", "mul", "v s")), id="no weights"),
        pytest.param(
            (
                *(("m", "reducemean", "v"), ("c", "sub", "v m"), ("q", "mul", "c c"), ("d", "reducemean", "q")),
                *(("r", "reciprocal", "d"), ("y", "mul", "c r")),
            ),
            id="normalization",
        ),
        pytest.param((("m", "reducemean", "v"), ("f", "gemm", "m"), ("y", "mul", "f f")), id="after the last mean"),
        pytest.param(
            (("m", "reducemean", "v"), ("f", "gemm", "m"), ("s", "sigmoid", "f"), ("y", "mul", "f s")),
            id="SiLU after the last mean",
        ),
        pytest.param((("s", "conv", "v"), ("y", "mul", "v s")), id="spatial gate"),
        pytest.param(
            (
                *(("m", "reducemean", "v"), ("a0", "gemm", "m")),
                *((f"a{i + 1}", "relu", f"a{i}") for i in range(64)),
                ("y", "mul", "v a64"),
            ),
            id="a network of its own",
        ),
    ],
)
def test_other_products_are_no_gates(rows):
    assert gates_of(*INPUT, *rows) == []


def test_gates_are_found_behind_pooling_of_the_trunk():
    """A trunk may be pooled by means, as DenseNet's is between its blocks: its values are feature maps nevertheless."""
    rows = (("v", "averagepool", "u"), ("m", "reducemean", "v"), ("s", "conv", "m"), ("y", "mul", "v s"))
    head = (("p", "reducemean", "y"), ("f", "gemm", "p"), ("a", "sigmoid", "f"), ("z", "mul", "f a"))
    assert gates_of(("x", "input", ""), ("u", "conv", "x"), *rows, *head) == [(["m", "s"], "s", "y")]


@pytest.mark.parametrize("stored", ["cast", "dequantizelinear", "convert", "fakequantize"])
def test_weights_stored_in_fewer_bits_are_constants(stored):
    """Weights in float16 or int8 become float32 again in operations of their own, which depend on nothing."""
    rows = (*SE[:2], ("k", stored, "w w"), *((name, kind, inputs.replace("w", "k")) for name, kind, inputs in SE[2:]))
    assert gates_of(*rows) == gates_of(*SE)


def test_preprocessing_comes_before_the_layers():
    rows = (("x", "input", ""), ("float", "cast", "x"), ("scaled", "mul", "float"), ("v", "conv", "scaled"))
    assert before_layers(operations(*rows, ("y", "relu", "v"))) == {"float_node", "scaled_node"}


def test_scaling_by_a_matrix_is_preprocessing():
    rows = (
        ("x", "input", ""),
        ("shape", "shape", "x"),
        ("matrix", "range", "shape"),
        ("scaled", "matmul", "matrix x"),
        ("v", "conv", "scaled"),
        ("y", "matmul", "v matrix"),
    )
    assert before_layers(operations(*rows)) == {"shape_node", "matrix_node", "scaled_node"}


# ---- the runtimes' files ------------------------------------------------------------------------------------------


def onnx_node(kind, inputs, output, name=""):
    from onnx import helper

    return helper.make_node(kind, inputs.split(), [output], name=name)


def onnx_se(names=("",) * 5):
    """SE in ONNX, with nodes of these names."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weight = lambda name, *shape: numpy_helper.from_array(np.full(shape, 0.1, np.float32), name)  # noqa: E731
    described = (
        *(("Conv", "x w0", "v"), ("GlobalAveragePool", "v", "m"), ("Conv", "m w1", "f"), ("Sigmoid", "f", "s")),
        ("Mul", "v s", "y"),
    )
    nodes = [onnx_node(*row, name=name) for row, name in zip(described, names, strict=True)]
    value = lambda name, side: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, side, side])  # noqa: E731
    weights = [weight("w0", 8, 8, 3, 3), weight("w1", 8, 8, 1, 1)]
    graph = helper.make_graph(nodes, "se", [value("x", 8)], [value("y", 6)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (("", "", "", "", ""), ["v", "m", "f", "s", "y"]),
        (("node",) * 5, ["v", "m", "f", "s", "y"]),
        (("a", "b", "c", "d", "e"), ["a", "b", "c", "d", "e"]),
        (("m", "", "c", "d", "e"), ["m", "m_", "c", "d", "e"]),
    ],
)
def test_nodes_without_names_are_told_apart(names, called):
    model = onnx_se(names)
    found = [each.node for each in operations_of_onnx(model)[1:]]
    assert found == called
    assert in_gates(operations_of_onnx(model)) == set(called[1:4])
    from senet.deployment.static_quantization import layers_of

    assert [(layer.node, layer.in_gate) for layer in layers_of(model)] == [(called[0], False), (called[2], True)]


def test_int8_of_nodes_without_names():
    """The first layer computes in 8 bits and the gate in float."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    import numpy as np

    from senet.deployment.static_quantization import quantize

    images = [np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float32)]
    int8 = quantize(onnx_se(), images)
    rounded = {output for node in int8.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    layers = [node for node in int8.graph.node if node.op_type == "Conv"]
    assert [node.input[0] in rounded for node in layers] == [True, False]


def test_outputs_that_are_left_out_are_no_values():
    """Their empty name is also that of the inputs that are left out."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    from onnx import helper

    nodes = [
        helper.make_node("Dropout", ["x"], ["d", ""]),
        helper.make_node("Clip", ["w", "", "w"], ["c"]),
        helper.make_node("Mul", ["d", "c"], ["y"]),
    ]
    value = lambda name: helper.make_tensor_value_info(name, 1, [1])  # noqa: E731
    graph = helper.make_graph(
        nodes, "g", [value("x"), value("w")], [value("y")], [helper.make_tensor("w", 1, [1], [0])]
    )
    steps = steps_from(operations_of_onnx(helper.make_model(graph)))
    assert [(step.key, step.inputs) for step in steps] == [("x", ()), ("d", (0,)), ("y", (1,))]
    assert place_of(steps, "y") == 2


def onnx_program(model, size):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    program = torch.export.export(model, (torch.zeros(1, 3, size, size),))
    proto = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(proto)
    return proto


def onnx_graph(model, size):
    return steps_from(operations_of_onnx(onnx_program(model, size)))


def openvino_model(model, size):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    return openvino.convert_model(torch.export.export(model, (torch.zeros(1, 3, size, size),)))


def openvino_graph(model, size):
    return steps_from(operations_of_openvino(openvino_model(model, size)))


def original_graph(model, size):
    return OriginalGraph(model, torch.randn(1, 3, size, size)).steps


GRAPHS = [original_graph, onnx_graph, openvino_graph]


class ECA(nn.Module):
    """Gates from a convolution over channels, written as its authors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = nn.functional.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
        y = self.conv(y).transpose(-1, -2).unsqueeze(-1).sigmoid()
        return x * y.expand_as(x)


class Linear(nn.Module):
    """SE as in much code, with weights that are computed from parameters."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(channels, channels))
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        y = self.fc(x.mean((2, 3))) * self.scale.exp()
        return x * y.sigmoid().view(len(x), -1, 1, 1).expand_as(x)


class Small(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), *layers)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return nn.functional.silu(self.head(self.trunk(x).mean((2, 3))))


@pytest.mark.parametrize("graph", GRAPHS)
def test_blocks_of_others_are_found(graph):
    model = Small(ECA(), nn.Conv2d(8, 8, 3), Linear(8), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3), Linear(8)).eval()
    assert len(gates_in(graph(model, 24))) == 3


def test_gates_of_weights_in_fewer_bits():
    from senet.deployment.static_quantization import STORED, float16_weights, quantize_weights

    model = Small(nn.Conv2d(8, 32, 3), senet.SEBlock(32, reduction=2), nn.Conv2d(32, 8, 1)).eval()
    assert model.trunk[3].fc1.weight.numel() >= STORED
    proto = onnx_program(model, 16)
    expected = in_gates(operations_of_onnx(proto))
    for small, kind in ((float16_weights(proto), "Cast"), (quantize_weights(proto), "DequantizeLinear")):
        assert sum(node.op_type == kind for node in small.graph.node) >= 3
        assert in_gates(operations_of_onnx(small)) == expected
        assert len(gates_in(steps_from(operations_of_onnx(small)))) == 1


def test_gates_of_compressed_openvino_files(tmp_path):
    model = openvino_model(Small(nn.Conv2d(8, 32, 3), senet.SEBlock(32), nn.Conv2d(32, 8, 1)).eval(), 16)
    import openvino

    openvino.save_model(model, tmp_path / "a.xml", compress_to_fp16=True)
    small = openvino.Core().read_model(tmp_path / "a.xml")
    assert "Convert" in {node.get_type_name() for node in small.get_ops()}
    assert in_gates(operations_of_openvino(small)) == in_gates(operations_of_openvino(model)) != set()


def biasless(model):
    for block in model.modules():
        if isinstance(block, senet.SEBlock):
            for layer in (block.fc1, block.fc2):
                nn.init.zeros_(layer.bias)
    return model


def inserted():
    plain = senet.create_model("cifar_resnet20")
    senet.insert_se(plain)
    return plain


NETWORKS = {
    "plain SE blocks": (lambda: senet.create_model("cifar_se_resnet20"), 9),
    "gate biases of zero": (lambda: biasless(senet.create_model("cifar_se_resnet20")), 9),
    "rewritten, basic": (lambda: rewrite(senet.create_model("cifar_se_resnet20")), 9),
    "no SE": (lambda: rewrite(senet.create_model("cifar_resnet20")), 0),
    "inserted": (lambda: rewrite(inserted()), 9),
}


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_gates_of_networks_are_found(graph, name):
    build, number = NETWORKS[name]
    assert len(gates_in(graph(build().eval(), 32))) == number


@pytest.mark.slow
@pytest.mark.parametrize("graph", [onnx_graph, openvino_graph])
def test_early_gates_are_found(graph):
    """Of a bottleneck the mean is that of the input of the convolution whose output is scaled."""
    model = senet.create_model("se_resnet50").eval()
    gates = gates_in(graph(rewrite(model), 64))
    assert len(gates) == 16
    assert all(len(gate.operations) >= 5 for gate in gates)


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("seresnet18", 8),
        ("mobilenetv3_small_050", 9),  # SiLU within the gate, hard sigmoid, hard swish after the last mean
        ("efficientnet_b0", 16),
        ("ecaresnet26t", 8),
        ("densenet121", 0),
    ],
)
def test_gates_of_timm_are_found(graph, name, number):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert len(gates_in(graph(timm.create_model(name).eval(), 64))) == number


@pytest.mark.slow
@pytest.mark.parametrize("graph", GRAPHS)
def test_gates_inserted_into_densenet(graph):
    """Its trunk is pooled by means between the blocks."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("densenet121").eval()
    senet.insert_se(model)
    number = sum(isinstance(module, senet.SEBlock) for module in model.modules())
    assert number >= 4
    assert len(gates_in(graph(model, 64))) == number
