"""Compile the kernels, use them, and tell whether they are there, for tests/ops/test_cpu.py."""

import sys
import warnings

import torch

from senet.ops import Norm, residual_tail
from senet.ops.operators import has_kernels

dtype = getattr(torch, sys.argv[1])
u = torch.randn(2, 6, 4, 5).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    y = residual_tail(u, Norm(torch.ones(6), torch.zeros(6)), shortcut=u).y
    y.sum().backward()
    residual_tail(u.detach())
    fused = has_kernels("cpu", dtype)
exact = u.detach().double()
exact = (torch.nn.functional.batch_norm(exact, None, None, training=True) + exact).relu()
torch.testing.assert_close(y.double(), exact, rtol=1e-2, atol=1e-2)
torch.testing.assert_close(u.grad.isfinite().all(), torch.tensor(True))
print(fused, *[str(w.message) for w in told], sep="|")
