"""The end of a residual block, forward and backward.

What does SE add to BatchNorm, sum and ReLU? Ways to compute relu(se(norm(u)) + shortcut) and its gradients, in training
mode and channels-last, at the shapes of the four stages of ResNet-50:
plain, SE: PyTorch's layers one by one, without and with an SE block; once more each with torch.compile.
senet: `senet.ops.residual_tail`, with SE; "senet, no SE" is the same operator for the plain block.

Beside them the least time in which the operator's reads and writes can be done, 11 times the feature map, at the
bandwidth of a copy; where the operator's time goes; and how the times grow with batch and resolution.

Command: python benchmarks/residual_tail.py [--device cuda --batch-size 256]
Cost: five minutes on two CPU cores; needs a C++ compiler.
Results: benchmarks/results/residual_tail.json, or residual_tail_cuda.json.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from report import DTYPES, Device, Precision, bounds, milliseconds, results_file, time_in_turn, write_results
from senet import SEBlock
from senet.nn.fused import Fusible
from senet.ops.operators import namespace_for
from senet.ops.plain import Affine, Slope

STAGES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
"""Channels and side of the last feature map of a block in each stage."""
MAPS_MOVED = 11
"""Forward u twice, shortcut, y; backward dy, y, u, g written; g, u, du."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        device: cpu or cuda.
        batch_size: images.
        rounds: of all contestants in turn.
        growth: also measure other batches and resolutions.
    """

    device: Device = "cpu"
    batch_size: int = 16
    rounds: int = 15
    growth: bool = True


class Tail(Fusible):
    """BatchNorm, SE or not, sum and ReLU; `fused` says how."""

    def __init__(self, channels: int, se: bool, fused: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.se = SEBlock(channels) if se else None
        self.fused = fused

    def forward(self, u: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C, H, W) twice -> (N, C, H, W)."""
        if self.fused:
            return self.tail(u, self.norm, self.se, shortcut)
        out = self.norm(u)
        out = out if self.se is None else self.se(out)
        out += shortcut
        return F.relu(out, inplace=True)


