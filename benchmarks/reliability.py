"""What is lost when a process is killed, a disk fills up, two runs share a folder, a bit flips; and what leaks.

Every command runs as typed, on pictures of a few digits, in forks of this process. Needs Linux; full disks need root.

- kills: `senet train` and the other commands that write are killed at random moments, at random operations on files and
  in the middle of random writes, once or several times; each goes on to its end, and what it has written is compared,
  bit for bit, with what it writes untouched;
- disks: the same commands on disks of random sizes, which are made larger afterwards;
- locks: two processes that write to one folder, started at random moments;
- bits: one flipped bit in weights and training states;
- long: ten thousand steps, and the slope of memory, open files and threads.

Command: python benchmarks/reliability.py
Cost: an hour on one CPU core. Every trial is written when it is over; the same command again makes what is missing,
also after SIGTERM or Ctrl-C.
Results: benchmarks/results/reliability.json.
"""

import importlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from reliability_bits import bit_trials
from reliability_disks import disk_trials
from reliability_kills import kill_trials, torchrun_trials
from reliability_locks import lock_trials
from reliability_long import long_trials
from reliability_results import Ground, Results, Stage, Trial, carry_out
from report import RESULTS
from senet.cli import COMMANDS

IMPORTED = ("timm", "accelerate", "sklearn.datasets", "torch.utils.tensorboard")
IMPORTED_TOO = ("torch.onnx", "onnx", "onnxscript", "onnxruntime", "plotly.graph_objects", "jinja2")
"""What commands import when they need it: forks have it already."""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""Of processes that are not forks of this one."""
KILLED = ("shard", "record", "ablate", "finetune", "export, file", "export, folder", "predict", "evaluate")
Part = Literal["kills", "disks", "locks", "bits", "long"]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        parts: in this order.
        runs: of `senet train` that are killed; the other numbers are in proportion to 100.
        seed: of all that is random.
        output: JSON file of the results.
        short: one or two trials of each kind, for a look whether all of it works.
    """

    parts: tuple[Part, ...] = ("kills", "disks", "locks", "bits", "long")
    runs: int = 100
    seed: int = 0
    output: Path = RESULTS / "reliability.json"
    short: bool = False


def trials_of(stage: Stage, runs: int, short: bool) -> Iterator[Trial]:
    """Return the trials of a part.

    Args:
        stage: of the part.
        runs: see `Arguments`.
        short: see `Arguments`.
    """
    share = runs / 100

    def about(number: int) -> int:
        return max(1, round(number * share))

    kinds: Mapping[str, Callable[[], Iterator[Trial]]] = {
        "kills": lambda: all_kills(stage, runs, share, short),
        "disks": lambda: disk_trials(stage, share),
        "locks": lambda: lock_trials(stage, ["train"] if short else ["train", "shard"], about(20)),
        "bits": lambda: bit_trials(stage, about(100)),
        "long": lambda: long_trials(stage, 200 if short else 10_000),
    }
    return kinds[stage.part]()


def all_kills(stage: Stage, runs: int, share: float, short: bool) -> Iterator[Trial]:
    """Yield the trials of all commands that are killed."""
    yield from kill_trials(stage, ["train"], runs)
    if short:
        yield from kill_trials(stage, ["record", "predict"], 1)
        return
    for name in ("train, workers", *KILLED):
        yield from kill_trials(stage, [name], max(1, round(20 * share)))
    yield from torchrun_trials(stage, max(1, round(6 * share)))


def main(arguments: Arguments) -> int:
    """Make the trials that are missing; return 1 if any found a problem."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that disks are unmounted
    torch.set_num_threads(1)
    os.environ.update(ENVIRONMENT)
    for name in (*IMPORTED, *(() if arguments.short else IMPORTED_TOO)):
        importlib.import_module(name)
    for command in COMMANDS.values():
        command.load()
    results, wrong = Results(arguments.output, arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        ground = Ground(Path(name), times=1 if arguments.short else 2)
        for part in arguments.parts:
            stage, started = Stage(part, ground, results, arguments.seed), time.monotonic()
            wrong += carry_out(stage, trials_of(stage, 2 if arguments.short else arguments.runs, arguments.short))
            print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)
    print(f"{arguments.output}: {wrong} trials found problems")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
