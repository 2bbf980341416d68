"""Layers of PyTorch fused against the same layers one after another."""

import copy
import io
import subprocess
from collections.abc import Callable
from itertools import product

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from drivers import ENVIRONMENT, command
from networks import assert_relatively_close, randomize
from senet.factory import create_model
from senet.models.base import Network
from senet.models.resnet import cifar_resnet
from senet.nn import fused
from senet.nn.block import SEBlock, SEOptions
from senet.nn.fused import Chain, Fusible, set_fused
from senet.ops.gates import GATES
from senet.optimization.fusion import fuse

C = 8
EXACT = 1e-10
NOISE = 1e-13
"""Rounding errors of gradients that are zero, as of a convolution's bias before BatchNorm."""
LABELS = torch.tensor([1, 7, 0, 3])


class Unit(Fusible):
    """All that the operator computes."""

    def __init__(self, norm: nn.Module | None, se: nn.Module | None = None, shortcut_norm: nn.Module | None = None):
        super().__init__()
        self.norm, self.se, self.shortcut_norm = norm, se, shortcut_norm

    def forward(self, u: Tensor, shortcut: Tensor | None = None) -> Tensor:
        shortcut_norm = None if shortcut is None else self.shortcut_norm
        return self.tail(u, self.norm, self.se, shortcut, shortcut_norm=shortcut_norm)


pytestmark = pytest.mark.usefixtures("fuse_small_maps")


@pytest.fixture
def calls(fused_calls: list[Tensor]) -> list[Tensor]:
    return fused_calls


def random_map(dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(4, C, 5, 3) * (torch.rand(C, 1, 1) + 0.5) + torch.randn(C, 1, 1)).to(dtype).requires_grad_()


def prepared(unit: nn.Module) -> nn.Module:
    """In double precision, with weights and statistics that a mix-up would show."""
    torch.manual_seed(0)
    for module in unit.modules():
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(module, name, None)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and value is not None:
                value.data.uniform_(0.5, 1.5)
    return unit.double()


def step(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """Output, every gradient, and the buffers afterwards."""
    inputs = tuple(x.detach().requires_grad_(x.requires_grad) for x in inputs)
    model.zero_grad()
    y = model(*inputs)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if y.requires_grad:
        y.backward(dy.to(y.dtype))
    found = {"y": y.detach()}
    found |= {f"input {i}": x.grad for i, x in enumerate(inputs)}
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = EXACT) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        actual = found[name]
        if value is None or actual is None:
            assert actual is value, name
            continue
        atol = tolerance * value.abs().max().item() + NOISE
        torch.testing.assert_close(actual, value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def assert_fusing_changes_nothing(unit: nn.Module, *inputs: Tensor, tolerance: float = EXACT) -> None:
    """Over two steps: statistics move from where the first has left them."""
    twin = copy.deepcopy(unit)
    assert set_fused(unit, True)
    assert set_fused(twin, False)
    for _ in range(2):
        assert_same(step(unit, *inputs), step(twin, *inputs), tolerance)
    assert unit.state_dict().keys() == twin.state_dict().keys()


def uncounted() -> nn.Module:
    norm = nn.BatchNorm2d(C)
    norm.num_batches_tracked = None  # as in models of old
    return norm


NORMS: dict[str, Callable[[], nn.Module]] = {
    "default": lambda: nn.BatchNorm2d(C),
    "eps": lambda: nn.BatchNorm2d(C, eps=0.5, momentum=0.3),
    "cumulative": lambda: nn.BatchNorm2d(C, momentum=None),
    "no_momentum": lambda: nn.BatchNorm2d(C, momentum=0.0),
    "untracked": lambda: nn.BatchNorm2d(C, track_running_stats=False),
    "no_affine": lambda: nn.BatchNorm2d(C, affine=False),
    "uncounted": uncounted,
    "bare": lambda: nn.BatchNorm2d(C, affine=False, track_running_stats=False),
}


@pytest.mark.parametrize(("kind", "training"), product(NORMS, (True, False)))
def test_norms(kind, training, calls):
    build = NORMS[kind]
    for unit in (Unit(build()), Unit(build(), SEBlock(C, 2), build())):
        unit = prepared(unit).train(training)
        assert_fusing_changes_nothing(unit, random_map(), random_map())
    assert len(calls) == 4


@pytest.mark.parametrize("frozen", ["norm", "shortcut_norm"])
def test_frozen_norms(frozen, calls):
    """Its statistics stay while the parameters train; then it has no parameters that train either."""
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C)))
    unit.get_submodule(frozen).eval()
    before = unit.get_submodule(frozen).running_mean.clone()
    assert_fusing_changes_nothing(unit, random_map(), random_map())
    assert torch.equal(unit.get_submodule(frozen).running_mean, before)
    unit.get_submodule(frozen).requires_grad_(False)
    assert_fusing_changes_nothing(unit, random_map(), random_map().detach())
    assert len(calls) == 4


