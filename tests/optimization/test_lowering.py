"""Networks for the kernels of inference: the same outputs, two launches a block, nothing of them in an export."""

from collections import Counter

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import senet
from networks import assert_relatively_close, randomize
from senet.models.resnet import cifar_resnet
from senet.nn.block import SEBlock, SEOptions
from senet.ops import gate
from senet.ops.gates import Gate, register_gate
from senet.optimization import runners
from senet.optimization.lowering import Excite, Squeeze, lower
from senet.optimization.rewriting import rewrite
from tiers import slow_except

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT32 = 1e-5


@pytest.fixture
def launches(monkeypatch):
    """Run lowered networks on the kernels, in Triton's interpreter without a GPU, and count their launches."""
    from senet.ops import gate_cuda

    found = Counter()
    for_tensors = gate_cuda.for_tensors

    def counting(kernel, x):
        found[kernel.__name__] += 1
        return for_tensors(kernel, x)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(gate_cuda, "for_tensors", counting)
    monkeypatch.setattr(gate, "runs_in_kernels", lambda x: x.dtype != torch.float64)
    return found


def rewritten(model):
    torch.manual_seed(0)
    randomize(model.eval().to(DEVICE))
    return rewrite(model).to(memory_format=torch.channels_last)


def functions(graph):
    """The names of the functions and methods that a graph calls, and of the classes of its layers."""
    names = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            names[type(graph.get_submodule(node.target)).__name__] += 1
        elif node.op in ("call_function", "call_method"):
            names[getattr(node.target, "__name__", node.target)] += 1
    del names["getitem"]
    return names


# name, SE blocks, ReLUs that stay: those that no SE block follows
NETWORKS = (
    ("se_resnet50", 16, 1 + 16),
    ("timm_seresnet50", 16, 1 + 16),
    ("timm_legacy_seresnext26_32x4d", 8, 1 + 8),
    ("se_resnext50_32x4d", 16, 1 + 16),
    ("senet154", 50, 3 + 50),
    ("cifar_se_resnet20", 9, 1 + 9),
    ("timm_legacy_seresnet18", 8, 1 + 8),
    ("se_vgg16_bn", 13, 2),
    ("se_mobilenet_v1", 13, 1 + 13),
)
QUICK = ("cifar_se_resnet20",)


@torch.no_grad()
@pytest.mark.parametrize(("name", "blocks", "relus"), slow_except(QUICK, NETWORKS), ids=[name for name, *_ in NETWORKS])
def test_a_whole_network_runs_on_two_kernels_a_block(launches, name, blocks, relus):
    create = timm.create_model if name.startswith("timm_") else senet.create_model
    graph = rewritten(create(name.removeprefix("timm_"), num_classes=10))
    lowered = lower(graph)
    x = torch.randn(1, 3, 32, 32, device=DEVICE).to(memory_format=torch.channels_last)
    assert_relatively_close(lowered(x), graph(x), FLOAT32)
    assert launches == {"squeeze_kernel": blocks, "excite_kernel": blocks}
    found, before = functions(lowered), functions(graph)
    assert found["Squeeze"] == found["Excite"] == blocks
    assert found["ReLU"] + found["relu"] == relus
    assert not {"mul", "add", "iadd", "EarlyGate", "SEBlock", "SEModule"} & set(found)
    assert found["Conv2d"] == before["Conv2d"]


@torch.no_grad()
def test_the_weights_are_shared_and_the_graph_stays_what_it_is(launches):
    graph = rewritten(cifar_resnet(8, se=SEOptions(reduction=4)))
    before = graph.code
    own = {p.data_ptr() for p in graph.parameters()}
    lowered = lower(graph)
    assert graph.code == before
    assert all(p.data_ptr() in own for p in lowered.parameters())
    graph(torch.randn(1, 3, 8, 8, device=DEVICE))
    assert not launches


class Unit(nn.Module):
    """A gate between other layers.

    Args:
        end: (gated, x) -> output.
    """

    def __init__(self, end):
        super().__init__()
        self.first, self.expand, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 12, 1), nn.Conv2d(6, 12, 1)
        self.se, self.end = SEBlock(12, 4), end

    def forward(self, x):
        h = F.relu(self.first(x))
        return self.end(self.se(self.expand(h)), x, self)


