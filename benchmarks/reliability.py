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
    """Yield the trials of a part, in rounds of a tenth, so that each kind has some when the benchmark is stopped.

    Args:
        stage: of the part.
        runs: see `Arguments`.
        short: see `Arguments`.
    """
    kinds: Mapping[str, Callable[[float], Iterator[Trial]]] = {
        "kills": lambda share: short_kills(stage, runs) if short else all_kills(stage, share),
        "disks": lambda share: disk_trials(stage, share),
        "locks": lambda share: lock_trials(stage, ["train"] if short else ["train", "shard"], share_of(20, share)),
        "bits": lambda share: bit_trials(stage, share_of(100, share)),
        "long": lambda _: long_trials(stage, 200 if short else 10_000),
    }
    for tenth in range(1, 11):
        yield from kinds[stage.part](tenth / 10 * runs / 100)


def share_of(number: int, share: float) -> int:
    """Return a share of a number of trials, at least one."""
    return max(1, round(number * share))


def all_kills(stage: Stage, share: float) -> Iterator[Trial]:
    """Yield the trials of all commands that are killed."""
    yield from kill_trials(stage, ["train"], share_of(100, share))
    yield from kill_trials(stage, ["train, workers", *KILLED], share_of(20, share))
    yield from torchrun_trials(stage, share_of(6, share))


def short_kills(stage: Stage, runs: int) -> Iterator[Trial]:
    """Yield some trials of commands of different kinds."""
    yield from kill_trials(stage, ["train"], runs)
    yield from kill_trials(stage, ["predict"], 1)


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
