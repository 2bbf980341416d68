"""What PyTorch does with every network: training, memory formats, autocast, copies, compilation, export, ONNX.

Depth changes none of it: the quick tests take one network of each kind with two units a stage, the slow ones every
network as it is.
"""

import copy
import io
import shutil
from collections.abc import Callable
from itertools import product
from types import NoneType

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinds import CLEARLY, PLAIN, WITH_SE, images, settle, short_network, shortened, side_of, with_sane_outputs
from networks import assert_relatively_close, fresh_on_meta, relative_difference
from senet.factory import create_model
from senet.models.base import Network, SEUnit
from senet.models.catalog import list_models
from senet.models.residual import PadShortcut
from senet.models.resnet import cifar_resnet
from senet.nn.block import SEOptions
from tiers import slow_except

FLOAT32 = 2e-5
DEEP = [pytest.param(f"deep {name}", marks=pytest.mark.slow) for name in list_models()]
COMPILED = ("cifar_resnet20", "se_mobilenet_v1", "cifar_se_shake_shake26_2x96d")


@pytest.fixture(scope="module", params=[*slow_except(WITH_SE, (*PLAIN, *WITH_SE)), *DEEP])
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def name(case: str) -> str:
    return case.removeprefix("deep ")


@pytest.fixture(scope="module")
def create(case: str, name: str) -> Callable[..., Network]:
    """Create the network on the meta device, with the number of units that the case asks for."""

    def on_meta(**options: object) -> Network:
        with torch.device("meta"):
            return (create_model if case != name else short_network)(name, **options)

    return on_meta


@pytest.fixture(scope="module")
def model(case: str, name: str) -> Network:
    """The tests leave it as it is."""
    return with_sane_outputs(name, short=case == name)


@pytest.fixture
def x(name: str) -> Tensor:
    torch.manual_seed(1)
    return images(2, side_of(name))


@pytest.mark.quick_every(3)
def test_every_parameter_gets_a_finite_gradient(model, x):
    twin = copy.deepcopy(model).train()
    loss = F.cross_entropy(twin(x), torch.tensor([1, 7]))
    loss.backward()
    assert loss.isfinite()
    for key, parameter in twin.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        if ".se." not in key:  # where the hidden layer has few units, their ReLUs may be shut
            assert parameter.grad.any(), key
    inside_se = [p.grad.any().item() for key, p in twin.named_parameters() if ".se." in key]
    assert sum(inside_se) >= 0.7 * len(inside_se)


@pytest.mark.quick_every(3)
@torch.no_grad()
def test_images_do_not_influence_one_another(model, x):
    y = model(x)
    assert_relatively_close(torch.cat((model(x[:1]), model(x[1:]))), y, FLOAT32)
    assert_relatively_close(model(x.flip(0)), y.flip(0), FLOAT32)


@pytest.mark.quick_every(3)
@torch.no_grad()
def test_channels_last(model, x):
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x_last = x.to(memory_format=torch.channels_last)
    assert_relatively_close(twin(x_last), model(x), FLOAT32)
    first_map = twin.forward_intermediates(x_last, [0], stop_early=True, intermediates_only=True)[0]
    assert first_map.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.quick_every(3)
@torch.no_grad()
def test_autocast(model, x):
    """The error is small beside what the image does to the logits."""
    expected = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    assert_relatively_close(y, expected, relative_difference(expected[0], expected[1]) / 4)


@pytest.mark.quick_every(3)
@torch.no_grad()
def test_copies_are_equal_and_independent(model, x):
    twin = copy.deepcopy(model)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    shared = {p.data_ptr() for p in model.state_dict().values()} & {p.data_ptr() for p in twin.state_dict().values()}
    assert not shared
    assert (twin.config, twin.preprocessing) == (model.config, model.preprocessing)
    next(twin.parameters()).zero_()
    assert relative_difference(twin(x), expected) > CLEARLY
    assert torch.equal(model(x), expected)


