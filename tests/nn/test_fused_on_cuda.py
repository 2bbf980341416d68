"""Whole networks and the whole tail by the code for CUDA: on a GPU, or on the CPU in Triton's interpreter."""

import copy
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from senet.models.resnet import cifar_resnet
from senet.nn import fused
from senet.nn.block import SEOptions
from senet.nn.fused import set_fused
from senet.ops import Excitation, Norm, function, residual_tail

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = (torch.channels_last, torch.contiguous_format)


@pytest.fixture
def on_cuda(monkeypatch, fuse_small_maps):
    """Run as on CUDA: with the Triton kernels, which tests/conftest.py has interpreted where there is no GPU."""
    from senet.ops import cuda  # noqa: F401  # registers them

    monkeypatch.setattr(function, "namespace_for", lambda device_type: "senet_triton")
    monkeypatch.setattr(fused, "has_kernels", lambda *_: True)


class Operators(TorchDispatchMode):
    """Counts the calls of the four operators."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.namespace.startswith("senet"):
            self.calls[f"{operator.namespace}.{operator._opname}"] += 1
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_norm", [True, False])
def test_the_whole_tail(on_cuda, monkeypatch, layout, dtype, with_norm):
    """Against autograd of the same formula in plain PyTorch and float64."""
    torch.manual_seed(0)
    n, c, k, side = 3, 20, 5, 6
    u, shortcut, dy = (
        torch.randn(n, c, side, side, device=DEVICE).to(dtype).to(memory_format=layout) for _ in range(3)
    )
    values = [torch.randn(shape, device=DEVICE) for shape in ((c,), (c,), (k, c), (c, k), (k,), (c,), (c,), (c,))]
    results = []
    for namespace, wide in (("senet_triton", False), ("senet", True)):
        monkeypatch.setattr(function, "namespace_for", lambda _, namespace=namespace: namespace)
        maps = [(x.double() if wide else x.clone()).requires_grad_() for x in (u, shortcut)]
        parameters = [(x.double() if wide else x.clone()).requires_grad_() for x in values]
        weight, bias, fc1, fc2, bias1, bias2, *of_shortcut = parameters
        tail = residual_tail(
            maps[0],
            Norm(weight, bias) if with_norm else None,
            Excitation(fc1, fc2, bias1, bias2),
            maps[1],
            Norm(*of_shortcut) if with_norm else None,
        )
        leaves = (*maps, *(parameters if with_norm else parameters[2:6]))
        # dy from other layers may come in any memory format
        gradients = torch.autograd.grad(tail.y, leaves, dy.to(tail.y.dtype).contiguous())
        results.append([tail.y.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-5  # a bfloat16 y near 0 may lose its sign
        assert (found.double() - expected).abs().max().item() < tolerance * max(expected.abs().max().item(), 1)


def test_every_batchnorm_of_a_network_runs_on_the_kernels(on_cuda):
    """By default, in a training step: the stem, and two in each of the three units."""
    torch.manual_seed(0)
    model = cifar_resnet(8, se=SEOptions(reduction=4)).to(DEVICE)
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 8, 8, device=DEVICE)
    set_fused(twin, False)
    results = []
    for network in (model, twin):
        with Operators() as operators:
            y = network(x)
            y.square().sum().backward()
        number = 1 + 2 * 3 if network is model else 0
        assert operators.calls == ({f"senet_triton.{name}": number for name in KERNELS} if number else {})
        results.append([y.detach(), *(p.grad for p in network.parameters()), *network.buffers()])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max().item() <= 1e-4 * max(expected.abs().max().item(), 1e-2)


KERNELS = ("moments", "apply", "sums", "gradients")
