"""Compile the Triton kernels for a GPU that need not be there, for tests/ops/test_cuda.py."""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from senet.ops import cuda

NUMBERS = ("C", "M", "stride_n", "stride_m", "per_image", "slope_per_image")
MAPS = ("u", "w", "y", "dy", "g", "du")
for name in ("moments_kernel", "apply_kernel", "sums_kernel", "gradients_kernel"):
    kernel = getattr(cuda, name)
    constants = {"BM": 32, "BC": 128, "stride_c": 1, "kind": 2, "relu": True, "second": True}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature = {a: "i32" if a in NUMBERS else "*bf16" if a in MAPS else "*fp32" for a in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {a: (kernel.arg_names.index(a),) for a in kernel.arg_names}
    aligned = {places[a]: [["tt.divisibility", 16]] for a in kernel.arg_names if a not in constants}
    source = ASTSource(kernel, signature, {places[a]: v for a, v in constants.items()}, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    print(name, *sorted(set(re.findall(r"(?:ld|st)[.]global[.]v4[.]\S+", ptx))))