@pytest.mark.quick_every(4)
@torch.no_grad()
def test_saved_state(create, model, x):
    """Through a file that torch.load reads without executing anything."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = create(num_classes=10)
    again.load_state_dict(torch.load(file, weights_only=True), strict=True, assign=True)
    assert torch.equal(again.eval()(x), model(x))
    assert not [key for key, tensor in (*again.named_parameters(), *again.named_buffers()) if tensor.is_meta]


@pytest.mark.quick_every(3)
@torch.no_grad()
def test_other_sizes(name, model):
    torch.manual_seed(1)
    side = side_of(name)
    for height, width in ((side + 5, 2 * side - 3), (2 * side, side)):
        y = model(images(2, height, width))
        assert y.shape == (2, 10)
        assert y.isfinite().all()
        assert relative_difference(y[0], y[1]) > CLEARLY


@pytest.mark.quick_every(4)
@torch.no_grad()
@pytest.mark.parametrize("in_channels", [1, 4])
def test_other_channels(create, model, x, in_channels):
    """One channel for three equal ones, a fourth one without weight: the same logits."""
    other = create(num_classes=10, in_channels=in_channels)
    state = model.state_dict()
    (first,) = [key for key, tensor in other.state_dict().items() if tensor.shape != state[key].shape]
    weight = state[first]
    if in_channels == 1:
        x = x[:, :1].expand(-1, 3, -1, -1)
        ours, state[first] = x[:, :1], weight.sum(1, keepdim=True)
    else:
        ours, state[first] = torch.cat((x, torch.randn_like(x[:, :1])), 1), F.pad(weight, (0, 0, 0, 0, 0, 1))
    other.load_state_dict(state, assign=True)
    assert_relatively_close(other.eval()(ours), model(x), FLOAT32)
    assert other.preprocessing.in_channels == in_channels


@pytest.mark.quick_every(4)
@torch.no_grad()
@pytest.mark.parametrize("num_classes", [0, 7])
def test_other_classes(create, model, x, num_classes):
    other = create(num_classes=num_classes)
    classifier = [f"{model.classifier_name}.{leaf}" for leaf in ("weight", "bias")]
    state = model.state_dict()
    if num_classes:
        state.update({key: state[key][:7] for key in classifier})
    else:
        for key in classifier:
            del state[key]
    other.load_state_dict(state, assign=True)
    seen = model.forward_head(model.forward_features(x), pre_logits=True)
    assert_relatively_close(other.eval()(x), model(x)[:, :7] if num_classes else seen, FLOAT32)


HAVE_PLACEMENTS = ("se_resnet18", "se_resnet50", "cifar_se_resnet20", "cifar_se_preact_resnet110")
NOTHING_TO_DOUBLE = {"se_bn_inception": 2}
"""Units that have no layers whose outputs alone reach SE: where a branch is a bare pooling."""


@pytest.mark.quick_every(4)
@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "placement"), [*((kind, "standard") for kind in WITH_SE), *product(HAVE_PLACEMENTS, ("3x3", "identity"))]
)
def test_doubling_before_se(kind, placement):
    """Twice the layers that a unit names is exactly twice what its SE block sees."""
    model = with_sane_outputs(
        kind, short=True, **({} if placement == "standard" else {"se": SEOptions(placement=placement)})
    )
    x = images(1, side_of(kind))
    units = [unit for unit in model.modules() if isinstance(unit, SEUnit) and unit.se is not None]
    nothing = 0
    for unit in units:
        seen: list[Tensor] = []
        handle = unit.se.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        weights = [p for layer in unit.affine_before_se() for p in layer.parameters()]
        for factor in (1, 2):
            for weight in weights:
                weight *= factor
            model(x)
        for weight in weights:
            weight /= 2
        handle.remove()
        assert seen[0].abs().max() > 0
        assert torch.equal(seen[1], 2 * seen[0] if weights else seen[0])
        nothing += not weights
    bare = [unit for unit in units if isinstance(getattr(unit, "downsample", None), PadShortcut | NoneType)]
    assert nothing == (len(bare) if placement == "identity" else NOTHING_TO_DOUBLE.get(kind, 0))


# ---- compilers -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _code_of_its_own():
    """All networks share one `forward`, which may be compiled a limited number of times."""
    torch._dynamo.reset()


@pytest.mark.slow
def test_every_kind_is_compiled():
    """But for their depth the networks that are not in the tables are those that are."""

    def kind(name: str) -> str:
        return str(shortened(fresh_on_meta(name, num_classes=10)))

    compiled = {kind(name) for name in (*PLAIN, *WITH_SE)}
    assert len(compiled) == len(PLAIN) + len(WITH_SE)
    assert not [name for name in list_models() if kind(name) not in compiled]


@torch.no_grad()
@pytest.mark.parametrize("kind", slow_except(COMPILED, [*PLAIN, *WITH_SE]))
def test_compile_without_graph_breaks(kind):
    model = with_sane_outputs(kind, short=True)
    x = images(2, side_of(kind))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_relatively_close(compiled(x), model(x), FLOAT32)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("kind", WITH_SE)
def test_export_and_onnx_runtime_with_dynamic_batch_and_size(kind):
    """All that a plain network computes is in its twin with SE."""
    model = with_sane_outputs(kind, short=True)
    side = side_of(kind)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(model, (images(2, side),), dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic}})
    exported = program.module()
    onnx = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)  # optimizing takes the longest
    session = onnxruntime.InferenceSession(onnx.model_proto.SerializeToString())
    for shape in ((2, side, side), (3, side + 5, side + 32)):
        x = images(*shape)
        expected = model(x)
        assert_relatively_close(exported(x), expected, FLOAT32)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_relatively_close(torch.from_numpy(y), expected, FLOAT32)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_inductor_trains():
    """One network of three units: each of its kernels takes the C++ compiler a second."""
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions())
    settle(model, images(8, 32))
    model.train()
    x = images(2, 32)

    def step(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        y = forward(x)
        F.cross_entropy(y, torch.tensor([1, 7])).backward()
        return y, torch.cat([p.grad.flatten() for p in model.parameters()])

    for actual, expected in zip(step(torch.compile(model, fullgraph=True)), step(model), strict=True):
        assert_relatively_close(actual, expected, 1e-4)
