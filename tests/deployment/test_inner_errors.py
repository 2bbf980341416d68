"""Where the error of an exported network arises, compared with hooks on the network that was exported."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import senet
from deployment.opened import opened
from kinds import ONE_OF_EACH_FAMILY, side_of
from senet import SenetError
from senet.cli.parity import show_parity
from senet.data.preprocessing import CIFAR
from senet.deployment.flow import Gate, in_line, points_in
from senet.deployment.inner_errors import inner_errors
from senet.deployment.parity import compare_exported
from senet.deployment.steps import Step
from senet.optimization.rewriting import rewrite

SUFFIXES = (".onnx", ".xml")


class Unit(nn.Module):
    """A residual unit with an SE block, or one whose activation is x * sigmoid(x)."""

    def __init__(self, se=True):
        super().__init__()
        self.narrow, self.bn = nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU() if se else nn.SiLU()
        self.expand = nn.Conv2d(4, 8, 1)
        self.se = senet.SEBlock(8, reduction=4) if se else nn.Identity()

    def forward(self, x):
        return (self.se(self.expand(self.act(self.bn(self.narrow(x))))) + x).relu()


class Units(nn.Module):
    """A stem, three units and a classifier."""

    def __init__(self):
        super().__init__()
        self.preprocessing, self.class_names = CIFAR, tuple("abcde")
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU())
        self.units = nn.Sequential(Unit(), Unit(se=False), Unit())
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.units(self.stem(x)).mean((2, 3)))


def written(model, path, *, batch=True):
    """Export a network by the runtimes' own functions."""
    example = torch.zeros(2, 3, 32, 32)
    shapes = ({0: torch.export.Dim("n")} if batch else {},)
    program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    if path.suffix == ".onnx":
        pytest.importorskip("onnxscript")
        torch.onnx.export(program, (), path, dynamo=True, optimize=False, verbose=False, external_data=False)
    else:
        openvino = pytest.importorskip("openvino")
        openvino.save_model(openvino.convert_model(program), path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    return Units().eval()


@pytest.fixture(scope="module")
def changed(original):
    """The same network with other weights from the second unit on, and another gate in the third."""
    model = copy.deepcopy(original)
    with torch.no_grad():
        model.units[1].narrow.weight.mul_(1.2)
        model.units[2].se.fc2.bias.add_(0.5)
    return model


@pytest.fixture(scope="module")
def files(changed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {suffix: written(rewrite(changed), folder / f"model{suffix}") for suffix in SUFFIXES}


IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs_of(model, images):
    """The outputs of the units, and the gates, seen by hooks."""
    seen = {}
    for i, unit in enumerate(model.units):
        unit.register_forward_hook(lambda _, __, out, i=i: seen.__setitem__(f"units.{i}", out))
        if i != 1:
            gate = unit.se.compute_gate
            unit.se.register_forward_hook(lambda _, args, __, i=i, gate=gate: seen.__setitem__(i, gate(args[0])))
    model(images)
    return seen


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_errors_are_those_that_hooks_see(suffix, original, changed, files):
    found = inner_errors(original, opened(files[suffix]), IMAGES)
    assert found.missing == ""
    assert found.num_images == 8
    own, other = (outputs_of(copy.deepcopy(model), IMAGES) for model in (original, changed))
    assert [each.name for each in found.blocks] == ["units.0", "units.1", "units.2"]
    assert [each.name for each in found.gates] == ["SE_2_1", "SE_2_2"]
    assert [each.full_name for each in (*found.blocks[:1], *found.gates)] == [
        *("units.0", "SE_2_1, units.0.se", "SE_2_2, units.2.se")
    ]
    for error, key in zip((*found.blocks, *found.gates), ("units.0", "units.1", "units.2", 0, 2), strict=True):
        a, b = (values[key].flatten(1).double() for values in (own, other))
        assert error.relative == pytest.approx(((a - b).norm() / a.norm()).item(), abs=1e-6)
        assert error.cosine == pytest.approx(torch.cosine_similarity(a, b).mean().item(), abs=1e-6)
        assert error.largest == pytest.approx((a - b).abs().max().item(), abs=1e-5)
    assert found.blocks[0].relative < 1e-6 < 0.01 < found.blocks[1].relative
    assert found.gates[0].relative < 1e-6 < 0.01 < found.gates[1].relative


def test_a_file_of_fixed_batch(original, tmp_path):
    path = written(rewrite(original), tmp_path / "fixed.onnx", batch=False)
    found = inner_errors(original, opened(path, batch=2), IMAGES[:5])
    assert found.num_images == 4
    assert max(each.relative for each in (*found.blocks, *found.gates)) < 1e-6
    assert inner_errors(original, opened(path, batch=2), IMAGES[:1]).num_images == 2


@pytest.mark.parametrize("dedicated", [False, True])
def test_quantized_by_onnx_runtime(dedicated, original, tmp_path, capsys):
    """Its quantizer leaves out ReLUs, and gives every reader of a value a quantization of its own if told so."""
    pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": IMAGES.numpy()}]

        def get_next(self):
            return self.left.pop() if self.left else None

    path = written(rewrite(original), tmp_path / "float.onnx")
    options = {"activation_type": QuantType.QUInt8, "extra_options": {"DedicatedQDQPair": dedicated}}
    quantize_static(path, tmp_path / "int8.onnx", Reader(), **options)
    report = compare_exported(original, opened(tmp_path / "int8.onnx"), [IMAGES], precision="int8", timed=False)
    assert report.inner.missing == ""
    assert [len(report.inner.blocks), len(report.inner.gates)] == [3, 2]
    assert [each for each in report.inner.blocks if not 1e-4 < each.relative < 0.1] == []
    assert 0 < report.inner.gates[0].largest < 0.05
    assert report.inner.gates[1].largest < 0.05
    assert report.to_dict()["inner"]["blocks"][2]["name"] == "units.2"
    show_parity(report)
    said = capsys.readouterr().out
    assert "units.2" in said
    assert "SE_2_2" in said
    if dedicated:
        return
    quantize_static(path, tmp_path / "operators.onnx", Reader(), quant_format=QuantFormat.QOperator)
    found = inner_errors(original, opened(tmp_path / "operators.onnx"), IMAGES)
    assert "operators.onnx computes with integers" in found.missing


def test_another_network_is_not_compared(original, tmp_path, files):
    other = Units().eval()
    other.units = other.units[:2]
    path = written(other, tmp_path / "other.onnx")
    found = inner_errors(original, opened(path), IMAGES)
    assert (
        found.missing
        == "the original has 3 blocks and the exported graph 2; the original has 2 gates and the exported graph 1"
    )
    assert found.blocks == found.gates == ()
    report = compare_exported(original, opened(files[".onnx"]), [IMAGES], timed=False)
    assert report.inner is None  # float32 is compared as a whole
    assert compare_exported(original, opened(files[".onnx"]), [IMAGES], timed=False, blocks=True).inner.num_images == 8
    with pytest.raises(SenetError, match="blocks=True needs an exported file"):
        compare_exported(original, original, [IMAGES], timed=False, blocks=True)
    unread = replace(opened(path), path=tmp_path / "model.pt2")
    assert inner_errors(original, unread, IMAGES).missing == (
        "the inner values of .pt2 files cannot be read, only of .onnx and .xml"
    )


def graph(*described):
    return [Step(operation, tuple(inputs), None) for operation, *inputs in described]


def test_ends_of_blocks_are_where_all_paths_meet():
    inception = graph(
        ("input",),
        ("conv", 0),  # 1: the stem
        ("conv", 1),
        ("conv", 1),
        ("conv", 3),
        ("conv", 3),
        ("concat", 4, 5),  # 6: inside the module: the first branch passes by
        ("concat", 2, 6),  # 7: everything meets
        ("relu", 7),
        ("quantizelinear", 8),
        ("quantizelinear", 8),
        ("dequantizelinear", 9),
        ("dequantizelinear", 10),
        ("conv", 11),
        ("add", 13, 12),  # 14
        ("reducemean", 14),
        ("gemm", 15),
        ("conv", 14),  # 17: needed by nothing
    )
    points = points_in(inception, 16)
    assert points.meetings == (7, 14)
    assert points.ends == (11, 14)
    assert points.gates == ()


def test_gates_depend_on_means_alone():
    network = graph(
        ("input",),
        ("conv", 0),
        ("reducemean", 1),
        ("conv", 2),
        ("sigmoid", 3),
        ("mul", 1, 4),  # 5: a gate before the residual sum
        ("add", 5, 0),
        ("sigmoid", 6),
        ("mul", 6, 7),  # 8: an activation
        ("conv", 8),
        ("mul", 9, 8),  # 10: two feature maps
        ("reducemean", 10),
        ("sigmoid", 11),
        ("mul", 11, 12),  # 13: two vectors
        ("gemm", 13),
    )
    points = points_in(network, 14)
    assert points.gates == (Gate(place=4, product=5, operations=(2, 3, 4)),)
    assert points.ends[0] == 6
    assert in_line(network, (5, 10, 13))
    assert not in_line(network, (10, 5))


def test_networks_without_blocks_are_compared_after_their_layers():
    network = graph(("input",), ("conv2d", 0), ("batch_norm", 1), ("relu", 2), ("max_pool2d", 3), ("linear", 4))
    assert points_in(network, 5).ends == (3, 5)
    exported = graph(
        ("parameter",), ("convolution", 0), ("add", 1), ("relu", 2), ("maxpool", 3), ("matmul", 4), ("add", 5)
    )
    assert points_in(exported, 6).ends == (3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_every_family(name, tmp_path):
    torch.manual_seed(0)
    model = senet.create_model(name).eval()
    side = 224 if "vgg" in name else side_of(name)  # ONNX has no adaptive pooling; at 224 pixels it does nothing
    images = torch.randn(2, 3, side, side)
    pytest.importorskip("openvino")
    program = torch.export.export(rewrite(model), (images,))
    import openvino

    openvino.save_model(openvino.convert_model(program), tmp_path / "a.xml", compress_to_fp16=False)
    torch.onnx.export(program, (), tmp_path / "a.onnx", dynamo=True, optimize=False, verbose=False)
    numbers = []
    for suffix in SUFFIXES:
        found = inner_errors(model, opened(tmp_path / f"a{suffix}", batch=2), images)
        assert found.missing == ""
        assert max(each.relative for each in (*found.blocks, *found.gates)) < 2e-5
        numbers.append((len(found.blocks), len(found.gates)))
    assert numbers[0] == numbers[1]
    assert numbers[0][0] >= 6
    assert (numbers[0][1] > 0) == ("se_" in name or name == "senet154")