@pytest.mark.parametrize("gate", GATES)
def test_se(gate, calls):
    tolerance = 1e-7 if gate.startswith("hard") else EXACT  # PyTorch's gradient of it has float32's 1/6
    for bias, norm in product((True, False), (None, nn.BatchNorm2d(C))):
        unit = prepared(Unit(norm, SEBlock(C, 2, gate=gate, bias=bias)))
        assert_fusing_changes_nothing(unit, random_map(), tolerance=tolerance)
    assert len(calls) == 8


def test_statistics_move_without_gradients():
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C)))
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            inputs = [random_map().detach() for _ in range(2)]
            assert_fusing_changes_nothing(unit, *inputs)


def test_synchronized_norms_of_one_process(calls):
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C)))
    twin = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(unit))
    set_fused(twin, True)
    set_fused(unit, False)
    inputs = random_map(), random_map()
    for training in (True, False):
        assert_same(step(twin.train(training), *inputs), step(unit.train(training), *inputs))
    assert len(calls) == 2


class OtherNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class OtherConvolution(nn.Conv2d):
    """As those that train for quantization."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def other_excitation() -> Unit:
    unit = Unit(None, SEBlock(C, 2))
    unit.se.fc1 = OtherConvolution(C, C // 2, 1)
    return unit


INEXPRESSIBLE = {
    "group_norm": lambda: Unit(nn.GroupNorm(2, C), SEBlock(C, 2)),
    "other_norm": lambda: Unit(OtherNorm(C)),
    "max_squeeze": lambda: Unit(nn.BatchNorm2d(C), SEBlock(C, 2, squeeze="max")),
    "no_squeeze": lambda: Unit(nn.BatchNorm2d(C), SEBlock(C, 2, squeeze="none")),
    "arbitrary_se": lambda: Unit(nn.BatchNorm2d(C), nn.Sequential(nn.Conv2d(C, C, 1), nn.Tanh())),
    "other_excitation": other_excitation,
    "other_shortcut_norm": lambda: Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.GroupNorm(2, C)),
}


@pytest.mark.parametrize("kind", INEXPRESSIBLE)
def test_layers_without_an_equal_run_as_they_are(kind, calls):
    assert_fusing_changes_nothing(prepared(INEXPRESSIBLE[kind]()), random_map(), random_map())
    assert not calls


def test_small_maps_without_se_are_not_worth_it(calls, monkeypatch):
    monkeypatch.setattr(fused, "MIN_FUSED_NUMEL", {"cpu": random_map().numel() + 1})
    for se, expected in ((None, 0), (SEBlock(C, 2), 2)):  # in training and in evaluation
        unit = prepared(Unit(nn.BatchNorm2d(C), se))
        assert_fusing_changes_nothing(unit, random_map(), random_map())
        assert len(calls) == expected
    monkeypatch.setattr(fused, "MIN_FUSED_NUMEL", {"cpu": random_map().numel()})
    assert_fusing_changes_nothing(prepared(Unit(nn.BatchNorm2d(C), None)), random_map(), random_map())
    assert len(calls) == 4


def test_shortcuts_without_an_equal(calls):
    unit = prepared(Unit(nn.BatchNorm2d(C)))
    for shortcut in (random_map(torch.float32), random_map()[:, :, :1], random_map()[:1]):
        assert_fusing_changes_nothing(unit, random_map(), shortcut.detach().requires_grad_())
    assert not calls


WATCH = {
    "forward": lambda m, seen: m.register_forward_hook(lambda *_: seen.append(m)),
    "forward_pre": lambda m, seen: m.register_forward_pre_hook(lambda *_: seen.append(m)),
    "backward": lambda m, seen: m.register_full_backward_hook(lambda *_: seen.append(m)),
    "backward_pre": lambda m, seen: m.register_full_backward_pre_hook(lambda *_: seen.append(m)),
}


@pytest.mark.parametrize(("kind", "place"), product(WATCH, ("norm", "se", "se.fc2", "shortcut_norm")))
def test_hooks_are_called(kind, place, calls):
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C)))
    set_fused(unit, True)
    inputs, seen = (random_map(), random_map()), []
    expected = step(copy.deepcopy(unit), *inputs)
    handle = WATCH[kind](unit.get_submodule(place), seen)
    assert_same(step(unit, *inputs), expected)
    assert len(seen) == len(calls) == 1
    handle.remove()
    step(unit, *inputs)
    assert (len(seen), len(calls)) == (1, 2)


@pytest.mark.parametrize("place", ["norm", "se", "se.fc2", "shortcut_norm"])
def test_replaced_forward(place, calls):
    """As accelerate does to the modules of a model that it moves or offloads."""
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C)))
    set_fused(unit, True)
    module, seen = unit.get_submodule(place), []
    expected = step(copy.deepcopy(unit), *(inputs := (random_map(), random_map())))
    usual = module.forward
    module.forward = lambda x: seen.append(x) or usual(x)
    assert_same(step(unit, *inputs), expected)
    assert len(seen) == len(calls) == 1


def test_no_images():
    """As in the last batch of a process that has none left."""
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2))).eval()
    for value in (False, True):
        set_fused(unit, value)
        assert unit(random_map()[:0]).shape == (0, C, 5, 3)


def test_chain(calls):
    def build() -> Chain:
        layers = (nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU(), nn.ReLU(), nn.BatchNorm2d(C), nn.Tanh())
        return prepared(Chain(*layers, nn.BatchNorm2d(C), nn.ReLU(inplace=True), nn.BatchNorm2d(C)))

    u = random_map()
    assert_fusing_changes_nothing(build(), u)
    assert len(calls) == 4
    seen, chain = [], build()
    chain[2].register_forward_hook(lambda *_: seen.append(chain[2]))
    assert_fusing_changes_nothing(chain, u)
    assert (len(seen), len(calls)) == (2 + 2, 4 + 2)  # the copy's hook counts, too


def test_set_fused(calls):
    model = nn.Sequential(Unit(nn.BatchNorm2d(C)), nn.Sequential(Chain(nn.BatchNorm2d(C), nn.ReLU())))
    u = random_map(torch.float32)
    for value, number in ((None, 2), (True, 4), (False, 4), (True, 6)):
        assert set_fused(model, value) == 2
        assert {m.fused for m in model.modules() if isinstance(m, Fusible)} == {value}
        model(u)
        assert len(calls) == number
    assert set_fused(nn.Linear(1, 1), True) == 0
    assert Fusible.fused is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parameters", ["float32", "same"])
def test_half_precision(dtype, parameters, calls):
    """With parameters in either precision; close to what float32 gives."""
    unit = prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C))).float()
    inputs = random_map(dtype), random_map(dtype)
    expected = step(set_fused(unit, False) and copy.deepcopy(unit), *(x.detach().float() for x in inputs))
    set_fused(unit, True)
    y = (unit.to(dtype) if parameters == "same" else unit)(*inputs)
    y.sum().backward()
    assert y.dtype == inputs[0].grad.dtype == dtype
    assert {p.grad.dtype for p in unit.parameters()} == {dtype if parameters == "same" else torch.float32}
    assert_relatively_close(y, expected["y"], 0.03)
    assert len(calls) == 1


# ---- networks --------------------------------------------------------------------------------------------------------


def small_network(**options: object) -> Network:
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(reduction=4), shortcut="projection", **options)
    randomize(model)
    set_fused(model, True)
    return model.train().double()


def images(number: int = 4) -> Tensor:
    return torch.randn(number, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_networks_are_copied_and_saved_with_their_choice(calls):
    model = small_network()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twins = copy.deepcopy(model), torch.load(file, weights_only=False)
    expected = step(model, images())
    for twin in twins:
        calls.clear()
        assert_same(step(twin, images()), expected)
        assert len(calls) == 1 + 3 * 2
    assert not [key for key in model.state_dict() if "fused" in key]
    assert cifar_resnet(8, se=SEOptions(), shortcut="projection").state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["cifar_se_resnet20", "cifar_se_preact_resnet110", "se_shufflenet_v1_g3"])
def test_checkpointed_activations(name, calls):
    """BatchNorm's statistics move once, not again when activations are recomputed."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10).double()
    if "preact" in name:
        for stage in ("layer1", "layer2", "layer3"):
            model.set_submodule(stage, model.get_submodule(stage)[:1])
    set_fused(model, True)
    twin = copy.deepcopy(model).train()
    x = F.interpolate(images(), 64) if "shuffle" in name else images()
    expected = step(model.train(), x)
    usual = len(calls)
    twin.set_grad_checkpointing()
    assert_same(step(twin, x), expected, 1e-9)
    assert len(calls) > 2 * usual
    assert twin.bn1.num_batches_tracked == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_of_a_unit(dtype):
    """As in a network: a convolution first, parameters in float32."""
    unit = nn.Sequential(nn.Conv2d(C, C, 1), prepared(Unit(nn.BatchNorm2d(C), SEBlock(C, 2)))).float()
    set_fused(unit, True)
    u = random_map(torch.float32)
    expected = step(copy.deepcopy(unit), u)
    with torch.autocast("cpu", dtype):
        y = unit(u)
    assert y.dtype == dtype
    assert_relatively_close(y, expected["y"], 0.03)
    F.mse_loss(y.float(), torch.zeros(y.shape)).backward()
    assert {p.grad.dtype for p in (u, *unit.parameters())} == {torch.float32}


