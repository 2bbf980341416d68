"""How long an epoch of fine-tuning takes, beside one of timm's train.py: `finetuning.py`'s last part.

Validation on val/ is part of an epoch. Each contestant is a process of its own with one thread; they take turns.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import senet

CONTESTANTS = ("senet finetune", "senet finetune, fp32", "timm", "timm, bf16")
ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained.

    Args:
        network: by name; its weights do not matter.
        image_size: in pixels.
        folder: of the pictures.
    """

    network: str
    image_size: int
    folder: Path

    def start(self, work: Path) -> Path:
        """Return a folder of random weights, written if it is not there."""
        start = work / f"start-{self.network}-{self.image_size}"
        if not start.exists():
            classes = len(list((self.folder / "train").iterdir()))
            model = senet.create_model(self.network, classes)
            size = self.image_size
            model.preprocessing = replace(model.preprocessing, image_size=size, resize=size)
            senet.save_pretrained(model, start)
        return start


def measure_epochs(
    cases: list[Case], work: Path, run: Callable[[dict[str, Any]], dict[str, Any]], train_py: Path | None, rounds: int
) -> list[dict[str, Any]]:
    """Return for each case and contestant the images that it trains on in a second, in each round.

    Args:
        cases: what is trained.
        work: folder of the weights and the runs.
        run: runs `finetuning_contestants.py` with these arguments and returns what it prints.
        train_py: timm's script; None leaves timm out.
        rounds: at least 1; every other one goes backwards.
    """
    names = [name for name in CONTESTANTS if train_py or not name.startswith("timm")]
    rows = []
    for case in cases:
        start = case.start(work)
        speeds: dict[str, list[float]] = {name: [] for name in names}
        failed: dict[str, str] = {}
        for number in range(rounds):
            for name in names if number % 2 == 0 else reversed(names):
                output = work / "runs" / f"epoch-{case.network}-{name.replace(' ', '_')}"
                given = {"contestant": name, "folder": case.folder, "start": start, "output": output}
                told = run({**given, "train-py": train_py, "timing": True})
                if "failed" in told:
                    failed[name] = told["failed"]
                else:
                    speeds[name].append(round(told["images"] / told["seconds"], 1))
        rows.append({"network": case.network, "image_size": case.image_size, "images_per_s": speeds, "failed": failed})
        print(rows[-1], {name: statistics.median(found) for name, found in speeds.items() if found}, flush=True)
    return rows
