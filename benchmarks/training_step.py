"""A training step of ResNet-50 without and with SE.

What does SE cost, and does our operator make it free?

Contestants, all channels-last, the same batch, cross-entropy, SGD with momentum, one step each in turn:
timm resnet50 (the plain network, to which everything is compared), torchvision resnet50, timm seresnet50;
senet se_resnet50, unfused: our network of the same layers, one by one; senet se_resnet50: with the fused operator;
timm ..., optimized: timm's networks after `senet.fuse(model)`;
..., compiled: once more with torch.compile.

Also: the highest memory in use during two steps, each contestant in a process of its own, and how the times grow with
batch, resolution and depth. Beside the times the least in which the convolutions' multiplications can be done at the
speed of a matrix product.

Command: python benchmarks/training_step.py [--device cuda --batch-size 256 --precisions bf16]
Cost: half an hour on two CPU cores, and 10 GB of memory.
Results: benchmarks/results/training_step.json, or training_step_cuda.json.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
import torchvision
import tyro
from torch import nn

import senet
from report import (
    DTYPES,
    Device,
    Precision,
    bounds,
    in_own_process,
    milliseconds,
    peak_memory,
    results_file,
    time_in_turn,
    write_results,
)

PLAIN, SE, SENET = "timm resnet50", "timm seresnet50", "senet se_resnet50"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        device: cpu or cuda.
        batch_size: images.
        image_size: pixels.
        precisions: fp32, and bf16 for autocast.
        rounds: of all contestants in turn.
        contestants: only these networks; none means all.
        processes: that repeat the whole measurement; their rounds are pooled. Where a process happens to have its
            memory makes its convolutions faster or slower by some percent.
        parts: also how much of a step is convolutions, by PyTorch's profiler.
        compiled: also the contestants with torch.compile.
        memory: also the highest memory in use.
        growth: also other batches, resolutions and depths.
        memory_of: only print the highest memory in use, in MB, of this contestant in the first precision.
    """

    device: Device = "cpu"
    batch_size: int = 16
    image_size: int = 224
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    rounds: int = 9
    contestants: tuple[str, ...] = ()
    processes: int = 1
    parts: bool = False
    compiled: bool = True
    memory: bool = True
    growth: bool = True
    memory_of: str | None = None


def build_senet(name: str, fused: bool) -> nn.Module:
    """Our network with the layers of timm's of the same depth."""
    model = senet.create_model(name, stride_on="3x3", stem_pool="pad")
    return senet.fuse(model) if fused else senet.unfuse(model)


def optimized(name: str) -> nn.Module:
    """Timm's network with its blocks fused."""
    return senet.fuse(timm.create_model(name))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    PLAIN: partial(timm.create_model, "resnet50"),
    "torchvision resnet50": torchvision.models.resnet50,
    SE: partial(timm.create_model, "seresnet50"),
    "senet se_resnet50, unfused": partial(build_senet, "se_resnet50", fused=False),
    SENET: partial(build_senet, "se_resnet50", fused=True),
    "timm seresnet50, optimized": partial(optimized, "seresnet50"),
    "timm resnet50, optimized": partial(optimized, "resnet50"),
    "senet resnet50": partial(build_senet, "resnet50", fused=True),
}
COMPILED = (PLAIN, SE, SENET)