def changed_in_place(gated, x, unit):
    shortcut = unit.other(x)
    y = shortcut.add_(gated)
    return y * shortcut


# what follows the gate, and how many sums and ReLUs are left to PyTorch
ENDS = {
    "nothing": (lambda g, x, unit: g, 0),
    "relu": (lambda g, x, unit: F.relu(g), 0),
    "method": (lambda g, x, unit: g.relu(), 0),
    "sum and relu": (lambda g, x, unit: F.relu(g + unit.other(x), inplace=True), 0),
    "shortcut first": (lambda g, x, unit: torch.relu(torch.add(unit.other(x), g)), 0),
    "sum": (lambda g, x, unit: g + unit.other(x), 0),
    "in place": (lambda g, x, unit: g.add_(unit.other(x)).relu_(), 0),
    "a shortcut that changes in place": (changed_in_place, 1),
    "a shortcut of one channel": (lambda g, x, unit: F.relu(g + x[:, :1]), 0),
    "a number": (lambda g, x, unit: F.relu(g + 1), 2),
    "a multiple": (lambda g, x, unit: torch.add(g, unit.other(x), alpha=2), 1),
    "twice": (lambda g, x, unit: g + g, 1),
    "read again": (lambda g, x, unit: F.relu(g + x[:, :1]) * g, 2),
}


@torch.no_grad()
@pytest.mark.parametrize("name", ENDS)
def test_what_follows_a_gate(launches, name):
    end, left = ENDS[name]
    torch.manual_seed(0)
    unit = Unit(end).eval().to(DEVICE)
    nn.init.normal_(unit.se.fc2.weight)
    x = torch.randn(2, 6, 5, 7, device=DEVICE)
    expected = unit(x)
    lowered = lower(rewrite(unit))
    assert_relatively_close(lowered(x), expected, FLOAT32)
    found = functions(lowered)
    assert sum(found[of] for of in ("add", "iadd", "add_", "relu", "relu_")) == left
    assert launches["squeeze_kernel"] == 1
    assert found["Excite"] == 1


class Halved(SEBlock):
    """A block that the kernels do not know."""

    def forward(self, x):
        return super().forward(x) / 2


@torch.no_grad()
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.MaxPool2d(2), SEBlock(6, 2)),
        nn.Sequential(nn.Conv2d(6, 6, 3), Halved(6, 2)),
        nn.Sequential(nn.Conv2d(6, 6, 3), SEBlock(6, 2, squeeze="max")),
    ],
    ids=["after another layer", "of another class", "of another squeeze"],
)
def test_other_blocks_are_left(launches, model):
    model, x = model.to(DEVICE), torch.randn(2, 6, 8, 8, device=DEVICE)
    lowered = lower(rewrite(model.eval()))
    assert_relatively_close(lowered(x), model(x), FLOAT32)
    assert not any(isinstance(module, Squeeze | Excite) for module in lowered.modules())


@torch.no_grad()
def test_a_gate_without_a_kernel_is_left(launches):
    name = "softsign_of_inference"
    register_gate(Gate(name=name, function=F.softsign, slope=lambda value: (1 - value.abs()).square(), low=-1, high=1))
    model = nn.Sequential(nn.Conv2d(6, 8, 1), SEBlock(8, 2, gate=name)).eval().to(DEVICE)
    x = torch.randn(2, 6, 4, 4, device=DEVICE)
    assert_relatively_close(lower(rewrite(model))(x), model(x), FLOAT32)
    assert not launches


def test_large_batches_run_as_they_are(monkeypatch):
    """Compiled, on a GPU: up to `MAX_IMAGES` images with the kernels."""
    monkeypatch.setattr(runners, "InductorRunner", lambda graph: graph)
    graph = rewritten(cifar_resnet(8, se=SEOptions(reduction=4)))
    runner = runners.BatchRunner(graph)
    seen = []
    for one in (runner.small, runner.large):
        one.register_forward_hook(lambda module, *_: seen.append(module))
    for images in (1, gate.MAX_IMAGES, gate.MAX_IMAGES + 1):
        runner(torch.randn(images, 3, 8, 8, device=DEVICE))
    assert seen == [runner.small, runner.small, runner.large]
    assert runner.large is graph
    assert any(isinstance(module, Excite) for module in runner.small.modules())
