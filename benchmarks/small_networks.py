"""Small maps and small networks on the CPU, where Python and PyTorch take as long as the arithmetic.

Tails: BatchNorm, sum and ReLU (plain), with SE layer by layer (SE), and by the operator (senet), forward and backward.
Training steps, SGD: cifar_resnet20 (plain), cifar_se_resnet20 layer by layer (SE), with its fused operator (senet), and
as `senet.create_model` builds it (as built): on 32 images of `senet demo`, and on 128 of CIFAR.

Command: make bench, or python benchmarks/small_networks.py
Cost: two minutes on two CPU cores; needs a C++ compiler.
Results: benchmarks/results/small_networks.json
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import nn

import residual_tail
import senet
from report import milliseconds, results_file, time_in_turn, write_results

TAILS = ((32, 16, 8), (32, 64, 2), (128, 16, 32), (128, 64, 8))
"""Batch, channels and side: of the first and last stage of the small networks below."""
STEPS = ((32, 1, 8), (128, 3, 32))
"""Batch, channels of the images and side."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: of all contestants in turn.
    """

    rounds: int = 15


class Step:
    """A training step; calling it does one."""

    def __init__(self, model: nn.Module, batch: int, channels: int, side: int) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self.images, self.labels = torch.randn(batch, channels, side, side), torch.randint(10, (batch,))

    def __call__(self) -> None:
        """Forward, backward, update."""
        F.cross_entropy(self.model(self.images), self.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def networks(channels: int) -> dict[str, nn.Module]:
    """Build the contestants for images of this number of channels."""
    new = partial(senet.create_model, num_classes=10, in_channels=channels)
    return {
        "plain": senet.unfuse(new("cifar_resnet20")),
        "SE": senet.unfuse(new("cifar_se_resnet20")),
        "senet": senet.fuse(new("cifar_se_resnet20")),
        "as built": new("cifar_se_resnet20"),
    }


def tail(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Time the ways to compute a tail."""
    contestants, _ = residual_tail.steps(shape, "fp32", "cpu", compiled=False)
    calls = max(1, min(200, 20_000_000 // (shape[0] * shape[1] * shape[2] ** 2)))
    batch, channels, side = shape
    return {"batch": batch, "channels": channels, "side": side, **timed(contestants, rounds, calls)}


def step(shape: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Time a training step of each network."""
    batch, channels, side = shape
    contestants = {name: Step(model, *shape) for name, model in networks(channels).items()}
    calls = max(1, 10_000 // (batch * side**2))
    return {"batch": batch, "in_channels": channels, "side": side, **timed(contestants, rounds, calls)}


def timed(contestants: dict[str, Any], rounds: int, calls: int) -> dict[str, Any]:
    """Time contestants in turn, after a warm-up."""
    run: Callable[[], object]
    for run in contestants.values():
        for _ in range(calls):
            run()
    times = milliseconds(time_in_turn(contestants, rounds, calls))
    print({name: sorted(rounds)[len(rounds) // 2] for name, rounds in times.items()}, flush=True)
    return {"milliseconds": times}


def main(arguments: Arguments) -> None:
    """Measure tails, then steps."""
    tails = [tail(shape, arguments.rounds) for shape in TAILS]
    steps = [step(shape, arguments.rounds) for shape in STEPS]
    write_results(
        results_file("small_networks", "cpu"), {"settings": asdict(arguments), "tails": tails, "steps": steps}
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
