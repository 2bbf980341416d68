"""Whether SE helps a small network on CIFAR-10: `cifar10_short` for cifar_resnet20 and its SE twin, several seeds.

Each run has a core of its own; as many run side by side as there are cores. An interrupted measurement goes on where it
was. The weights after the last epoch are judged on the 10,000 test images.

Command: python benchmarks/cifar_twins.py --data FOLDER
Cost: about an hour of one core for each run.
Results: benchmarks/results/cifar_twins.json
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

import senet
from cores import measure_beside
from report import RESULTS, about, write_results
from senet.files import read_jsonl
from senet.models.config import ModelConfig
from senet.recipes.cifar import cifar10_short

PACKAGES = ("torch", "torchvision")
NETWORKS = ("cifar_resnet20", "cifar_se_resnet20")
RECIPE = "cifar10_short"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        data: folder with train.parquet and test.parquet of CIFAR-10.
        work: folder of the runs, which are kept.
        results: the file that is written.
        seeds: of each network.
        cores: at most so many are used; None for all.
        epochs: of a run; None for the recipe's.
        run: "NETWORK SEED": only this one, in this process; it prints its row.
    """

    data: Path = Path("../shared/data/cifar10")
    work: Path = Path("/tmp/cifar_twins")
    results: Path = RESULTS / "cifar_twins.json"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    cores: int | None = None
    epochs: int | None = None
    run: tuple[str, int] | None = None


def run_here(arguments: Arguments, network: str, seed: int) -> dict[str, Any]:
    """Train a network, or go on with its run, and judge it."""
    torch.set_num_threads(1)
    output = arguments.work / f"{network}-{seed}"
    if (output / "config.json").exists():
        senet.resume(output)
    else:
        config = cifar10_short()
        data = replace(config.data, dataset=str(arguments.data))
        epochs = arguments.epochs or config.epochs
        senet.train(replace(config, model=ModelConfig(name=network), data=data, seed=seed, epochs=epochs), output)
    found = senet.evaluate(output / "last", str(arguments.data))
    rows = [row for row in read_jsonl(output / "metrics.jsonl") if row["epoch"]]
    figures = {name: round(getattr(found, name), 4) for name in ("top1", "top5", "loss")}
    told = about(PACKAGES)
    where = {"processor": told["machine"]["processor"], "torch": told["versions"]["torch"], "date": told["date"]}
    trained = {"train_loss": round(rows[-1]["train_loss"], 4), "epochs": len(rows)}
    return {"network": network, "seed": seed, **figures, **trained, **where}


def main(arguments: Arguments) -> None:
    """Run what is missing, a seed after the other, as many at a time as there are cores."""
    if arguments.run is not None:
        print(json.dumps(run_here(arguments, *arguments.run)))
        return
    rows = json.loads(arguments.results.read_text())["runs"] if arguments.results.exists() else []
    there = {(row["network"], row["seed"]) for row in rows}
    left = [(network, seed) for seed in arguments.seeds for network in NETWORKS if (network, seed) not in there]
    options = {"data": arguments.data, "work": arguments.work, "epochs": arguments.epochs}
    words = [f"--{name}={value}" for name, value in options.items() if value is not None]

    def add(row: dict[str, Any]) -> None:
        rows.append(row)
        write_results(arguments.results, {"recipe": RECIPE, "runs": rows}, PACKAGES)

    measure_beside(left, [sys.executable, __file__, *words], arguments.work, add, limit=arguments.cores)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
