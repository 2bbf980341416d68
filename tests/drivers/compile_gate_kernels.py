"""Compile the kernels of inference for a GPU that need not be there, for tests/ops/test_gate.py."""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from senet.ops import gate_cuda

NUMBERS = ("C", "M", "P", "steps", "stride_m")
STAGES = {16: (32, 64, 128), 128: (32, 64, 16)}
"""K of the first and last stage of SE-ResNet-50 -> BLOCK_M, BLOCK_C and BLOCK_P."""
for kernel in (gate_cuda.squeeze_kernel, gate_cuda.excite_kernel):
    for hidden, (block_m, block_c, block_p) in STAGES.items():
        flags = dict.fromkeys(("has_bias", "has_shortcut", "has_shortcut_bias", "relu"), True)
        block_k = min(hidden, 128 if kernel is gate_cuda.squeeze_kernel else 64)
        sizes = {"K": hidden, "BM": block_m, "BC": block_c, "BK": block_k, "BP": block_p, "stride_c": 1, "kind": 0}
        constants = {key: value for key, value in (flags | sizes).items() if key in kernel.arg_names}
        signature = {a: "i32" if a in NUMBERS else "*fp32" if a == "parts" else "*bf16" for a in kernel.arg_names}
        signature |= dict.fromkeys(constants, "constexpr")
        places = {a: (kernel.arg_names.index(a),) for a in kernel.arg_names}
        aligned = {
            places[a]: [["tt.divisibility", 16]] for a in kernel.arg_names if a not in constants and a not in "MP steps"
        }
        source = ASTSource(kernel, signature, {places[a]: v for a, v in constants.items()}, aligned)
        ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
        print(kernel.__name__, *sorted(set(re.findall(r"(?:ld|st)[.]global[.]v4[.]\S+", ptx))))
