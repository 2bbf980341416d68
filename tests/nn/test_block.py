"""The SE block against values worked out by hand and against NumPy in float64."""

import copy
import io
import math
import pickle
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx
from torchvision.models.feature_extraction import create_feature_extractor

from senet.errors import SenetError
from senet.nn.block import SEBlock, SEOptions

SQUEEZES = ("avg", "max", "none")
GATES = ("sigmoid", "tanh", "relu", "hard_sigmoid", "sigmoid_x2", "hard_sigmoid_x2")

# Largest allowed difference, relative and absolute; about four roundings of the type.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

NUMPY_GATES = {
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "tanh": np.tanh,
    "relu": lambda a: np.where(a > 0, a, 0),
    "hard_sigmoid": lambda a: np.clip(a / 6 + 0.5, 0, 1),
    "sigmoid_x2": lambda a: 2 / (1 + np.exp(-a)),
    "hard_sigmoid_x2": lambda a: np.clip(a / 3 + 1, 0, 2),
}
NUMPY_SQUEEZES = {
    "avg": lambda x: x.sum((2, 3), keepdims=True) / (x.shape[2] * x.shape[3]),
    "max": lambda x: x.reshape(*x.shape[:2], -1).max(-1)[:, :, None, None],
    "none": lambda x: x,
}


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def numpy_gate(block: SEBlock, x: torch.Tensor) -> np.ndarray:
    """The paper's equations 2 and 3 as matrix products in float64."""

    def layer(fc: nn.Conv2d, z: np.ndarray) -> np.ndarray:
        out = np.einsum("oc,nchw->nohw", to_numpy(fc.weight)[:, :, 0, 0], z)
        return out if fc.bias is None else out + to_numpy(fc.bias)[:, None, None]

    hidden = np.maximum(layer(block.fc1, NUMPY_SQUEEZES[block.squeeze](to_numpy(x))), 0)
    return NUMPY_GATES[block.gate_name](layer(block.fc2, hidden))


def assert_close(actual: torch.Tensor, expected: np.ndarray | torch.Tensor, tolerance: float) -> None:
    expected = torch.as_tensor(expected).double()
    torch.testing.assert_close(actual.detach().double(), expected, rtol=tolerance, atol=tolerance)


