"""How many kernels inference of ResNet-50 launches on a GPU, with SE and without, counted where there is no GPU.

torch.compile writes its code for tensors without values on an H100 that is not there; launches are counted in it. At
batch 1 each takes about 2 us on an H100, and a plain ResNet-50 405 us in all (bfloat16, captured in a CUDA graph).

Networks: timm's resnet50 and seresnet50 as they are, and SE-ResNet-50 as `senet.optimize_for_inference` rewrites it for
large batches, and for small ones with the kernels of `senet.ops.gate`.

Command: python benchmarks/gpu_launches.py
Cost: two minutes on two CPU cores. It replaces private functions of PyTorch, so another version may need others.
Results: benchmarks/results/gpu_launches.json.
"""

import copy
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import timm
import torch
import triton
from torch import nn
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget

from report import RESULTS, write_results
from senet.optimization.lowering import lower
from senet.optimization.rewriting import rewrite

H100 = SimpleNamespace(
    name="NVIDIA H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 << 30,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block_optin=232448,
    L2_cache_size=50 << 20,
)
REPLACED: dict[str, object] = {
    "torch.cuda.is_available": lambda: True,
    "torch.cuda.device_count": lambda: 1,
    "torch.cuda.current_device": lambda: 0,
    "torch.cuda.get_device_properties": lambda _=None: H100,
    "torch.cuda.get_device_capability": lambda _=None: (9, 0),
    "torch.cuda.is_current_stream_capturing": lambda: False,
    "torch.cuda.synchronize": lambda _=None: None,
    "torch.cuda.get_rng_state": lambda _=None: torch.empty(0),
    "torch.cuda.set_rng_state": lambda *_: None,
    "torch.cuda._lazy_init": lambda: None,
    "torch.cuda._exchange_device": lambda _: 0,
    "torch.cuda._maybe_exchange_device": lambda _: 0,
    # What cuDNN answers for channels-last maps.
    "torch._C._conv_determine_backend_memory_format": lambda *_: torch.channels_last,
    # Patterns of attention, which are traced with true tensors.
    "torch._inductor.fx_passes.joint_graph.lazy_init": lambda *_, **__: None,
    "torch._inductor.fx_passes.post_grad.lazy_init": lambda *_, **__: None,
}
"""The names of functions that ask the GPU -> what answers for it."""


class Driver:
    """Answers for Triton's driver."""

    def get_current_target(self) -> GPUTarget:
        """Return an H100."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """Return the first device."""
        return 0


class WrittenError(Exception):
    """The code is there; compiling it further needs a GPU.

    Args:
        code: in Python.
    """

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code


def without_values(network: nn.Module, *, trained: bool = False) -> None:
    """Replace the weights by such without values on a GPU, with gradients if the network is trained."""
    for module in network.modules():
        both: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in both:
            for name, value in tensors.items():
                if value is not None:
                    empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
                    is_weight = isinstance(value, nn.Parameter)
                    tensors[name] = nn.Parameter(empty, requires_grad=trained) if is_weight else empty


@contextmanager
def pretending() -> Iterator[ExitStack]:
    """Pretend meanwhile that there is a GPU; what else is entered with the stack ends with it."""
    with ExitStack() as stack:
        for name, replacement in REPLACED.items():
            stack.enter_context(patch(name, replacement))
        for name in ("get_device_properties", "get_compute_capability", "is_available", "device_count"):
            answer = {"get_device_properties": H100, "get_compute_capability": 90}.get(name, 1)
            stack.enter_context(patch.object(CudaInterface, name, staticmethod(lambda _=None, a=answer: a)))
        stack.enter_context(
            patch.object(CudaInterface.Worker, "get_device_properties", staticmethod(lambda _=None: H100))
        )
        stack.enter_context(patch.object(triton.runtime.driver, "_active", Driver()))
        yield stack


@torch.no_grad()
def code_of(network: nn.Module, batch: int, side: int) -> str:
    """Return the code that torch.compile writes for a network in bfloat16 and frozen, channels-last."""
    network = copy.deepcopy(network).to(torch.bfloat16).to(memory_format=torch.channels_last)
    torch._dynamo.reset()
    write = GraphLowering.codegen

    def stop(graph: Any) -> None:
        raise WrittenError(write(graph)[0].value)

    with FakeTensorMode(), pretending() as stack:
        stack.enter_context(patch.object(GraphLowering, "codegen", stop))
        stack.enter_context(torch._inductor.config.patch(freezing=True))
        without_values(network)
        x = torch.empty(batch, 3, side, side, device="cuda", dtype=torch.bfloat16)
        try:
            torch.compile(network, fullgraph=True, dynamic=False)(x.to(memory_format=torch.channels_last))
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, WrittenError):
                cause = getattr(cause, "inner_exception", None) or cause.__cause__ or cause.__context__
            if cause is None:
                raise
            return cause.code
    raise AssertionError("torch.compile wrote no code")


def launches(code: str) -> dict[str, int]:
    """Count the launches in the code by kinds: generated kernels by what they compute, and calls of libraries."""
    calls = re.findall(r"(\w+)\.run\(|extern_kernels\.(\w+)\(", code[code.index("def call(") :])
    return dict(Counter(re.sub(r"_\d+$", "", kernel or library) for kernel, library in calls))


def main() -> None:
    """Count for each network, print and write."""
    warnings.filterwarnings("ignore", category=UserWarning)
    rewritten = rewrite(timm.create_model("seresnet50"))
    networks: dict[str, nn.Module] = {
        "timm resnet50": timm.create_model("resnet50").eval(),
        "timm seresnet50": timm.create_model("seresnet50").eval(),
        "senet, large batches": rewritten,
        "senet, small batches": lower(rewritten),
    }
    found = {}
    for name, network in networks.items():
        found[name] = launches(code_of(network, 1, 224))
        print(f"{name}: {sum(found[name].values())} launches, {found[name]}")
    write_results(RESULTS / "gpu_launches.json", {"batch": 1, "launches": found}, ("torch", "timm", "triton"))


if __name__ == "__main__":
    main()
