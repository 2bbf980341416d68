"""The layer `ResidualTail`, fused and not, against the plain layers in double precision."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import ResidualTail, SEBlock, fuse, unfuse

C = 8


def build(with_se: bool, with_shortcut_norm: bool, **options: object) -> ResidualTail:
    torch.manual_seed(0)
    norm, shortcut_norm = nn.BatchNorm2d(C), nn.BatchNorm2d(C) if with_shortcut_norm else None
    tail = ResidualTail(norm, SEBlock(C, 2) if with_se else None, shortcut_norm, **options)
    for parameter in tail.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return tail.double()


def plain_layers(tail: ResidualTail, u: Tensor, shortcut: Tensor | None) -> Tensor:
    """The paper's Figure 3, layer by layer."""
    out = tail.norm(u)
    out = out if tail.se is None else tail.se(out)
    if shortcut is not None:
        out = out + (shortcut if tail.shortcut_norm is None else tail.shortcut_norm(shortcut))
    return F.relu(out) if tail.relu else out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("with_se", "with_shortcut_norm", "with_shortcut", "relu"),
    [case for case in product((True, False), repeat=4) if case[2] or not case[1]],
)
def test_outputs_gradients_and_statistics(with_se, with_shortcut_norm, with_shortcut, relu, training, fuse_small_maps):
    tail = build(with_se, with_shortcut_norm, relu=relu, fused=True).train(training)
    twin = copy.deepcopy(tail)
    for seed in range(2):
        torch.manual_seed(seed)
        u, shortcut = (torch.randn(3, C, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        shortcut = shortcut if with_shortcut else None
        actual, expected = tail(u, shortcut), plain_layers(twin, u, shortcut)
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
        inputs = [u] if shortcut is None else [u, shortcut]
        dy = torch.randn(u.shape, dtype=torch.float64)
        for a, e in zip(
            torch.autograd.grad(actual, [*inputs, *tail.parameters()], dy),
            torch.autograd.grad(expected, [*inputs, *twin.parameters()], dy),
            strict=True,
        ):
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)
    for name, buffer in tail.named_buffers():
        torch.testing.assert_close(buffer, twin.get_buffer(name), rtol=1e-12, atol=1e-12)
    assert tail.norm.num_batches_tracked == 2 * training


def test_it_runs_fused_in_training_and_otherwise_when_asked(fuse_small_maps, fused_calls):
    tail, u = build(True, False), torch.randn(2, C, 4, 4, dtype=torch.float64, requires_grad=True)
    assert tail.fused is None
    tail(u, u)
    assert len(fused_calls) == 1
    with torch.no_grad():
        tail(u, u)
    tail.eval()
    tail(u, u)
    unfuse(tail).train()
    tail(u, u)
    assert len(fused_calls) == 1
    fuse(tail).eval()
    tail(u, u)
    assert len(fused_calls) == 2


def test_tools_read_it():
    tail, u = build(True, True, fused=True).eval(), torch.randn(2, C, 4, 4, dtype=torch.float64)
    expected = tail(u, u)
    for form in (torch.fx.symbolic_trace(tail), torch.compile(tail, fullgraph=True, backend="aot_eager")):
        torch.testing.assert_close(form(u, u), expected, rtol=1e-11, atol=1e-11)
    assert set(tail.state_dict()) == {
        *(f"{norm}.{key}" for norm in ("norm", "shortcut_norm") for key in nn.BatchNorm2d(C).state_dict()),
        *(f"se.{key}" for key in SEBlock(C).state_dict()),
    }
