"""A network trained by several processes, beside one, and beside as many that never talk to each other.

Every process is pinned to a core of its own. In turn, each a whole run of `senet.train`:
alone: the first process trains, and the others wait;
together: all train one network, which is what torchrun is for;
together, bf16: the same with `--compute.gradient-compression bf16`;
apart: each trains a network of its own on as many images as its share, so that they meet nowhere.
SE-ResNet-50 by default, on generated images of 224 pixels. The seconds of a step are those that the runs write down, of
the process that takes longest; the first epoch of each run is not counted. Also: the sum of as many numbers as the
network has gradients by itself, which is what the processes say to each other in a step.

Command: torchrun --nproc-per-node 2 benchmarks/data_parallel.py
Cost: nine minutes on two CPU cores.
Results: benchmarks/results/data_parallel.json.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import tyro

import senet
from report import RESULTS, write_results
from senet.data.config import Augmentation, DataConfig
from senet.data.preprocessing import Preprocessing
from senet.files import read_jsonl
from senet.launch import local_rank
from senet.models.config import ModelConfig
from senet.processes import Team, join_process_group
from senet.training.config import TrainConfig
from senet.training.processes import training_alone
from senet.training.sections import ComputeConfig, GradientCompression, OptimizerConfig, SelectionConfig
from shared_work import SIDE, write_pictures

NAMES = ALONE, TOGETHER, COMPRESSED, APART = "alone", "together", "together, bf16", "apart"
MB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        model: the network.
        batch_size: images of a step in each process.
        image_size: their side in pixels.
        steps: of an epoch.
        epochs: of each run that count, after one that does not.
        rounds: of all contestants in turn.
        bucket_mb: of the gradients that are summed at once.
        output: JSON file of the results.
    """

    model: str = "se_resnet50"
    batch_size: int = 8
    image_size: int = 224
    steps: int = 4
    epochs: int = 2
    rounds: int = 4
    bucket_mb: int = ComputeConfig.bucket_mb
    output: Path = RESULTS / "data_parallel.json"


def run_of(arguments: Arguments, folder: Path, compute: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a run on the pictures of a folder."""
    preprocessing = Preprocessing(image_size=arguments.image_size, resize=SIDE, mean=(0.5,) * 3, std=(0.3,) * 3)
    return TrainConfig(
        model=ModelConfig(name=arguments.model),
        data=DataConfig(dataset=str(folder), preprocessing=preprocessing, augmentation=Augmentation(padding=0)),
        optimizer=OptimizerConfig(lr=0.01),
        selection=SelectionConfig(metric="epoch"),
        compute=ComputeConfig(cpu=True, compile="off", **compute),
        epochs=1 + arguments.epochs,
        batch_size=arguments.batch_size,
        trackers=(),
    )


def seconds_of_steps(config: TrainConfig, output: Path) -> list[float]:
    """Train, and return the seconds of a step in each epoch after the first."""
    rows = read_jsonl(senet.train(config, output) / "metrics.jsonl")
    steps = rows[0]["step"]
    return [row["time_s"] / steps for row in rows[1:]]


class Contestants:
    """The runs, each of which this process has a part in.

    Args:
        arguments: of the benchmark.
        team: the processes.
        root: a folder that all of them see.
    """

    def __init__(self, arguments: Arguments, team: Team, root: Path) -> None:
        self.arguments, self.team, self.root, self.number = arguments, team, root, 0

    def run(self, name: str) -> list[float]:
        """Return the seconds of a step of one contestant, of the process that takes longest in each epoch."""
        self.number += 1
        team, shared = self.team, name not in (ALONE, APART)
        output = self.root / f"run{self.number}" / ("shared" if shared else str(team.rank))
        compression: GradientCompression = "bf16" if name == COMPRESSED else "none"
        compute = {"gradient_compression": compression, "bucket_mb": self.arguments.bucket_mb} if shared else {}
        config = run_of(self.arguments, self.root / ("whole" if shared else "part"), compute)
        seconds: list[float] = []
        team.meet()
        if team.is_first or name != ALONE:
            with nullcontext() if shared else training_alone():
                seconds = seconds_of_steps(config, output)
        everyone = [each for each in team.everyone(seconds) if each]
        if team.is_first:
            shutil.rmtree(output.parent)
        return [round(max(each), 4) for each in zip(*everyone, strict=True)]

    def sums(self, dtype: torch.dtype, numbers: int) -> list[float]:
        """Return the seconds that adding up as many numbers takes, in buckets as the gradients'."""
        bucket = torch.ones(self.arguments.bucket_mb * MB // 4, dtype=dtype)
        number = -(-numbers // len(bucket))

        def add_up() -> None:
            for _ in range(number):
                dist.all_reduce(bucket)

        return [round(seconds_of(self.team, add_up) * numbers / number / len(bucket), 4) for _ in range(5)][1:]


def seconds_of(team: Team, work: Callable[[], object]) -> float:
    """Return how long some work takes the slowest process."""
    team.meet()
    started = time.perf_counter()
    work()
    return max(team.everyone(time.perf_counter() - started))


def measured(arguments: Arguments, team: Team, root: Path) -> dict[str, Any]:
    """Time each contestant in turn, and then the sums by themselves."""
    number = arguments.batch_size * arguments.steps
    if team.is_first:
        for name, images in (("part", number), ("whole", number * team.size)):
            write_pictures(root / name, images, "train")
            write_pictures(root / name, 2 * team.size)
    contestants = Contestants(arguments, team, root)
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(arguments.rounds):
        for name in NAMES if turn % 2 == 0 else reversed(NAMES):
            seconds[name] += contestants.run(name)
            if team.is_first:
                print(f"round {turn + 1}, {name}: {seconds[name][-arguments.epochs :]} s a step", flush=True)
    parameters = senet.cost(senet.create_model(arguments.model), input_size=arguments.image_size).parameters
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    sums = {name: contestants.sums(dtype, parameters) for name, dtype in kinds.items()}
    return {"parameters": parameters, "seconds": seconds, "sum_seconds": sums}


def main(arguments: Arguments) -> None:
    """Measure, and write the results."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[local_rank()]})
    torch.set_num_threads(1)
    join_process_group()
    team = Team(dist.get_world_size())
    root = Path(team.from_first(tempfile.mkdtemp))
    try:
        found = measured(arguments, team, root)
    finally:
        if team.is_first:
            shutil.rmtree(root)
    if not team.is_first:
        return
    middle = {name: median(times) for name, times in found["seconds"].items()}
    for name in (TOGETHER, COMPRESSED):
        shares = {f"of_{other}": round(middle[other] / middle[name], 3) for other in (ALONE, APART)}
        found[name] = shares
        print(f"{name}: {shares['of_alone']:.1%} of one process, {shares['of_apart']:.1%} of what is possible")
    settings = {name: getattr(arguments, name) for name in ("model", "batch_size", "image_size", "bucket_mb", "steps")}
    write_results(arguments.output, {"processes": team.size, **settings, **found}, ("torch", "accelerate"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