def assert_matches_numpy(block: SEBlock, x: torch.Tensor) -> None:
    gate = numpy_gate(block, x)
    assert block.compute_gate(x).shape == gate.shape
    assert_close(block.compute_gate(x), gate, TOLERANCES[x.dtype])
    y = block(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert_close(y, to_numpy(x) * gate, TOLERANCES[x.dtype])


def random_block(channels: int = 12, **options: object) -> SEBlock:
    """A block whose biases are not zero, so that forgetting one shows."""
    torch.manual_seed(0)
    block = SEBlock(channels, **{"reduction": 3, **options})
    for fc in (block.fc1, block.fc2):
        if fc.bias is not None:
            nn.init.normal_(fc.bias)
    return block


@pytest.mark.parametrize(
    ("squeeze", "gate", "expected"),
    [
        # avg: z = (1, 3); W1 z + b1 = 1 + 3 - 2 = 2; W2 2 + b2 = (0.5 * 2, -1 * 2 + 1) = (1, -1)
        ("avg", "sigmoid", (0.7310585786300049, 0.2689414213699951)),
        ("avg", "tanh", (0.7615941559557649, -0.7615941559557649)),
        ("avg", "relu", (1.0, 0.0)),
        ("avg", "hard_sigmoid", (4 / 6, 2 / 6)),
        # max: z = (2, 5); hidden 5; (2.5, -4)
        ("max", "sigmoid", (0.9241418199787566, 0.01798620996209156)),
        ("max", "relu", (2.5, 0.0)),
        ("max", "hard_sigmoid", (5.5 / 6, 0.0)),
    ],
)
def test_values_by_hand(squeeze, gate, expected):
    block = SEBlock(2, reduction=2, squeeze=squeeze, gate=gate).double()
    with torch.no_grad():
        block.fc1.weight.copy_(torch.tensor([1.0, 1.0]).view(1, 2, 1, 1))
        block.fc1.bias.fill_(-2)
        block.fc2.weight.copy_(torch.tensor([0.5, -1.0]).view(2, 1, 1, 1))
        block.fc2.bias.copy_(torch.tensor([0.0, 1.0]))
    x = torch.tensor([[[[0.0, 2.0]], [[5.0, 1.0]]]], dtype=torch.float64)
    assert_close(block.compute_gate(x), np.array(expected).reshape(1, 2, 1, 1), 1e-15)
    first, second = expected
    assert_close(block(x), np.array([[[[0, 2 * first]], [[5 * second, second]]]]), 1e-15)


def test_no_squeeze_by_hand():
    block = SEBlock(1, reduction=1, squeeze="none", gate="tanh", bias=False).double()
    with torch.no_grad():
        block.fc1.weight.fill_(2)
        block.fc2.weight.fill_(0.25)
    x = torch.tensor([[[[1.0, -3.0], [2.0, 0.0]]]], dtype=torch.float64)
    # relu(2 x) / 4 = (0.5, 0, 1, 0), each position by itself
    gate = [[[[math.tanh(0.5), 0.0], [math.tanh(1.0), 0.0]]]]
    assert_close(block.compute_gate(x), np.array(gate), 1e-15)
    assert_close(block(x), np.array([[[[math.tanh(0.5), 0.0], [2 * math.tanh(1.0), 0.0]]]]), 1e-15)


@pytest.mark.parametrize(("squeeze", "gate", "bias"), list(product(SQUEEZES, GATES, (True, False))))
def test_every_squeeze_gate_and_bias(squeeze, gate, bias):
    block = random_block(squeeze=squeeze, gate=gate, bias=bias).double()
    assert {name.split(".")[-1] for name, _ in block.named_parameters()} == ({"weight", "bias"} if bias else {"weight"})
    assert_matches_numpy(block, torch.randn(3, 12, 5, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("channels", "reduction", "hidden"),
    [
        (64, 16, 4),
        (320, 16, 20),
        (576, 16, 36),
        (608, 16, 38),
        (1056, 16, 66),
        (16, 16, 1),
        (8, 16, 1),
        (1, 16, 1),
        (30, 16, 1),
        (5, 2, 2),
        (7, 1, 7),
    ],
)
def test_hidden_width_is_exact(channels, reduction, hidden):
    block = SEBlock(channels, reduction)
    assert block.hidden_channels == hidden
    assert {name: tuple(p.shape) for name, p in block.named_parameters()} == {
        "fc1.weight": (hidden, channels, 1, 1),
        "fc1.bias": (hidden,),
        "fc2.weight": (channels, hidden, 1, 1),
        "fc2.bias": (channels,),
    }


@pytest.mark.parametrize(("squeeze", "spatial"), [("avg", (1, 1)), ("max", (1, 1)), ("none", (6, 5))])
def test_gate_shape(squeeze, spatial):
    assert random_block(squeeze=squeeze).compute_gate(torch.randn(2, 12, 6, 5)).shape == (2, 12, *spatial)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_dtypes(squeeze, dtype):
    assert_matches_numpy(random_block(squeeze=squeeze).to(dtype), torch.randn(2, 12, 7, 5).to(dtype))


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("shape", [(1, 12, 4, 4), (2, 12, 1, 1), (1, 12, 1, 1), (2, 12, 3, 11), (3, 12, 1, 6)])
def test_shapes(squeeze, shape):
    assert_matches_numpy(random_block(squeeze=squeeze), torch.randn(shape))


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_one_channel(squeeze):
    assert_matches_numpy(random_block(1, squeeze=squeeze), torch.randn(2, 1, 3, 4))


@pytest.mark.parametrize("squeeze", ["avg", "none"])
def test_empty_batch(squeeze):
    assert random_block(squeeze=squeeze)(torch.randn(0, 12, 3, 4)).shape == (0, 12, 3, 4)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_last_is_kept(squeeze, dtype):
    block = random_block(squeeze=squeeze).to(dtype)
    x = torch.randn(2, 12, 6, 5).to(dtype)
    y = block(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()
    assert block(x).is_contiguous()
    assert_close(y, block(x), TOLERANCES[dtype])


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_non_contiguous_input(squeeze):
    block = random_block(squeeze=squeeze)
    every_other = torch.randn(2, 24, 8, 10)[:, ::2, 1::2, ::3]
    transposed = torch.randn(2, 12, 4, 6).transpose(2, 3)
    for x in (every_other, transposed):
        assert not x.is_contiguous()
        assert_matches_numpy(block, x)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(("squeeze", "gate", "bias"), list(product(SQUEEZES, GATES, (True, False))))
def test_gradients(squeeze, gate, bias):
    block = random_block(4, reduction=2, squeeze=squeeze, gate=gate, bias=bias).double()
    names = [name for name, _ in block.named_parameters()]
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)

    def function(x, *parameters):
        return torch.func.functional_call(block, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *block.parameters()))


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_keeps_the_input_type(squeeze, dtype):
    block = random_block(squeeze=squeeze)
    x = torch.randn(2, 12, 6, 5).to(dtype)
    expected = to_numpy(x) * numpy_gate(block, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(x)
    assert y.dtype == dtype
    assert_close(y, expected, TOLERANCES[torch.bfloat16])


def test_autocast_trains():
    block = random_block()
    x = torch.randn(2, 12, 6, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = block(x).square().sum()
    gradients = torch.autograd.grad(loss, (x, *block.parameters()))
    expected = torch.autograd.grad(block(x).square().sum(), (x, *block.parameters()))
    for actual, reference in zip(gradients, expected, strict=True):
        assert actual.dtype == torch.float32
        scale = reference.abs().max()
        assert_close(actual / scale, reference / scale, TOLERANCES[torch.bfloat16])


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_compile_without_graph_breaks(squeeze):
    block = random_block(squeeze=squeeze)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 12, 6, 5, requires_grad=True)
    weights = torch.randn(2, 12, 6, 5)
    assert_close(compiled(x), block(x), TOLERANCES[torch.float32])
    actual = torch.autograd.grad((compiled(x) * weights).sum(), (x, *block.parameters()))
    expected = torch.autograd.grad((block(x) * weights).sum(), (x, *block.parameters()))
    for gradient, reference in zip(actual, expected, strict=True):
        assert_close(gradient, reference, 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compile_with_inductor():
    block = random_block()
    x = torch.randn(2, 12, 6, 5)
    with torch.no_grad():
        assert_close(torch.compile(block, fullgraph=True)(x), block(x), TOLERANCES[torch.float32])


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_export_with_dynamic_batch_and_size(squeeze):
    block = random_block(squeeze=squeeze)
    dynamic = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(block, (torch.randn(2, 12, 6, 5),), dynamic_shapes={"x": dynamic}).module()
    for shape in ((2, 12, 6, 5), (5, 12, 3, 17), (3, 12, 9, 2)):
        x = torch.randn(shape)
        assert_close(program(x), block(x), TOLERANCES[torch.float32])


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(("squeeze", "gate"), [("avg", "sigmoid"), ("max", "hard_sigmoid"), ("none", "tanh")])
def test_onnx_runtime(squeeze, gate):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    block = random_block(squeeze=squeeze, gate=gate).eval()
    dynamic = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.onnx.export(
        block, (torch.randn(2, 12, 6, 5),), dynamo=True, dynamic_shapes={"x": dynamic}, verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for shape in ((2, 12, 6, 5), (5, 12, 3, 17)):
        x = torch.randn(shape)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close(torch.from_numpy(y), to_numpy(x) * numpy_gate(block, x), TOLERANCES[torch.float32])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block))])
