"""Print what a compiler for a GPU gets of ResNet-50 and SE-ResNet-50, without one, for tests/ops/test_gate.py."""

import logging
from collections import Counter

import torch
from torch import fx, nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode

import senet
from senet.optimization.lowering import lower
from senet.optimization.rewriting import rewrite

# Without a GPU, PyTorch cannot tell which arguments a kernel writes, and says so for each.
logging.getLogger("torch._higher_order_ops.triton_kernel_wrap").setLevel(logging.ERROR)


def like(x: torch.Tensor) -> torch.Tensor:
    """Return a tensor without values on a GPU."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


@torch.no_grad()
def operators(network: nn.Module) -> Counter[str]:
    """Count the operators of a network that a compiler gets."""
    found: Counter[str] = Counter()

    def count(graph: fx.GraphModule, _: object) -> fx.GraphModule:
        names = (str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        found.update(name for name in names if "getitem" not in name)
        return graph

    with FakeTensorMode():
        for module in network.modules():
            for name, value in module._parameters.items():
                module._parameters[name] = None if value is None else nn.Parameter(like(value), requires_grad=False)
            for name, value in module._buffers.items():
                module._buffers[name] = None if value is None else like(value)
        x = torch.empty(1, 3, 224, 224, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        torch.compile(network, backend=aot_autograd(fw_compiler=count), fullgraph=True, dynamic=False)(x)
    return found


for name in ("resnet50", "se_resnet50"):
    graph = rewrite(senet.create_model(name)).to(torch.bfloat16).to(memory_format=torch.channels_last)
    print(*(f"{operator}={count}" for operator, count in operators(lower(graph)).items()))
