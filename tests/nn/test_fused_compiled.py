"""Fused layers under torch.compile, torch.export and autocast: what the tools see, and that the results stay."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad

from senet.models.resnet import cifar_resnet
from senet.nn import fused
from senet.nn.block import SEBlock, SEOptions
from senet.nn.fused import set_fused
from senet.nn.tail import ResidualTail

NAMES = ("moments", "apply", "sums", "gradients")
UNITS = 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, se=SEOptions(reduction=4)).train()


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    y = model(x)
    y.square().mean().backward()
    found = [y.detach(), *(p.grad for p in model.parameters())]
    model.zero_grad()
    return found


def operators_in(graph: torch.fx.GraphModule) -> list[str]:
    """The names of this library's operators in a graph, those of graphs within it too."""
    return [
        str(node.target).split(".")[1]
        for module in graph.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("senet.")
    ]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max().item() <= tolerance * max(b.abs().max().item(), 1e-2)


def test_a_compiled_step_is_one_graph_with_four_operators_a_block(fuse_small_maps):
    model, x = network(), torch.randn(2, 3, 16, 16)
    twin = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(2):  # statistics move from where the first has left them
        assert_near(step(compiled, x), step(set_fused(twin, False) and twin, x))
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, twin.get_buffer(name), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1
    found = operators_in(counter.graphs[0])
    assert {name: found.count(name) for name in NAMES} == dict.fromkeys(NAMES, 1 + 2 * UNITS)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_inductor_gives_what_the_layers_give(fuse_small_maps, layout, precision):
    model, x = network().to(memory_format=layout), torch.randn(4, 3, 16, 16).to(memory_format=layout)
    twin = copy.deepcopy(model)
    set_fused(twin, False)
    compiled = torch.compile(model, fullgraph=True)
    results = []
    for each in (compiled, twin):
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            results.append(step(each, x))
    assert_near(*results, tolerance=1e-4 if precision == torch.float32 else 0.1)


@pytest.mark.parametrize("compiling", [False, True])
def test_under_autocast_the_excitation_stays_in_float32(compiling, monkeypatch):
    """What autocast would do to its products shows in the third digit of the gates."""
    number = 0 if compiling else 10**9  # of small maps torch.compile gets the layers
    for name in ("MIN_FUSED_NUMEL", "MIN_FUSED_NUMEL_SE"):
        monkeypatch.setattr(fused, name, {"cpu": number, "cuda": number})
    torch.manual_seed(0)
    tail = ResidualTail(nn.BatchNorm2d(8), SEBlock(8, 2))
    u, shortcut = (torch.randn(4, 8, 5, 4, requires_grad=True) for _ in range(2))
    results = []
    with torch.autocast("cpu", torch.bfloat16):
        y = (torch.compile(tail, fullgraph=True, backend="aot_eager") if compiling else tail)(u, shortcut)
        assert torch.is_autocast_enabled("cpu")
    results.append([y, *torch.autograd.grad(y.square().sum(), [u, shortcut, *tail.parameters()])])
    y = ResidualTail(tail.norm, tail.se, fused=False)(u, shortcut)
    results.append([y, *torch.autograd.grad(y.square().sum(), [u, shortcut, *tail.parameters()])])
    found, expected = results
    assert_near(found[:1], expected[:1], 2e-5)
    assert_near(found, expected, 2e-2 if compiling else 2e-5)  # compiled, the backward pass has autocast's precision


def test_export_sees_the_operators_where_they_are_asked_for(fuse_small_maps):
    """By default an exported network is made of PyTorch's operators alone."""
    model, x = network().eval(), torch.randn(2, 3, 16, 16)
    expected = model(x)
    plain = torch.export.export(model, (x,))
    assert operators_in(plain.graph_module) == []
    assert torch.equal(plain.module()(x), expected)
    set_fused(model, True)
    fused = torch.export.export(model, (x,))
    found = operators_in(fused.graph_module)
    assert found.count("apply") == 1 + 2 * UNITS
    assert found.count("moments") == UNITS  # the squeezes: the statistics are known
    torch.testing.assert_close(fused.module()(x), expected, rtol=1e-4, atol=1e-5)


def test_export_of_a_training_step(fuse_small_maps):
    tail, u = ResidualTail(nn.BatchNorm2d(8), SEBlock(8, 2), fused=True), torch.randn(2, 8, 4, 4)
    exported = torch.export.export(tail, (u, torch.randn_like(u)))
    assert operators_in(exported.graph_module) == ["moments", "apply"]


@pytest.mark.parametrize("fused", [None, True])
def test_transforms_of_functions_see_layers(fused):
    """PyTorch refuses autograd functions there that have no formula for them; gradients against a backward pass."""
    tail, u = (
        ResidualTail(nn.BatchNorm2d(8, track_running_stats=False), SEBlock(8, 2), fused=fused),
        torch.randn(2, 8, 4, 4),
    )
    parameters = dict(tail.named_parameters())

    def loss(parameters, u):
        return torch.func.functional_call(tail, parameters, (u,)).square().sum()

    found = torch.func.grad(loss)(parameters, u)
    expected = torch.autograd.grad(tail(u).square().sum(), list(parameters.values()))
    torch.testing.assert_close(list(found.values()), list(expected), rtol=1e-4, atol=1e-4)
    each = torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(None, 0))(parameters, u[:, None])
    assert each.shape == (2, 1, 8, 4, 4)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(tail(forward_ad.make_dual(u, u))).tangent
    torch.testing.assert_close(tangent, torch.func.jvp(tail, (u,), (u,))[1])


@pytest.mark.parametrize("number", [0, 10**9])
def test_hooks_of_all_modules_are_called(number, monkeypatch):
    """As torch.utils.flop_counter sets them; for small maps and large ones."""
    for name in ("MIN_FUSED_NUMEL", "MIN_FUSED_NUMEL_SE"):
        monkeypatch.setattr(fused, name, {"cpu": number, "cuda": number})
    model, seen = network(), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        model(torch.randn(2, 3, 16, 16))
    finally:
        handle.remove()
    blocks = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | SEBlock)]
    assert set(blocks) <= set(seen)


def test_a_backward_pass_inside_a_compiled_function():
    """The hook that `senet.nn.attached` sets for all modules must not be in the way, whatever the network."""
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.randn(2, 3)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(lambda x: model(x).sum().backward(), backend="aot_eager")(x)
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    torch.testing.assert_close([p.grad for p in model.parameters()], list(expected))
