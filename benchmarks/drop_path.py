"""What stochastic depth and gradient checkpointing cost in a training step.

Networks: SE-ResNet-50 (4 images of 224 pixels) and the CIFAR network of the package (64 images), as they train by
default. In turn: a step without either, one with `drop_path`, one with checkpointed gradients. Times are those of the
processor for one thread, so that other programs on the machine change them little.

Command: python benchmarks/drop_path.py
Cost: a minute on one CPU core.
Results: benchmarks/results/drop_path.json.
"""

import time
from collections import defaultdict
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

import senet
from report import RESULTS, milliseconds, summary, write_results

NETWORKS = {"se_resnet50": (4, 224, 0.05), "cifar_se_resnet20": (64, 32, 0.1)}
"""Images at once, their side, and the rate of stochastic depth."""

FORMS = ("usual", "drop_path", "grad_checkpointing")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: of all contestants in turn.
    """

    rounds: int = 9


def step(model: nn.Module, images: Tensor) -> float:
    """Return how many seconds of the processor a forward and a backward pass take."""
    started = time.process_time()
    model(images).sum().backward()
    return time.process_time() - started


def main(arguments: Arguments) -> None:
    """Time each network in each form, in turn."""
    torch.set_num_threads(1)
    results = {}
    for name, (batch, side, rate) in NETWORKS.items():
        forms = {form: senet.create_model(name, drop_path=rate if form == "drop_path" else 0.0) for form in FORMS}
        forms["grad_checkpointing"].set_grad_checkpointing()
        images = torch.randn(batch, 3, side, side).to(memory_format=torch.channels_last)
        seconds = defaultdict(list)
        for number in range(arguments.rounds + 1):
            for form, model in forms.items():
                took = step(model.to(memory_format=torch.channels_last), images)
                if number:  # the first compiles kernels
                    seconds[form].append(took)
        ratios = {
            form: summary([b / a for a, b in zip(seconds["usual"], seconds[form], strict=True)]) for form in FORMS[1:]
        }
        for form, of in ratios.items():
            print(f"{name}: {form} takes {of['median']:.3f} times as long ({of['min']:.3f} to {of['max']:.3f})")
        settings = {"batch": batch, "side": side, "rate": rate}
        results[name] = {"settings": settings, "milliseconds": milliseconds(seconds), "ratios": ratios}
    write_results(RESULTS / "drop_path.json", results)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
