"""What it costs a run to keep what it was some seconds ago, from which it tells the layer whose values are not finite.

SE-ResNet-50 with SGD and with AdamW, after a step. Times are those of the processor for one thread, so that other
programs on the machine change them little.

Command: python benchmarks/kept_copy.py
Cost: a minute on one CPU core.
Results: benchmarks/results/kept_copy.json.
"""

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import tyro

import senet
from report import RESULTS, summary, write_results
from senet.training.replay import EVERY_S, Past
from senet.training.state import Position

NETWORK, BATCH, SIDE = "se_resnet50", 1, 64
OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 0.001),
}


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        rounds: copies that are timed, of each optimizer.
    """

    rounds: int = 15


def after_a_step(optimizer_of: Any) -> Any:
    """Return what `Past.keep` needs of a run that has taken a step."""
    model = senet.create_model(NETWORK).to(memory_format=torch.channels_last)
    optimizer = optimizer_of(model.parameters())
    model(torch.randn(BATCH + 1, 3, SIDE, SIDE)).sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parts = SimpleNamespace(model=model, stateful={"optimizer": optimizer}, scaler=scaler)
    return SimpleNamespace(parts=parts, position=Position())


def size_of(value: Any) -> int:
    """Return the bytes of all tensors inside a value."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.itemsize
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(size_of, inner))


def main(arguments: Arguments) -> None:
    """Time copies with each optimizer."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {"network": NETWORK, "every_s": EVERY_S}
    for name, optimizer_of in OPTIMIZERS.items():
        run, past, milliseconds = after_a_step(optimizer_of), Past(), []
        for number in range(arguments.rounds + 1):
            started = time.process_time()
            past.keep(run)
            if number:  # the first takes memory that the system has not given yet
                milliseconds.append(1000 * (time.process_time() - started))
        results[name] = {"bytes": size_of(past.state), "milliseconds": summary(milliseconds)}
        print(f"{name}: {results[name]}")
    write_results(RESULTS / "kept_copy.json", results)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