def steps(
    shape: tuple[int, int, int], precision: Precision, device: Device, compiled: bool = True
) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Return what is timed at (batch, channels, side), and the MB that each keeps for its backward pass beside u."""
    batch, channels, side = shape
    torch.manual_seed(0)
    u, shortcut, dy = (
        torch.randn(batch, channels, side, side, device=device, dtype=DTYPES[precision]).to(
            memory_format=torch.channels_last
        )
        for _ in range(3)
    )
    u.requires_grad_(), shortcut.requires_grad_()
    new = partial(Tail, channels)
    tails: dict[str, Any] = {
        "plain": new(se=False, fused=False),
        "SE": new(se=True, fused=False),
        "senet": new(se=True, fused=True),
        "senet, no SE": new(se=False, fused=True),
    }
    tails = {name: tail.to(device) for name, tail in tails.items()}
    if precision != "fp32":  # BatchNorm keeps float32, as under autocast
        for name in ("plain", "SE"):
            tails[name].se = tails[name].se if tails[name].se is None else tails[name].se.to(DTYPES[precision])
    leaves = {name: [u, shortcut, *tail.parameters()] for name, tail in tails.items()}
    if compiled:
        torch._dynamo.reset()
        for name in ("plain", "SE"):
            tails[f"{name}, compiled"] = torch.compile(tails[name])
            leaves[f"{name}, compiled"] = leaves[name]

    def step(name: str) -> None:
        torch.autograd.grad(tails[name](u, shortcut), leaves[name], dy)

    kept = {name: saved_bytes(tails[name], u, shortcut) / 1e6 for name in tails if "compiled" not in name}
    return {name: partial(step, name) for name in tails}, kept


def saved_bytes(tail: Callable[[Tensor, Tensor], Tensor], u: Tensor, shortcut: Tensor) -> int:
    """Count the bytes of different tensors that the backward pass keeps, without u and the parameters."""
    seen = {u.data_ptr(): 0}

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter):
            seen.setdefault(x.data_ptr(), x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kept = tail(u, shortcut)
    del kept
    return sum(seen.values())


def kernels(shape: tuple[int, int, int], precision: Precision, device: Device) -> dict[str, Callable[[], object]]:
    """Return calls of the four operators at (batch, channels, side), as SE with a shortcut makes them, and a copy."""
    batch, channels, side = shape
    operators = getattr(torch.ops, namespace_for(device))
    u, shortcut, dy, y = (
        torch.randn(batch, channels, side, side, device=device)
        .to(DTYPES[precision])
        .to(memory_format=torch.channels_last)
        for _ in range(4)
    )
    matrix, vector = torch.rand(batch, channels, device=device), torch.rand(channels, device=device)
    affine, slope = Affine(vector, matrix, matrix), Slope(vector, matrix, vector, matrix)
    return {
        "moments": partial(operators.moments, u, True),
        "apply": partial(operators.apply, u, affine, shortcut, (), True),
        "sums": partial(operators.sums, dy, u, vector, y, (), None, None),
        "gradients": partial(operators.gradients, dy, u, slope, (), None, ()),
        "copy": partial(torch.Tensor.copy_, torch.empty_like(u), u),
    }


def parts(shape: tuple[int, int, int], precision: Precision, rounds: int) -> dict[str, float]:
    """Return the milliseconds of the four operators, the excitation's six matrix products, and of all, on the CPU."""
    batch, channels, _ = shape
    contestants, _ = steps(shape, precision, "cpu", compiled=False)
    z, h = torch.randn(batch, channels), torch.randn(batch, max(1, channels // 16))
    fc = torch.randn(h.shape[1], channels)

    def excitation() -> None:
        F.linear(z, fc), F.linear(h, fc.T), z @ fc.T, h @ fc, h.T @ z, z.T @ h

    runs = kernels(shape, precision, "cpu")
    runs.pop("copy")
    seconds = time_in_turn({**runs, "excitation": excitation, "all": contestants["senet"]}, rounds)
    return {name: float(f"{statistics.median(times) * 1e3:.4g}") for name, times in seconds.items()}


def measure(shape: tuple[int, int, int], precision: Precision, arguments: Arguments, compiled: bool) -> dict[str, Any]:
    """Time all contestants at one shape."""
    contestants, kept = steps(shape, precision, arguments.device, compiled)
    calls = max(1, int(2e7 * (16 if arguments.device == "cuda" else 1)) // (shape[0] * shape[1] * shape[2] ** 2))
    seconds = time_in_turn(contestants, arguments.rounds, min(calls, 50), arguments.device)
    values = shape[0] * shape[1] * shape[2] ** 2
    print(shape, precision, {name: round(sorted(s)[len(s) // 2] * 1e3, 2) for name, s in seconds.items()}, flush=True)
    return {
        "batch": shape[0],
        "channels": shape[1],
        "side": shape[2],
        "precision": precision,
        "least_mb_moved": MAPS_MOVED * values * DTYPES[precision].itemsize / 1e6,
        "mb_kept": kept,
        "milliseconds": milliseconds(seconds),
    }


def main(arguments: Arguments) -> None:
    """Measure the stages, then growth."""
    of_machine = bounds(arguments.device)
    stages = [
        measure((arguments.batch_size, *stage), precision, arguments, compiled=True)
        for precision in get_args(Precision)
        for stage in STAGES
    ]
    if arguments.device == "cpu":
        for one in stages:
            shape = (arguments.batch_size, one["channels"], one["side"])
            one["parts"] = parts(shape, one["precision"], arguments.rounds)
            print(shape, one["precision"], one["parts"], flush=True)
    growth = []
    if arguments.growth:
        shapes = [(batch, 512, 28) for batch in (1, 4, 16, 64)] + [(16, 256, side) for side in (7, 14, 28, 56, 112)]
        growth = [measure(shape, "fp32", arguments, compiled=False) for shape in shapes]
    results = {"settings": asdict(arguments), "bounds": of_machine, "stages": stages, "growth": growth}
    write_results(results_file("residual_tail", arguments.device), results, ("torch", "triton"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