def test_autocast_of_a_network(calls):
    """As close to float64 as the network is without fusing, or nearly."""
    model = small_network()
    exact = step(copy.deepcopy(model), images())
    found = {}
    for value in (True, False):
        twin = copy.deepcopy(model).float()
        set_fused(twin, value)
        calls.clear()
        with torch.autocast("cpu", torch.bfloat16):
            y = twin(images().float())
            loss = F.cross_entropy(y, LABELS)
        loss.backward()
        assert y.dtype == torch.bfloat16
        assert {u.dtype for u in calls} == ({torch.bfloat16} if value else set())
        assert {p.grad.dtype for p in twin.parameters()} == {torch.float32}
        assert {b.dtype for name, b in twin.named_buffers() if "running" in name} == {torch.float32}
        found[value] = (y.double() - exact["y"]).abs().max() / exact["y"].abs().max()
    assert found[True] < 2 * found[False] < 0.2


# ---- tools that read the layers --------------------------------------------------------------------------------------


def test_graphs_hold_the_single_layers(calls):
    """Of torch.fx and of TorchScript, which compute what the operator does."""
    torch.manual_seed(0)
    unit = Unit(nn.BatchNorm2d(C), SEBlock(C, 2), nn.BatchNorm2d(C)).double().eval()
    model = Chain(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.ReLU(), unit).double().eval()
    randomize(model)
    set_fused(model, True)
    graph, scripted = torch.fx.symbolic_trace(model), torch.jit.script(model)
    x = torch.randn(2, C, 5, 4, dtype=torch.float64)
    for form in (graph, scripted):
        actual = form(x)
        assert not calls
        assert_relatively_close(actual, model(x), EXACT)
        assert len(calls) == 2
        calls.clear()
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    assert {"0", "1", "2", "3.norm", "3.se.fc1", "3.se.fc2"} <= called


