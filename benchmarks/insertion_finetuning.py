"""Fine-tuning with SE put into a trained network, beside fine-tuning without: does it help.

A trained CIFAR network without SE is fine-tuned for a few epochs, as it is and with SE blocks inserted: the same
weights to start from, budget, recipe and data order, once for each seed. Its accuracy before is beside both.

Command: python benchmarks/insertion_finetuning.py --start RUN --data FOLDER_OF_PARQUET_FILES
    where RUN is of: senet train cifar10_short --model.name cifar_resnet20 --data FOLDER --output RUN
Cost: a minute for each of 2 x seeds x epochs on two CPU cores.
Results: benchmarks/results/insertion_finetuning.json.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro

import senet
from report import RESULTS, write_results
from senet.files import read_jsonl
from senet.recipes import get_recipe


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is trained.

    Args:
        start: run folder of the network without SE.
        data: folder of CIFAR-10's parquet files.
        seeds: one fine-tuning each, with and without SE.
        epochs: of a fine-tuning.
        lr: at the peak of the cycle.
        reduction: of the blocks.
        work: folder of the runs; None for a temporary one.
    """

    start: Path
    data: Path
    seeds: int = 3
    epochs: int = 5
    lr: float = 0.01
    reduction: int = 16
    work: Path | None = None


def main(arguments: Arguments) -> None:
    """Fine-tune with every seed."""
    recipe = get_recipe("cifar10_short")
    recipe = replace(
        recipe,
        data=replace(recipe.data, dataset=str(arguments.data)),
        optimizer=replace(recipe.optimizer, lr=arguments.lr),
        compute=replace(recipe.compute, fused="on"),
        epochs=arguments.epochs,
    )
    before = senet.evaluate(arguments.start, recipe.data)
    print(f"before: {before.top1:.2f} %")
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        with_se = folder / "with_se"
        model = senet.from_pretrained(arguments.start)
        report = senet.insert_se(model, senet.SEOptions(reduction=arguments.reduction))
        senet.save_pretrained(model, with_se)
        for seed in range(arguments.seeds):
            for name, start in (("plain", arguments.start), ("SE", with_se)):
                output = folder / f"{name}_{seed}"
                config = replace(recipe, seed=seed, weights=str(start))
                started = (output / "config.json").exists()
                run = senet.resume(output) if started else senet.train(config, output)
                last = read_jsonl(run / "metrics.jsonl")[-1]
                rows.append({"seed": seed, "network": name, "top1": last["top1"], "loss": last["loss"]})
                print(rows[-1], flush=True)
    results = {
        "settings": {name: getattr(arguments, name) for name in ("seeds", "epochs", "lr", "reduction")},
        "model": model.config.name,
        "parameters": report.model_parameters,
        "parameters_added": report.num_parameters,
        "before": asdict(before),
        "runs": rows,
    }
    write_results(RESULTS / "insertion_finetuning.json", results)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
