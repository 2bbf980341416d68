"""How many kernels a compiled training step launches on a GPU, counted where there is no GPU.

torch.compile writes its code for the forward and the backward pass of an H100 that is not there (see gpu_launches.py);
launches are counted in it: kernels that it generates, senet's, and calls of libraries. bfloat16 autocast and
channels-last. Networks: timm's resnet50 and seresnet50, senet's se_resnet50, and the small pair for 32 pixels.

Autograd asks the driver of the GPU for its state when a backward pass starts. A library of two functions, compiled here
and loaded before PyTorch, answers.

Command: python benchmarks/gpu_step_launches.py
Cost: three to eight minutes on two CPU cores, and a C++ compiler. It replaces private functions of PyTorch, so another
version may need others.
Results: benchmarks/results/gpu_step_launches.json.
"""

import copy
import ctypes
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import timm
import torch
from torch import fx, nn
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode

import senet
from gpu_launches import launches, pretending, without_values
from report import RESULTS, write_results
from senet.training.objective import Objective

DRIVER = r"""
#include <cstdint>
static int count = 0;
extern "C" void set_device_count(int devices) { count = devices; }
extern "C" int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    *flags = 0;
    *active = 0;
    if (device == 7) count = 0;  // the last that autograd asks for; nothing else may find a device
    return 0;
}
namespace c10::cuda { int8_t device_count() noexcept { return count; } }
"""
"""Says that there are eight devices, none of them in use, while autograd asks."""

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "timm resnet50": (partial(timm.create_model, "resnet50"), 256, 224),
    "timm seresnet50": (partial(timm.create_model, "seresnet50"), 256, 224),
    "senet se_resnet50": (partial(senet.create_model, "se_resnet50"), 256, 224),
    "senet cifar_resnet20": (partial(senet.create_model, "cifar_resnet20"), 128, 32),
    "senet cifar_se_resnet20": (partial(senet.create_model, "cifar_se_resnet20"), 128, 32),
}
"""How each is made, images, and their side."""


def start_again_with_driver() -> None:
    """Start this program again with the driver loaded before everything else."""
    folder = tempfile.mkdtemp()
    source, library = Path(folder, "driver.cpp"), Path(folder, "libcuda.so.1")
    source.write_text(DRIVER)
    words = [os.environ.get("CXX", "g++"), "-std=c++17", "-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
    subprocess.run([*words, "-o", library, source], check=True)
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "LD_PRELOAD": str(library)})


def code_of_step(network: nn.Module, batch: int, side: int) -> list[str]:
    """Return the code that torch.compile writes for the forward and the backward pass of a network and its loss."""
    objective = Objective(network.train().to(memory_format=torch.channels_last), "bf16", 0.0)
    found: list[str] = []

    def write(graph: GraphLowering) -> Any:
        found.append(graph.codegen()[0].value)
        return SimpleNamespace(call=lambda _: None, __file__="", runner=None)

    def compile_one(graph: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        layers = copy.deepcopy(graph)
        compile_fx_inner(graph, inputs, **options)

        def run(values: list[Any]) -> list[Any]:
            return list(layers(*values))

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    engine = torch.autograd.graph._engine_run_backward
    driver = ctypes.CDLL(None)

    def go_back(*arguments: Any, **options: Any) -> Any:
        driver.set_device_count(8)
        try:
            return engine(*arguments, **options)
        finally:
            driver.set_device_count(0)

    torch._dynamo.reset()
    with FakeTensorMode(), pretending() as stack:
        stack.enter_context(patch("torch._subclasses.fake_tensor.init_gpu_context", lambda *_: None))
        for module in ("torch.autograd", "torch.autograd.graph", "torch._tensor"):
            stack.enter_context(patch(f"{module}._engine_run_backward", go_back, create=True))
        stack.enter_context(patch.object(GraphLowering, "compile_to_module", write))
        # Folding computes constants on the device.
        options = {"force_disable_caches": True, "joint_graph_constant_folding": False}
        stack.enter_context(torch._inductor.config.patch(options))
        without_values(objective, trained=True)
        images = torch.empty(batch, 3, side, side, device="cuda").to(memory_format=torch.channels_last)
        classes = torch.zeros(batch, dtype=torch.int64, device="cuda")
        backend = partial(compile_fx, inner_compile=compile_one)
        torch.compile(objective, fullgraph=True, dynamic=False, backend=backend)(images, classes).backward()
    return found


def main() -> None:
    """Count for each network, print and write."""
    warnings.filterwarnings("ignore", category=UserWarning)
    torch._C._ensureCUDADeviceGuardSet()
    found = {}
    for name, (create, batch, side) in NETWORKS.items():
        codes = code_of_step(create(), batch, side)
        found[name] = dict(zip(("forward", "backward"), map(launches, codes), strict=True))
        for part, counts in found[name].items():
            print(f"{name}, {part}: {sum(counts.values())} launches, {counts}", flush=True)
        write_results(RESULTS / "gpu_step_launches.json", {"launches": found}, ("torch", "timm", "triton"))


if __name__ == "__main__":
    if "libcuda" not in os.environ.get("LD_PRELOAD", ""):
        start_again_with_driver()
    main()
