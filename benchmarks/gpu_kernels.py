"""Whether the kernels are exact on this device, and how near they are to a copy of the bytes that they must move."""

import copy
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import senet
from report import DTYPES, Device, Precision, bounds, milliseconds, time_in_turn
from residual_tail import kernels as tail_kernels
from seats import Ready
from senet.ops import Excitation, Norm
from senet.ops.plain import accumulator

TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float64: 1e-11}
SHAPES = ((1, 1, 2, 1), (2, 37, 5, 7), (3, 130, 1, 1), (2, 3, 9, 60), (8, 256, 14, 14), (4, 2048, 7, 7))
MAPS = {"moments": 1, "apply": 3, "sums": 4, "gradients": 3}
"""Feature maps that each kernel reads and writes, with a shortcut."""


def formula(u: Tensor, w: Tensor, values: Sequence[Tensor], with_norms: bool) -> Tensor:
    """Compute the residual tail as the paper writes it."""
    weight, bias, fc1, fc2, bias1, bias2, w_weight, w_bias = values
    out = F.batch_norm(u, None, None, weight, bias, training=True) if with_norms else u
    gate = torch.sigmoid(F.linear(F.linear(out.mean((2, 3)), fc1, bias1).relu(), fc2, bias2))
    shortcut = F.batch_norm(w, None, None, w_weight, w_bias, training=True) if with_norms else w
    return F.relu(out * gate[:, :, None, None] + shortcut)


def difference(
    shape: tuple[int, int, int, int], dtype: torch.dtype, last: bool, with_norms: bool, device: Device
) -> float:
    """Return the largest relative difference of the output and the gradients from float64."""
    torch.manual_seed(0)
    channels, hidden = shape[1], max(1, shape[1] // 16)
    layout = torch.channels_last if last else torch.contiguous_format
    u, w, dy = (torch.randn(shape, device=device).to(dtype).to(memory_format=layout) for _ in range(3))
    shapes = ((channels,), (channels,), (hidden, channels), (channels, hidden), (hidden,), *((channels,),) * 3)
    values = [torch.randn(s, device=device, dtype=torch.float64) / s[-1] ** 0.5 for s in shapes]

    wide = [x.double().requires_grad_() for x in (u, w)]
    exact_values = [v.clone().requires_grad_() for v in values]
    y = formula(wide[0], wide[1], exact_values, with_norms)
    dy = dy * (y > 1e-2)  # where y rounds to zero the sign is a matter of taste
    expected = [y, *torch.autograd.grad(y, (*wide, *exact_values), dy.double(), allow_unused=True)]

    maps = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in (u, w)]
    weight, bias, fc1, fc2, bias1, bias2, *of_w = own = [v.to(accumulator(dtype)).requires_grad_() for v in values]
    norm, w_norm = (Norm(weight, bias), Norm(*of_w)) if with_norms else (None, None)
    y = senet.ops.residual_tail(maps[0], norm, Excitation(fc1, fc2, bias1, bias2), maps[1], w_norm).y
    found = [y, *torch.autograd.grad(y, (*maps, *own), dy, allow_unused=True)]
    largest = [
        ((a.double() - b).abs().max() / b.abs().max().clamp_min(0.1)).item()
        for a, b in zip(found, expected, strict=True)
        if a is not None and b is not None
    ]
    return max(largest)


def check(device: Device, few: bool = False) -> Ready:
    """Compare outputs and every gradient with float64 in all shapes, types and layouts.

    Args:
        device: of the operator.
        few: only some of the shapes, and a small network.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: list[dict[str, Any]] = []
    shapes = SHAPES[:2] if few else SHAPES
    for shape, dtype, last, with_norms in product(shapes, TOLERANCES, (True, False), (True, False)):
        setting = {"shape": shape, "dtype": str(dtype), "channels_last": last, "norms": with_norms}
        value = difference(shape, dtype, last, with_norms, device)
        found.append({**setting, "difference": value, "near": value < TOLERANCES[dtype]})
    name = "seresnet18" if few else "seresnet50"
    value = fused_difference(name, device)
    found.append({"network": f"timm {name}", "dtype": "torch.float64", "difference": value, "near": value < 1e-9})
    wrong = [one for one in found if not one["near"]]
    for one in wrong:
        print(f"differs: {one}", flush=True)
    return Ready(facts={"made": len(found), "passed": len(found) - len(wrong), "wrong": wrong})


def fused_difference(name: str, device: Device) -> float:
    """Return how far one of timm's networks, fused and in training mode, is from itself as it was, in float64."""
    torch.manual_seed(0)
    model = timm.create_model(name).to(device, torch.float64, memory_format=torch.channels_last)
    x = torch.randn(4, 3, 96, 96, device=device, dtype=torch.float64)
    fused = senet.fuse(copy.deepcopy(model))
    y = model(x)
    return float(((fused(x) - y).abs().max() / y.abs().max()).item())


def speeds(device: Device) -> Ready:
    """Measure how fast a copy and a matrix product are."""
    return Ready(facts=bounds(device))


def kernels(precision: Precision, shape: tuple[int, int, int], device: Device, rounds: int) -> Ready:
    """Time the kernels at (batch, channels, side), beside a copy of as many bytes."""
    runs = tail_kernels(shape, precision, device)
    runs = {name: captured(run) for name, run in runs.items()} if device == "cuda" else runs
    seconds = time_in_turn(runs, rounds, 20 if device == "cuda" else 1, device)
    medians = {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}
    gigabytes = shape[0] * shape[1] * shape[2] ** 2 * DTYPES[precision].itemsize / 1e9
    rates = {name: MAPS.get(name, 2) * gigabytes / time for name, time in medians.items()}
    shares = {name: round(rate / rates["copy"], 3) for name, rate in rates.items()}
    return Ready(facts={"milliseconds": milliseconds(seconds), "gb_per_s": rates, "share_of_copy": shares})


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """Record a call as a CUDA graph, after it has run on a side stream, and return what replays it.

    Everything it reads must stay where it is.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles, chooses algorithms, makes the optimizer's state
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.empty_cache()  # the graph has memory of its own
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