class Step:
    """A training step of one network; calling it does one."""

    def __init__(
        self, model: nn.Module, precision: Precision, device: Device, batch: int, side: int, compiled: bool = False
    ) -> None:
        self.model = model.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.run = cast(nn.Module, torch.compile(self.model)) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, side, side, generator=generator)
        self.images = images.to(device, memory_format=torch.channels_last)
        self.labels = torch.randint(0, 1000, (batch,), generator=generator).to(device)
        self.autocast = partial(torch.autocast, device, DTYPES[precision], enabled=precision != "fp32")

    def __call__(self) -> None:
        """Forward, backward, update."""
        with self.autocast():
            loss = F.cross_entropy(self.run(self.images), self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(contestants: dict[str, Step], rounds: int, device: Device, **setting: Any) -> dict[str, Any]:
    """Time steps in turn."""
    seconds = time_in_turn(contestants, rounds, device=device)
    print(setting, {name: round(sorted(s)[len(s) // 2] * 1e3) for name, s in seconds.items()}, flush=True)
    return {**setting, "milliseconds": milliseconds(seconds)}


def parts(contestants: dict[str, Step], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return how long each spends in convolutions and elsewhere, in milliseconds, for each round."""
    found: dict[str, dict[str, list[float]]] = {name: {"convolutions": [], "rest": []} for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                step()
            times = {event.key: event.self_cpu_time_total / 1e3 for event in profile.key_averages()}
            convolutions = sum(time for key, time in times.items() if key.startswith("aten::") and "convolution" in key)
            found[name]["convolutions"].append(convolutions)
            found[name]["rest"].append(sum(times.values()) - convolutions)
    return found


def pool(arguments: Arguments) -> None:
    """Measure in several processes, one after another, and put their rounds together."""
    file = results_file("training_step", arguments.device)
    options = sys.argv[1:]
    at = options.index("--processes")
    pooled: dict[str, Any] = {}
    for _ in range(arguments.processes):
        subprocess.run([sys.executable, __file__, *options[:at], *options[at + 2 :]], check=True)
        one = json.loads(file.read_text())
        for step, more in zip(pooled.get("steps", []), one["steps"], strict=False):
            for name, times in more["milliseconds"].items():
                step["milliseconds"][name] += times
            for name, of_name in more["parts"].items():
                for part, times in of_name.items():
                    step["parts"][name][part] += times
        pooled = pooled or one
    pooled["settings"]["processes"] = arguments.processes
    file.write_text(json.dumps(pooled, indent=1) + "\n")


def grow(arguments: Arguments) -> list[dict[str, Any]]:
    """Time the plain network, timm's SE network and this library's at other batches, resolutions and depths."""
    batch, side = arguments.batch_size, arguments.image_size
    settings = [(50, batch // 4, side), (50, batch, side), (50, batch * 2, side)]
    settings += [(50, batch, side * 5 // 7), (50, batch, side * 9 // 7), (101, batch, side), (152, batch, side)]
    found = []
    for depth, images, pixels in settings:
        networks: dict[str, Callable[[], nn.Module]] = {
            "plain": partial(timm.create_model, f"resnet{depth}"),
            "SE": partial(timm.create_model, f"seresnet{depth}"),
            "senet": partial(build_senet, f"se_resnet{depth}", fused=True),
        }
        precision = arguments.precisions[0]
        contestants = {name: Step(new(), precision, arguments.device, images, pixels) for name, new in networks.items()}
        rounds = max(3, arguments.rounds // 2)
        setting = {"depth": depth, "batch": images, "side": pixels, "precision": precision}
        found.append(measure(contestants, rounds, arguments.device, **setting))
    return found


def two_steps(step: Step) -> None:
    """Do one step, and one in which the optimizer's state is there from the start."""
    step()
    step()


def main(arguments: Arguments) -> None:
    """Measure times, memory, growth."""
    device, batch, side = arguments.device, arguments.batch_size, arguments.image_size
    if arguments.processes > 1:
        pool(arguments)
        return
    if arguments.memory_of is not None:
        step = Step(NETWORKS[arguments.memory_of](), arguments.precisions[0], device, batch, side)
        print(peak_memory(partial(two_steps, step), device))
        return
    found: list[dict[str, Any]] = []
    for precision in arguments.precisions:
        chosen = arguments.contestants or tuple(NETWORKS)
        contestants = {name: Step(NETWORKS[name](), precision, device, batch, side) for name in chosen}
        if arguments.compiled:
            torch._dynamo.reset()
            for name in COMPILED:
                contestants[f"{name}, compiled"] = Step(NETWORKS[name](), precision, device, batch, side, True)
        setting = {"batch": batch, "side": side, "precision": precision}
        found.append(measure(contestants, arguments.rounds, device, **setting))
        found[-1]["parts"] = parts(contestants, arguments.rounds) if arguments.parts else {}
        del contestants
    memory = {}
    if arguments.memory:
        options = ("--device", device, "--batch-size", str(batch), "--image-size", str(side))
        for precision in arguments.precisions:
            memory[precision] = {
                name: in_own_process(__file__, *options, "--precisions", precision, "--memory-of", name)
                for name in (PLAIN, SE, SENET, "senet se_resnet50, unfused")
            }
            print(precision, memory[precision], flush=True)
    cost = senet.cost(timm.create_model("resnet50"), side).multiply_adds
    results = {
        "settings": asdict(arguments),
        "bounds": bounds(device),
        "gflop": 3 * 2 * cost * batch / 1e9,
        "steps": found,
        "peak_mb": memory,
        "growth": grow(arguments) if arguments.growth else [],
    }
    write_results(results_file("training_step", arguments.device), results, ("torch", "torchvision", "timm", "triton"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