def test_copies_are_equal_and_independent(duplicate):
    block = random_block(squeeze="max", gate="tanh")
    twin = duplicate(block)
    x = torch.randn(2, 12, 4, 4)
    assert torch.equal(twin(x), block(x))
    nn.init.zeros_(twin.fc2.weight)
    assert torch.count_nonzero(block.fc2.weight) > 0


def test_initialization():
    torch.manual_seed(0)
    block = SEBlock(1024, reduction=4)
    assert block.fc1.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    assert block.fc2.weight.std().item() == pytest.approx(math.sqrt(1 / 256), rel=0.02)
    assert torch.count_nonzero(block.fc1.bias) == torch.count_nonzero(block.fc2.bias) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels is 0; expected at least 1"),
        ({"channels": -3}, "channels is -3"),
        ({"channels": 8, "reduction": 0}, "reduction is 0; expected at least 1"),
        ({"channels": 8, "reduction": -16}, "reduction is -16"),
        ({"channels": 8, "squeeze": "mean"}, "squeeze is 'mean'; expected one of avg, max, none"),
        ({"channels": 8, "gate": "softmax"}, "gate is 'softmax'; expected one of sigmoid, tanh, relu, hard_sigmoid"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(SenetError, match=message):
        SEBlock(**arguments)


@pytest.mark.parametrize("shape", [(2, 12), (12, 4, 4), (2, 6, 4, 4), (2, 4, 4, 12), (2, 12, 4, 4, 4)])
def test_bad_input_shapes(shape):
    with pytest.raises(SenetError, match=r"the input is \(.*\); expected \(N, 12, H, W\)") as caught:
        random_block()(torch.randn(shape))
    assert str(shape) in str(caught.value)


# ---- tools that read or change the block -----------------------------------------------------------------------------


def users_network(**options: object) -> nn.Sequential:
    """A network of somebody else that holds a block."""
    torch.manual_seed(0)
    block = random_block(8, **options)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), block, nn.Conv2d(8, 6, 1)).eval()


