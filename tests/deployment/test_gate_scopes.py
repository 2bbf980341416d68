"""The gates of SE in exported graphs, found by structure, whatever the network and the exporter made of them."""

import pytest
import torch
from torch import nn

import senet
from senet.deployment.gate_scopes import Operation, gate_scopes, kept_in_float
from senet.deployment.layers import before_layers
from senet.optimization.rewriting import rewrite


def operations(*rows):
    return [Operation(name=name, kind=kind, inputs=tuple(inputs.split())) for name, kind, inputs in rows]


SE = (
    ("x", "input", ""),
    ("v", "weighted", "x"),
    ("squeeze", "mean", "v"),
    ("fc1", "weighted", "squeeze"),
    ("relu", "other", "fc1"),
    ("fc2", "weighted", "relu"),
    ("sigmoid", "other", "fc2"),
    ("y", "product", "v sigmoid"),
)


def test_a_gate_reaches_from_the_mean_to_the_nonlinearity():
    (scope,) = gate_scopes(operations(*SE))
    assert scope.operations == ("squeeze", "fc1", "relu", "fc2", "sigmoid")
    assert scope.product == "y"
    assert list(kept_in_float([scope])) == ["squeeze", "fc1", "relu", "fc2", "sigmoid", "y"]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param((("y", "product", "v v"),), id="square"),
        pytest.param((("a", "other", "v"), ("y", "product", "v a")), id="SiLU"),
        pytest.param((("m", "mean", "v"), ("s", "other", "m"), ("y", "product", "v s")), id="no weights"),
        pytest.param((("m", "mean", "v"), ("f", "weighted", "m"), ("y", "product", "f f")), id="after the last mean"),
        pytest.param(
            (("m", "mean", "v"), ("f", "weighted", "m"), ("s", "other", "f"), ("y", "product", "f s")),
            id="SiLU after the last mean",
        ),
        pytest.param((("s", "weighted", "v"), ("y", "product", "v s")), id="spatial gate"),
    ],
)
def test_other_products_are_no_gates(rows):
    assert gate_scopes(operations(*SE[:2], *rows)) == []


def onnx_graph(model, size):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from senet.deployment.static_quantization import operations_of

    program = torch.export.export(model, (torch.zeros(1, 3, size, size),))
    proto = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(proto)
    return operations_of(proto)


def openvino_graph(model, size):
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    from senet.deployment.quantization import operations_of

    return operations_of(openvino.convert_model(torch.export.export(model, (torch.zeros(1, 3, size, size),))))


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
@pytest.mark.parametrize("graph", [onnx_graph, openvino_graph])
@pytest.mark.parametrize("name", NETWORKS)
def test_gates_of_networks_are_found(graph, name):
    build, number = NETWORKS[name]
    assert len(gate_scopes(graph(build().eval(), 32))) == number


@pytest.mark.slow
@pytest.mark.parametrize("graph", [onnx_graph, openvino_graph])
def test_early_gates_are_found(graph):
    """Of a bottleneck the mean is that of the input of the convolution whose output is scaled."""
    model = senet.create_model("se_resnet50").eval()
    scopes = gate_scopes(graph(rewrite(model), 64))
    assert len(scopes) == 16
    assert all(len(scope.operations) >= 5 for scope in scopes)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [onnx_graph, openvino_graph])
def test_gates_of_timm_are_found(graph):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert len(gate_scopes(graph(timm.create_model("seresnet18").eval(), 64))) == 8
    # SiLU within the gate, hard sigmoid, hard swish after the last mean
    assert len(gate_scopes(graph(timm.create_model("mobilenetv3_small_050").eval(), 64))) == 9


def test_preprocessing_comes_before_the_layers():
    rows = (("x", "input", ""), ("float", "other", "x"), ("scaled", "product", "float"), ("v", "weighted", "scaled"))
    assert before_layers(operations(*rows, ("y", "other", "v"))) == ["float", "scaled"]