@torch.no_grad()
@pytest.mark.parametrize("build", [lambda: timm.create_model("seresnet18"), torchvision.models.resnet18])
def test_graphs_of_somebody_elses_network_with_fused_layers(build, calls):
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    fuse(model)
    for form in (torch.fx.symbolic_trace(model), torch.jit.script(copy.deepcopy(model))):
        assert torch.equal(form(x), expected)
    assert not calls
    assert_relatively_close(model(x), expected, 2e-5)
    assert calls


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("se", [True, False])
def test_compile_without_graph_breaks(training, se, calls):
    torch._dynamo.reset()
    model = small_network() if se else cifar_resnet(8, shortcut="projection").double()
    set_fused(model, True)
    twin = copy.deepcopy(model).train(training)
    expected = step(model.train(training), images())
    assert calls
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    found = step(compiled, images())
    assert_same({name.replace("_orig_mod.", ""): value for name, value in found.items()}, expected)
    torch._dynamo.reset()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """With synchronized BatchNorm, against plain BatchNorm in one process, unfused."""
    model, x = small_network(), images()
    torch.save((model, x, LABELS), tmp_path / "model.pt")
    commands = [command("step_of_two_processes.py", tmp_path, rank) for rank in range(2)]
    processes = [subprocess.Popen(words, env=ENVIRONMENT) for words in commands]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:  # one may wait for the other
            process.kill()
    set_fused(model, False)
    F.cross_entropy(model(x), LABELS).backward()
    for rank in range(2):
        gradients, buffers = torch.load(tmp_path / f"{rank}.pt")
        assert_same(gradients, {name: p.grad for name, p in model.named_parameters()})
        assert_same(buffers, dict(model.named_buffers()))
