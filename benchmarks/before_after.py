"""The library as it is here beside another checkout of it, each in a process of its own, taking turns.

What did a change of the fused layers gain, and what did it cost? Forward and backward of a block's tail (BatchNorm, SE,
sum and ReLU, channels-last) at 32x16x8x8 and 16x256x28x28; a training step, SGD with momentum, of cifar_se_resnet20 on
the 32 images of `senet demo` and on 128 of CIFAR, and of se_resnet50 (4 images of 160 pixels; with --large, 16 of 224).
bf16 is autocast.

Contestants, of both versions: plain: without SE, layer by layer (cifar_resnet20; timm's resnet50, the same code in
both); SE: layer by layer; fused: by `senet.fuse`, or `ResidualTail(fused=True)`; as built: what users get by default.
They only use public names that both versions have.

glibc keeps what is freed (report.py), so that page faults are no part of the times. Where a process happens to have its
memory makes it faster or slower by some percent: several pairs of processes repeat each case, and their rounds are
pooled.

Command: python benchmarks/before_after.py OTHER, where OTHER is the root of another checkout
Cost: 10 minutes on two CPU cores and 4 GB of memory; with --large, half an hour and 10 GB; needs a C++ compiler.
Results: benchmarks/results/before_after.json
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import timm
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from tyro.conf import Positional

from report import DTYPES, KEEPING, RESULTS, Precision, milliseconds, write_results
from seats import Failures, Ready, Seat

# `senet` is imported inside functions: which version that is depends on the process.
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0
"""Seconds after which a contestant that does not answer is given up."""
WARM_UP = 3
"""Calls before any that is timed."""
Kind = Literal["plain", "SE", "fused", "as built"]
FUSED: Mapping[Kind, bool | None] = {"plain": False, "SE": False, "fused": True, "as built": None}
"""What `ResidualTail(fused=...)` is for each kind."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is timed.

    Args:
        what: a tail, or the training step of a small network or of ResNet-50.
        shape: (N, C, H, W) of the feature maps, or of the images.
        precision: fp32, or bf16 for autocast.
        calls: in a round.
        large: measured only on demand.
    """

    what: Literal["tail", "cifar_se_resnet20 step", "se_resnet50 step"]
    shape: tuple[int, int, int, int]
    precision: Precision
    calls: int
    large: bool = False

    @property
    def name(self) -> str:
        """As results and the page call it."""
        return f"{self.what}, {'x'.join(map(str, self.shape))}, {self.precision}"


CASES = (
    Case(what="tail", shape=(32, 16, 8, 8), precision="fp32", calls=200),
    Case(what="tail", shape=(32, 16, 8, 8), precision="bf16", calls=200),
    Case(what="tail", shape=(16, 256, 28, 28), precision="fp32", calls=10),
    Case(what="tail", shape=(16, 256, 28, 28), precision="bf16", calls=10),
    Case(what="cifar_se_resnet20 step", shape=(32, 1, 8, 8), precision="fp32", calls=10),
    Case(what="cifar_se_resnet20 step", shape=(128, 3, 32, 32), precision="fp32", calls=1),
    Case(what="se_resnet50 step", shape=(4, 3, 160, 160), precision="fp32", calls=1),
    Case(what="se_resnet50 step", shape=(4, 3, 160, 160), precision="bf16", calls=1),
    Case(what="se_resnet50 step", shape=(16, 3, 224, 224), precision="fp32", calls=1, large=True),
    Case(what="se_resnet50 step", shape=(16, 3, 224, 224), precision="bf16", calls=1, large=True),
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        other: the root of another checkout of this library, the version before.
        rounds: of all contestants in turn, in each pair of processes.
        processes: pairs that repeat each case; their rounds are pooled.
        cases: only those whose names contain one of these, such as "tail" or "bf16"; none means all.
        large: also se_resnet50 with 16 images of 224 pixels.
        results: the file that is written.
    """

    other: Positional[Path]
    rounds: int = 5
    processes: int = 3
    cases: tuple[str, ...] = ()
    large: bool = False
    results: Path = RESULTS / "before_after.json"


def use(root: Path) -> None:
    """Import the library from a checkout; call it before anything else imports the library.

    Raises:
        RuntimeError: this process has the library from elsewhere.
    """
    source = str(root / "src")
    if source not in sys.path:
        sys.path.insert(0, source)
    import senet

    if not str(senet.__file__).startswith(source + os.sep):
        raise RuntimeError(f"senet was imported from {senet.__file__}, not from {source}")


def tail(case: Case, kind: Kind) -> Callable[[], object]:
    """Return forward and backward of BatchNorm, SE, sum and ReLU."""
    import senet

    u, shortcut, dy = (
        torch.randn(case.shape, dtype=DTYPES[case.precision]).to(memory_format=torch.channels_last) for _ in range(3)
    )
    channels = case.shape[1]
    se = None if kind == "plain" else senet.SEBlock(channels)
    module = senet.ResidualTail(nn.BatchNorm2d(channels), se, fused=FUSED[kind]).train()
    leaves = [u.requires_grad_(), shortcut.requires_grad_(), *module.parameters()]

    def run() -> tuple[Tensor, ...]:
        with autocast(case.precision):
            y = module(u, shortcut)
        return torch.autograd.grad(y, leaves, dy)

    return run