VARIANTS = [
    *({"squeeze": squeeze, "gate": gate} for squeeze, gate in product(SQUEEZES, GATES)),
    {"bias": False, "gate": "sigmoid_x2"},
]


@pytest.mark.quick_every(3)
@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS)
def test_torch_fx_and_torchscript_read_the_block(options):
    model = users_network(**options)
    x = torch.randn(2, 3, 6, 5)
    scripted = torch.jit.script(model)
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    extractor = create_feature_extractor(model, {"4": "out"})
    forms = (torch.fx.symbolic_trace(model), scripted, torch.jit.load(file), lambda x: extractor(x)["out"])
    for form in forms:
        assert torch.equal(form(x), model(x))
    assert scripted.state_dict().keys() == model.state_dict().keys()
    assert type(model[3]) is SEBlock


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS)
def test_quantization_reads_the_block(options):
    model = users_network(**options)
    x = torch.randn(2, 3, 6, 5)
    prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (x,))
    torch.testing.assert_close(prepared(x), model(x))


def test_a_traced_block_takes_gradients_and_other_types():
    block = random_block().double()
    graph = torch.fx.symbolic_trace(block)
    x = torch.randn(2, 12, 3, 4, dtype=torch.float64)
    gradients = [torch.autograd.grad(form(x).square().sum(), list(block.parameters())) for form in (graph, block)]
    for actual, expected in zip(*gradients, strict=True):
        assert torch.equal(actual, expected)


def only(layer: nn.Module, out: list[int] | None = None, into: list[int] | None = None) -> nn.Module:
    """A layer that is narrower, as tools for structured pruning make it: some of its channels are left."""
    weight = layer.weight.detach()
    weight, bias = (
        (weight, layer.bias) if out is None else (weight[out], None if layer.bias is None else layer.bias[out])
    )
    if into is not None:
        weight = weight[:, into]
    narrow = nn.Conv2d(weight.shape[1], weight.shape[0], layer.kernel_size, bias=bias is not None)
    narrow.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias.detach()}))
    return narrow


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS)
def test_what_is_left_of_the_two_convolutions_counts(options):
    """Channels are removed from the convolution before the block, the block, and the one after it; hidden units too."""
    torch.manual_seed(0)
    block = random_block(**options)
    before, after = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 5, 1)
    kept, hidden = [0, 3, 4, 5, 9, 11], [1, 2]
    x = torch.randn(2, 3, 4, 4)

    expected = random_block(6, **{**options, "reduction": 3})
    expected.fc1, expected.fc2 = only(block.fc1, hidden, kept), only(block.fc2, kept, hidden)
    expected = only(after, into=kept)(expected(only(before, kept)(x)))

    before, after = only(before, kept), only(after, into=kept)
    block.fc1, block.fc2 = only(block.fc1, hidden, kept), only(block.fc2, kept, hidden)
    assert (block.channels, block.hidden_channels) == (6, 2)
    assert torch.equal(after(block(before(x))), expected)
    assert_close(block.compute_gate(before(x)), numpy_gate(block, before(x)), 2e-6)
    assert str(block).startswith("SEBlock(\n  6, hidden=2")
    with pytest.raises(SenetError, match=r"expected \(N, 6, H, W\)"):
        block(torch.randn(2, 12, 4, 4))


def test_options_build_their_block():
    options = SEOptions(reduction=4, squeeze="max", gate="tanh", bias=False)
    block = options.block(32)
    assert (block.channels, block.hidden_channels, block.squeeze, block.gate_name) == (32, 8, "max", "tanh")
    assert block.fc1.bias is None
    assert block.fc2.bias is None


def test_options_choose_stages():
    options = SEOptions(stages=(4, 2, 4))
    assert options.stages == (2, 4)
    assert options == SEOptions(stages=(2, 4))
    assert [options.in_stage(stage) is not None for stage in (2, 3, 4, 5)] == [True, False, True, False]
    assert all(SEOptions().in_stage(stage) is not None for stage in (2, 3, 4, 5))
    assert isinstance(options.in_stage(2)(32), SEBlock)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "before"}, "placement is 'before'; expected one of standard, pre, post, identity, 3x3"),
        ({"reduction": 0}, "reduction is 0"),
        ({"squeeze": "std"}, "squeeze is 'std'"),
        ({"gate": "swish"}, "gate is 'swish'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(SenetError, match=message):
        SEOptions(**options)
