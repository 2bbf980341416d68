"""Time of a detector beside torchvision's: a training step and the boxes of one image, 800 pixels at the short side.

Contestants: torchvision's `fasterrcnn_resnet50_fpn`, and this library's Faster R-CNN with ResNet-50 as the trunk,
without and with SE, with the same settings: BatchNorm a fixed affine, the stem and the first stage frozen. In turn: a
step of stochastic gradient descent on one image with five boxes, and the boxes of one image; the latter also with trunk
and pyramid rewritten by `optimize_for_inference` (backend "eager", which suits images of many sizes).

All have the same random weights, and the SE blocks are those of `insert_se`, whose gates begin at 1: so all regard the
same regions and find the same boxes, and the ratio of the two trunks is that of SE. (With weights of its own each trunk
has other regions, and pooling these alone differs by 0.2 s.) Random weights find as many boxes as a detector may, so
that the heads have the most work.

Command: python benchmarks/detection_step.py
Cost: eight minutes on two CPU cores; 5 GB of memory.
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

PLAIN, SE, TORCHVISION = "plain", "SE", "torchvision"
OPTIMIZED = {PLAIN: "plain, optimized", SE: "SE, optimized"}
RATIOS = (
    (SE, PLAIN),
    (PLAIN, TORCHVISION),
    (SE, TORCHVISION),
    (OPTIMIZED[SE], OPTIMIZED[PLAIN]),
    (OPTIMIZED[SE], PLAIN),
    (OPTIMIZED[SE], TORCHVISION),
)
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

    rounds: int = 9
    device: Device = "cpu"
    height: int = 800
    width: int = 1088


def detectors(device: Device) -> dict[str, nn.Module]:
    """Return the contestants, with the same random weights."""
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {
        TORCHVISION: fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
    }
    for part in FROZEN:  # it freezes nothing without weights
        models[TORCHVISION].get_submodule(f"backbone.body.{part}").requires_grad_(False)
    for name, se in ((PLAIN, None), (SE, senet.SEOptions())):
        config = senet.DetectorConfig(trunk="resnet50", num_classes=CLASSES, trunk_options=OF_TORCHVISION, se=se)
        models[name] = senet.build_detector(config)
        strange = models[name].load_state_dict(models[TORCHVISION].state_dict(), strict=False)
        assert not strange.unexpected_keys, strange.unexpected_keys
    return {name: model.to(device) for name, model in models.items()}


def optimized(models: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the two trunks' detectors with what they compute rewritten for inference."""
    return {OPTIMIZED[name]: senet.optimize_for_inference(models[name], backend="eager") for name in (PLAIN, SE)}


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
        if one in seconds
    }


def main(arguments: Arguments) -> None:
    """Time steps, then boxes, of all contestants in turn."""
    models, (image, target) = detectors(arguments.device), picture(arguments)
    contestants = {
        "training step": {name: step_of(model, image, target) for name, model in models.items()},
        "one image": {name: finding_of(model, image) for name, model in {**models, **optimized(models)}.items()},
    }
    results: dict[str, Any] = {"settings": vars(arguments)}
    for what, functions in contestants.items():
        seconds = time_in_turn(functions, arguments.rounds, device=arguments.device)
        results[what] = {"milliseconds": milliseconds(seconds), "ratios": ratios(seconds)}
        for pair, found in results[what]["ratios"].items():
            print(f"{what}: {pair} {found['median']:.3f} ({found['min']:.3f} to {found['max']:.3f})", flush=True)
    write_results(results_file("detection_step", arguments.device), results, ("torch", "torchvision"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