def step(case: Case, kind: Kind) -> Callable[[], object]:
    """Return a training step."""
    large = case.what == "se_resnet50 step"
    classes = 1000 if large else 10
    model = (resnet50(kind) if large else small(kind, case.shape[1])).train()
    layout = torch.channels_last if large else torch.contiguous_format
    model = model.to(memory_format=layout)
    images = torch.randn(case.shape).to(memory_format=layout)
    labels = torch.randint(classes, (len(images),))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def run() -> None:
        with autocast(case.precision):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def autocast(precision: Precision) -> torch.autocast:
    """Return the context of a forward pass."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def small(kind: Kind, channels: int) -> nn.Module:
    """Build the network of 20 layers for small images of this number of channels."""
    import senet

    name = "cifar_resnet20" if kind == "plain" else "cifar_se_resnet20"
    return of_kind(senet.create_model(name, num_classes=10, in_channels=channels), kind)


def resnet50(kind: Kind) -> nn.Module:
    """Build timm's ResNet-50 or, with SE, this library's network of the same layers."""
    import senet

    if kind == "plain":
        return cast(nn.Module, timm.create_model("resnet50"))
    return of_kind(senet.create_model("se_resnet50", stride_on="3x3", stem_pool="pad"), kind)


def of_kind(model: nn.Module, kind: Kind) -> nn.Module:
    """Fuse or unfuse a network, or leave it as it is built."""
    import senet

    if FUSED[kind] is None:
        return model
    return senet.fuse(model) if FUSED[kind] else senet.unfuse(model)


@cache
def contestant(root: Path, case: Case, kind: Kind) -> Callable[[], object]:
    """Build a contestant once in a process, and warm it up."""
    use(root)
    torch.manual_seed(0)
    run = tail(case, kind) if case.what == "tail" else step(case, kind)
    for _ in range(WARM_UP):
        run()
    return run


def ready(root: Path, case: Case, kind: Kind) -> Ready:
    """Return a contestant, called once: other processes have had the caches since its last turn."""
    run = contestant(root, case, kind)
    run()
    return Ready(run=run)


def turn(seat: Seat, root: Path, case: Case, kind: Kind) -> float:
    """Return the seconds of a call of one contestant in a version's process."""
    for command, value in (("build", partial(ready, root, case, kind)), ("time", case.calls)):
        seat.ask(command, value)
        answer = seat.answer(time.monotonic() + PATIENCE)
    return float(answer)


def measure(case: Case, versions: Mapping[str, Path], rounds: int, processes: int) -> dict[str, Any]:
    """Time all contestants of both versions in turn.

    Args:
        case: what is timed.
        versions: the roots, by name.
        rounds: at least 1, in each pair of processes; one more is not counted.
        processes: pairs.

    Returns:
        The case, milliseconds by version and contestant, and the errors of those that failed, which have no times.
    """
    order = [(version, kind) for kind in get_args(Kind) for version in versions]
    seconds: dict[str, list[float]] = {f"{version} {kind}": [] for version, kind in order}
    errors: dict[str, str] = {}
    for _ in range(processes):
        seats = {version: Seat() for version in versions}
        try:
            for number in range(rounds + 1):
                for version, kind in order if number % 2 == 0 else reversed(order):
                    name = f"{version} {kind}"
                    if name not in errors:
                        with Failures(errors, name):
                            one = turn(seats[version], versions[version], case, kind)
                            seconds[name] += [one] if number else []
        finally:
            for seat in seats.values():
                seat.stop()
    times = milliseconds({name: of for name, of in seconds.items() if name not in errors})
    print(case.name, {name: round(statistics.median(of), 3) for name, of in times.items()}, flush=True)
    return {"case": case.name, "milliseconds": times, "errors": errors}


def commit(root: Path) -> str:
    """Return the commit that a checkout of this library is at.

    Raises:
        SystemExit: the folder is no such checkout.
    """
    if not (root / "src" / "senet").is_dir():
        raise SystemExit(f"{root} has no src/senet; give the root of another checkout of this library.")
    done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{root} is no checkout of git: {done.stderr.strip()}")
    return done.stdout.strip()


def chosen(arguments: Arguments) -> list[Case]:
    """Return the cases that are to be measured.

    Raises:
        SystemExit: there is none.
    """
    cases = [case for case in CASES if arguments.large or not case.large]
    if arguments.cases:
        cases = [case for case in cases if any(part in case.name for part in arguments.cases)]
    if not cases:
        names = "\n".join(case.name for case in CASES)
        raise SystemExit(f"No case's name contains any of --cases; those with 224 also need --large. Cases:\n{names}")
    return cases


def main(arguments: Arguments) -> None:
    """Measure each case, and write the results after each."""
    versions = {"before": arguments.other.resolve(), "after": ROOT}
    commits = {version: commit(root) for version, root in versions.items()}
    os.environ |= KEEPING  # glibc reads it when a process starts
    settings = {key: value for key, value in asdict(arguments).items() if key not in ("other", "results")}
    measured: list[dict[str, Any]] = []
    for case in chosen(arguments):
        measured.append(measure(case, versions, arguments.rounds, arguments.processes))
        found = {"settings": settings, "commits": commits, "cases": measured}
        write_results(arguments.results, found, ("torch", "timm"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
