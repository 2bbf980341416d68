"""Evaluation and recording shared by processes, beside one process, and beside processes that never talk.

Every process is pinned to a core of its own. In turn: the first process alone evaluates all pictures, while the others
wait; all share them (`senet.processes.shared_work`); each evaluates as many pictures of its own as its share has, so
that they meet nowhere. The same for recording the gates. SE-ResNet-50 at 224 pixels, random weights, generated files.

Command: torchrun --nproc-per-node 2 benchmarks/shared_work.py
Cost: four minutes on two CPU cores.
Results: benchmarks/results/shared_work.json.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

import senet
from report import RESULTS, write_results
from senet.data.config import DataConfig
from senet.launch import local_rank
from senet.processes import Team, join_process_group, shared_work

NAMES = ("left", "right")
SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        model: the network.
        images: of all processes together.
        batch_size: images at once in each process.
        rounds: of all contestants in turn.
        output: JSON file of the results.
    """

    model: str = "se_resnet50"
    images: int = 64
    batch_size: int = 8
    rounds: int = 5
    output: Path = RESULTS / "shared_work.json"


def write_pictures(folder: Path, number: int, split: str = "val") -> DataConfig:
    """Write pictures of two classes, and return them as data that are read without workers."""
    generator = np.random.default_rng(0)
    for i in range(number):
        place = folder / split / NAMES[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(place / f"{i}.jpg")
    return DataConfig(dataset=str(folder), num_workers=0)


def seconds_of(team: Team, work: Callable[[], object], *, alone: bool) -> float:
    """Return how long some work takes the slowest process; or the first, while the others wait."""
    team.meet()
    started = time.perf_counter()
    if team.is_first or not alone:
        work()
    return max(team.everyone(time.perf_counter() - started))


def in_turn(team: Team, contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every contestant in each round; each runs once beforehand, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, rounds):
        for name, work in contestants.items():
            taken = seconds_of(team, work, alone="alone" in name)
            if number >= 0:
                seconds[name].append(round(taken, 3))
    return seconds


def main(arguments: Arguments) -> None:
    """Time each contestant in turn, and write the results."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[local_rank()]})
    torch.set_num_threads(1)
    join_process_group()
    team = Team(torch.distributed.get_world_size())
    torch.manual_seed(0)
    model = senet.create_model(arguments.model, num_classes=2).eval()
    model.class_names = NAMES
    size = arguments.batch_size

    def shared(work: Callable[[], object]) -> None:
        with shared_work():
            work()

    with tempfile.TemporaryDirectory() as name:
        whole = write_pictures(Path(name) / "whole", arguments.images)
        part = write_pictures(Path(name) / "part", arguments.images // team.size)
        run: dict[str, Callable[[DataConfig], Any]] = {
            "evaluate": lambda data: senet.evaluate(model, data, batch_size=size),
            "record": lambda data: senet.record_excitations(model, data, batch_size=size),
        }
        contestants: dict[str, Callable[[], object]] = {}
        for kind, work in run.items():
            contestants[f"{kind}, alone"] = lambda work=work: work(whole)  # type: ignore[misc]
            contestants[f"{kind}, shared"] = lambda work=work: shared(lambda: work(whole))  # type: ignore[misc]
            contestants[f"{kind}, apart"] = lambda work=work: work(part)  # type: ignore[misc]
        seconds = in_turn(team, contestants, arguments.rounds)
    if not team.is_first:
        return
    found: dict[str, Any] = {
        "processes": team.size,
        "model": arguments.model,
        "images": arguments.images,
        "batch_size": size,
        "seconds": seconds,
    }
    for kind in run:
        middle = {way: median(seconds[f"{kind}, {way}"]) for way in ("alone", "shared", "apart")}
        found[kind] = {
            "speedup": round(middle["alone"] / middle["shared"], 3),
            "of_apart": round(middle["apart"] / middle["shared"], 3),
        }
        print(f"{kind}: {found[kind]['speedup']:.2f} times as fast, {found[kind]['of_apart']:.1%} of what is possible")
    write_results(arguments.output, found)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
