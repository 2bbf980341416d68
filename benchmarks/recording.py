"""What recording the gates costs, beside the forward pass alone.

Networks: SE-ResNet-50 (senet's and timm's, 16 images of 224 pixels) and the CIFAR network of the package (64 images).
In turn: the forward pass, and the same with `senet.analysis.recording.GateRecorder`, which keeps count, mean, variance
and histograms of all gates of 1000 (CIFAR: 10) classes.

Command: python benchmarks/recording.py
Cost: two minutes on two CPU cores.
Results: benchmarks/results/recording.json.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torch
import tyro
from torch import Tensor, nn

import senet
from report import RESULTS, Device, milliseconds, time_in_turn, write_results
from senet.analysis.gates import find_blocks
from senet.analysis.recording import GateRecorder

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "senet se_resnet50": (lambda: senet.create_model("se_resnet50"), 16, 224, 1000),
    "timm seresnet50": (lambda: timm.create_model("seresnet50"), 16, 224, 1000),
    "senet cifar_se_resnet20": (lambda: senet.create_model("cifar_se_resnet20"), 64, 32, 10),
}
"""How each is made; images at once, their side, and the number of classes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        device: cpu or cuda.
        rounds: of all contestants in turn.
    """

    device: Device = "cpu"
    rounds: int = 15


@torch.no_grad()
def main(arguments: Arguments) -> None:
    """Time each network alone and recorded, in turn."""
    runs: dict[str, Callable[[], Tensor]] = {}
    for name, (create, batch, side, num_classes) in NETWORKS.items():
        model = create().eval().to(arguments.device)
        images = torch.randn(batch, 3, side, side, device=arguments.device)
        labels = torch.arange(batch, device=arguments.device) % num_classes
        recorder = GateRecorder(model, find_blocks(model, images), num_classes)
        runs[name] = partial(model, images)
        runs[f"{name}, recorded"] = partial(recorder.run, images, labels)
    times = milliseconds(time_in_turn(runs, arguments.rounds, device=arguments.device))
    for name in NETWORKS:
        ratios = sorted(b / a for a, b in zip(times[name], times[f"{name}, recorded"], strict=True))
        print(f"{name}: recorded takes {ratios[len(ratios) // 2]:.3f} times as long")
    settings = {"device": arguments.device, "batches": {name: of[1] for name, of in NETWORKS.items()}}
    write_results(RESULTS / "recording.json", {"settings": settings, "milliseconds": times}, ("torch", "timm"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
