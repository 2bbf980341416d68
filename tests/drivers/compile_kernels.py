"""Compile the kernels that the operators launch for a GPU that need not be there, for tests/ops/test_cuda.py.

Arguments: images, channels, side, type and memory format of a feature map. One line for each kernel: its name, its tile
and warps, the loads and stores of several values in its PTX, how often threads exchange values in a loop, the registers
of a thread, and the bytes that do not fit into them.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from torch._subclasses import FakeTensorMode
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from senet.ops import cuda

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.float64: "*fp64"}
SIZES = ("U", "BM", "BC")
launches = {}


class Recorder:
    """Stands for a kernel and notes with which arguments it would be launched."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return self.record

    def record(self, *arguments, num_warps=4):
        signature, constants, aligned = {}, {}, {}
        for place, (parameter, value) in enumerate(zip(self.kernel.params, arguments, strict=True)):
            name = parameter.name
            if parameter.is_constexpr:
                signature[name], constants[(place,)] = "constexpr", value
                continue
            signature[name] = TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"
            if isinstance(value, torch.Tensor):
                aligned[(place,)] = [["tt.divisibility", 16]]
        found = (self.kernel, signature, constants, aligned, num_warps)
        launches.setdefault(
            (self.kernel.__name__, *signature.values(), *constants.values(), *aligned, num_warps), found
        )


def call_all(images, channels, side, dtype, layout):
    """Call the operators as networks do: with a plain shortcut, with one that has a norm, and without one."""
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    with FakeTensorMode():
        u = torch.empty(images, channels, side, side, dtype=dtype, device="cuda").to(memory_format=layout)
        c = torch.empty(channels, dtype=acc, device="cuda")
        nc = torch.empty(images, channels, dtype=acc, device="cuda")
        affine, own = [c, nc, nc], [c, c, c]
        cuda.moments(u, True)
        cuda.apply(u, affine, u, [], True)
        cuda.apply(u, affine, u, own, True)
        cuda.apply(u, own, None, [], True)
        cuda.sums(u, u, c, u, [], None, None)
        cuda.sums(u, u, c, u, [], u, c)
        cuda.sums(u, u, c, None, own, None, None)
        cuda.gradients(u, u, [c, nc, c, nc], [], None, [])
        cuda.gradients(u, u, [c, nc, c, nc], [], u, [c, c, c, c])
        cuda.gradients(u, u, [c, c, c, c], own, None, [])


def loops(ptx):
    """Return the instructions of loops: between a label and a branch back to it."""
    for label in re.finditer(r"^(\$L\w+):", ptx, re.MULTILINE):
        for branch in re.finditer(rf"bra\S*\s+{re.escape(label[1])};", ptx):
            if branch.start() > label.start():
                yield ptx[label.start() : branch.start()]


def assembled(ptx):
    """Return the registers of a thread and the bytes spilled, as the assembler says."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        words = [
            Path(nvidia.__file__).parent / "bin" / "ptxas",
            "-v",
            "--gpu-name=sm_90a",
            "-o",
            source.with_suffix(".o"),
        ]
        said = subprocess.run([*words, source], capture_output=True, text=True, check=True).stderr
    spilled = sum(map(int, re.findall(r"(\d+) bytes spill", said)))
    return re.search(r"Used (\d+) registers", said)[1], spilled


images, channels, side = map(int, sys.argv[1:4])
for name in ("moments", "merge_moments", "apply", "sums", "merge_sums", "gradients"):
    setattr(cuda, f"{name}_kernel", Recorder(getattr(cuda, f"{name}_kernel")))
cuda.for_tensors = lambda kernel, _: kernel
call_all(images, channels, side, *(getattr(torch, word) for word in sys.argv[4:6]))
for kernel, signature, constants, aligned, num_warps in launches.values():
    source = ASTSource(kernel, signature, constants, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps}).asm["ptx"]
    moves = ",".join(sorted(set(re.findall(r"(?:ld|st)[.]global[.]v\S+", ptx)))) or "-"
    exchanges = sum(len(re.findall(r"shfl|bar[.]sync", body)) for body in loops(ptx))
    tile = "x".join(str(value) for (place,), value in constants.items() if kernel.params[place].name in SIZES)
    print(kernel.__name__, f"{tile or '-'}/{num_warps}", moves, exchanges, *assembled(ptx))
