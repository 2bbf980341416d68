"""Time of a detector beside torchvision's: a training step and the boxes of one image, 800 pixels at the short side.

Contestants: torchvision's `fasterrcnn_resnet50_fpn`, and this library's Faster R-CNN with ResNet-50 and SE-ResNet-50 as
the trunk, with the same settings: BatchNorm a fixed affine, the stem and the first stage frozen. In turn: a step of
stochastic gradient descent on one image with five boxes, and the boxes of one image. Weights are random; a ratio of
the two trunks is that of SE. Random weights find as many boxes as a detector may, so that the heads have the most work.

Command: python benchmarks/detection_step.py
Cost: four minutes on two CPU cores; 5 GB of memory.
Results: benchmarks/results/detection_step.json
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import senet
from report import Device, milliseconds, results_file, summary, time_in_turn, write_results

PLAIN, SE, TORCHVISION = "resnet50", "se_resnet50", "torchvision"
RATIOS = ((SE, PLAIN), (PLAIN, TORCHVISION), (SE, TORCHVISION))
"""Whose times are divided by whose."""
CLASSES = 80
FROZEN = ("conv1", "layer1")
"""What torchvision does not train of a trunk with weights; its BatchNorm has no parameters."""
OF_TORCHVISION = {"stride_on": "3x3", "stem_pool": "pad"}
"""Options with which the trunks compute what torchvision's does."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: of all contestants in turn.
        device: "cpu" or "cuda".
        height: of the image in pixels, which is not resized.
        width: likewise.
    """

    rounds: int = 5
    device: Device = "cpu"
    height: int = 800
    width: int = 1088


def detectors(device: Device) -> dict[str, nn.Module]:
    """Return the contestants with random weights, drawn from the same seed."""
    models: dict[str, nn.Module] = {}
    for name in (TORCHVISION, PLAIN, SE):
        torch.manual_seed(0)
        if name == TORCHVISION:
            models[name] = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
            for part in FROZEN:  # it freezes nothing without weights
                models[name].get_submodule(f"backbone.body.{part}").requires_grad_(False)
        else:
            models[name] = senet.build_detector(
                senet.DetectorConfig(trunk=name, num_classes=CLASSES, trunk_options=OF_TORCHVISION)
            )
        models[name].to(device)
    return models


def picture(arguments: Arguments) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image of noise, and five boxes of different sizes and classes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, arguments.height, arguments.width, generator=generator)
    sides = torch.tensor([24.0, 60.0, 120.0, 250.0, 500.0])
    corners = torch.rand(5, 2, generator=generator) * 250
    boxes = torch.cat([corners, corners + sides[:, None]], 1)
    target = {"boxes": boxes, "labels": torch.tensor([1, 17, 3, 44, 80])}
    return image.to(arguments.device), {name: value.to(arguments.device) for name, value in target.items()}


def step_of(model: nn.Module, image: Tensor, target: dict[str, Tensor]) -> Callable[[], None]:
    """Return a function that takes a training step; the learning rate is 0, so that all are alike."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=0.9)

    def step() -> None:
        model.train()
        torch.manual_seed(0)  # the regions that are sampled
        losses = model([image], [target])
        sum(losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def finding_of(model: nn.Module, image: Tensor) -> Callable[[], None]:
    """Return a function that finds the boxes of an image."""

    def find() -> None:
        model.eval()
        with torch.inference_mode():
            model([image])

    return find


def ratios(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return how many times as long some contestants take as others, round by round."""
    return {
        f"{one} / {other}": summary([a / b for a, b in zip(seconds[one], seconds[other], strict=True)])
        for one, other in RATIOS
    }


def main(arguments: Arguments) -> None:
    """Time steps, then boxes, of all contestants in turn."""
    models, (image, target) = detectors(arguments.device), picture(arguments)
    results: dict[str, Any] = {"settings": vars(arguments)}
    for what in ("training step", "one image"):
        contestants = {
            name: step_of(model, image, target) if what == "training step" else finding_of(model, image)
            for name, model in models.items()
        }
        seconds = time_in_turn(contestants, arguments.rounds, device=arguments.device)
        results[what] = {"milliseconds": milliseconds(seconds), "ratios": ratios(seconds)}
        for pair, found in results[what]["ratios"].items():
            print(f"{what}: {pair} {found['median']:.3f} ({found['min']:.3f} to {found['max']:.3f})", flush=True)
    write_results(results_file("detection_step", arguments.device), results, ("torch", "torchvision"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
