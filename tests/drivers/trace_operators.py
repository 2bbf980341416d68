"""Trace the operators as torch.compile does for CUDA, with tensors that are not there, for tests/ops/test_cuda.py.

Arguments: images, and `static` or `dynamic`. One line for each node of the graph: a kernel, its grid, and the arguments
that it writes to; or another operator.
"""

import sys
from types import SimpleNamespace

import torch
import triton
from torch._dynamo.backends.common import aot_autograd
from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget

import senet.ops.cuda  # noqa: F401

OPERATORS = torch.ops.senet_triton


def tail(u, dy, center_C, scale_NC, shift_NC):
    """Run a residual tail with a plain shortcut, forward and backward."""
    affine = [center_C, scale_NC, shift_NC]
    mean_NC, q_NC = OPERATORS.moments(u, True)
    y = OPERATORS.apply(u, affine, u, [], True)
    A_NC, B_NC, _, g = OPERATORS.sums(dy, u, center_C, y, [], None, None)
    du, _ = OPERATORS.gradients(g, u, [center_C, scale_NC, center_C, shift_NC], [], None, [])
    return mean_NC, q_NC, y, A_NC, B_NC, du


def show(graph, _):
    """Print the nodes of a graph."""
    for node in graph.graph.nodes:
        if "triton_kernel_wrapper" in str(node.target):
            kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
            name = getattr(kernel, "fn", kernel).__name__  # with num_warps it is an autotuner of one configuration
            print("kernel", name, str(node.kwargs["grid"]).replace(" ", ""), ",".join(node.kwargs["tensors_to_clone"]))
        elif node.op == "call_function" and "getitem" not in str(node.target):
            print("operator", node.target)
    return graph


# which arguments a kernel writes to is read from its code, which is made for the GPU that Triton thinks it has
target = GPUTarget("cuda", 90, 32)
triton.runtime.driver.set_active(SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0))
images, channels, side = int(sys.argv[1]), 256, 56
with FakeTensorMode():
    u, dy = (torch.empty(images, channels, side, side, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    maps = (x.to(memory_format=torch.channels_last) for x in (u, dy))
    vectors = (torch.empty(shape, device="cuda") for shape in ((channels,), (images, channels), (images, channels)))
    compiled = torch.compile(
        tail, backend=aot_autograd(fw_compiler=show), dynamic=sys.argv[2] == "dynamic", fullgraph=True
    )
    compiled(*maps, *vectors)
