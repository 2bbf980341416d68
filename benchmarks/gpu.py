"""Everything on a GPU in one command: is the operator exact, how near its kernels are to a copy, what does SE cost.

1. Exactness: outputs and every gradient of `senet.ops.residual_tail` against autograd of the plain formula in float64,
   and timm's seresnet50, optimized, against itself as it was.
2. The four kernels at the shapes of ResNet-50: bytes that must move over time, beside the bandwidth of a copy.
3. `residual_tail.py`, `training_step.py` and `inference.py` on the GPU.

Command: python benchmarks/gpu.py [--batch-size 256]
Cost: ten minutes and 40 GB on an H100. It ends with exit status 1 if something is not exact, 2 without a GPU.
Results: benchmarks/results/gpu.json, residual_tail_cuda.json, training_step_cuda.json, inference_cuda.json.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any, get_args

import timm
import torch
import torch.nn.functional as F
import tyro
from senet.ops.dispatch import passes_for
from senet.ops.passes import Affine, Branches, Slope
from torch import Tensor

import inference
import residual_tail
import senet
import training_step
from report import DTYPES, RESULTS, Device, Precision, bounds, milliseconds, time_in_turn, write_results
from senet.ops import Excitation, Norm

TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float64: 1e-11}
SHAPES = ((1, 1, 2, 1), (2, 37, 5, 7), (3, 130, 1, 1), (2, 3, 9, 60), (8, 256, 14, 14), (4, 2048, 7, 7))
MAPS = {"moments": 1, "apply": 3, "sums": 4, "gradients": 3}
"""Feature maps that each kernel reads and writes, with a shortcut."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        device: cpu only tries the checks and the kernels' timing out, on the processor's passes.
        batch_size: images, of the throughput benchmarks.
        rounds: of all contestants in turn.
        checks_only: stop after the checks.
    """

    device: Device = "cuda"
    batch_size: int = 256
    rounds: int = 15
    checks_only: bool = False


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

    acc = torch.float64 if dtype == torch.float64 else torch.float32
    maps = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in (u, w)]
    weight, bias, fc1, fc2, bias1, bias2, *of_w = own = [v.to(acc).requires_grad_() for v in values]
    norm, w_norm = (Norm(weight, bias), Norm(*of_w)) if with_norms else (None, None)
    y = senet.ops.residual_tail(maps[0], norm, Excitation(fc1, fc2, bias1, bias2), maps[1], w_norm).y
    found = [y, *torch.autograd.grad(y, (*maps, *own), dy, allow_unused=True)]
    largest = [
        ((a.double() - b).abs().max() / b.abs().max().clamp_min(0.1)).item()
        for a, b in zip(found, expected, strict=True)
        if a is not None and b is not None
    ]
    return max(largest)


def check(device: Device) -> tuple[list[dict[str, Any]], bool]:
    """Compare with float64 in all shapes, types and layouts; return what was found and whether all of it is near."""
    found: list[dict[str, Any]] = []
    for shape, dtype, last, with_norms in product(SHAPES, TOLERANCES, (True, False), (True, False)):
        value = difference(shape, dtype, last, with_norms, device)
        near = value < TOLERANCES[dtype]
        setting = {"shape": shape, "dtype": str(dtype), "channels_last": last, "norms": with_norms}
        found.append({**setting, "difference": value, "tolerance": TOLERANCES[dtype], "near": near})
        if not near:
            print(f"differs: {found[-1]}")
    model = timm.create_model("seresnet50").to(device, torch.float64, memory_format=torch.channels_last)
    x = torch.randn(4, 3, 96, 96, device=device, dtype=torch.float64)
    fused = senet.fuse(copy.deepcopy(model))
    value = ((fused(x) - model(x)).abs().max() / model(x).abs().max()).item()
    found.append({"network": "timm seresnet50", "dtype": "torch.float64", "difference": value, "near": value < 1e-9})
    passed = [bool(one["near"]) for one in found]
    print(f"{sum(passed)} of {len(passed)} checks passed")
    return found, all(passed)


def kernels(batch: int, rounds: int, device: Device) -> list[dict[str, Any]]:
    """Time the kernels beside a copy of as many bytes."""
    found = []
    for precision, (channels, side) in product(get_args(Precision), residual_tail.STAGES):
        dtype, passes = DTYPES[precision], passes_for(device, DTYPES[precision])
        u, w, dy, y = (
            torch.randn(batch, channels, side, side, device=device).to(dtype).to(memory_format=torch.channels_last)
            for _ in range(4)
        )
        matrix, vector = torch.rand(batch, channels, device=device), torch.rand(channels, device=device)
        branches = Branches(u, Affine(vector, matrix, matrix), True, w)
        slope = Slope(matrix, vector, matrix)
        runs: dict[str, Callable[[], object]] = {
            "moments": partial(passes.moments, u, True),
            "apply": partial(passes.apply, branches),
            "sums": partial(passes.sums, dy, y, branches),
            "gradients": partial(passes.gradients, dy, branches, slope, None),
            "copy": partial(torch.Tensor.copy_, y, u),
        }
        seconds = time_in_turn(runs, rounds, 20, device)
        rates = {
            name: MAPS.get(name, 2) * u.nbytes / sorted(times)[len(times) // 2] / 1e9 for name, times in seconds.items()
        }
        shares = {name: round(rate / rates["copy"], 3) for name, rate in rates.items()}
        print(precision, channels, side, {name: f"{rates[name]:.0f} GB/s, {shares[name]:.2f}" for name in rates})
        found.append(
            {
                "precision": precision,
                "batch": batch,
                "channels": channels,
                "side": side,
                "milliseconds": milliseconds(seconds),
                "gb_per_s": rates,
                "share_of_copy": shares,
            }
        )
    return found


def main(arguments: Arguments) -> int:
    """Check, then time; return the exit status."""
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print("gpu.py needs a GPU that PyTorch sees; the other benchmarks run on the CPU", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    checks, passed = check(device)
    if arguments.checks_only or not passed:
        return 0 if passed else 1
    timed = kernels(arguments.batch_size, arguments.rounds, device)
    if device == "cpu":
        return 0
    results = {"settings": asdict(arguments), "bounds": bounds("cuda"), "checks": checks, "kernels": timed}
    write_results(RESULTS / "gpu.json", results, ("torch", "timm", "triton"))
    batch = arguments.batch_size
    residual_tail.main(residual_tail.Arguments(device="cuda", batch_size=batch))
    training_step.main(training_step.Arguments(device="cuda", batch_size=batch, precisions=("bf16",)))
    inference.main(inference.Arguments(device="cuda", batch_sizes=(1, 16, batch)))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
