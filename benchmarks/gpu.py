"""Everything on a GPU in one command: is the operator exact, what does SE cost, how near are the kernels to a copy.

The plan, the most important first, with the seconds that each wave takes on an H100 beside 16 cores. The contestants of
a wave are prepared side by side, each in a process of its own, and then timed in turn, one measurement after another.

     20  how fast a copy and a matrix product are
     35  exactness: outputs and every gradient in every type and layout against float64
     25  training step in eager PyTorch, and its peak memory: timm resnet50, timm seresnet50 and senet se_resnet50 at
         batch 256 and 32; cifar_resnet20 and cifar_se_resnet20 at batch 128; bf16 autocast, channels-last
     15  the same, the whole step in one CUDA graph
    110  the same compiled: nine contestants at the same time, 40 to 90 s each
     15  the same, the whole compiled step in one CUDA graph
     50  senet.train of cifar_se_resnet20 at batch 128, images/s
     50  inference of one image and of 256, captured: ResNet-50 and SE-ResNet-50, by torch.compile and by senet
     24  the four kernels beside a copy at the four stages, batch 256
     60  training step compiled by mode="reduce-overhead"
     30  inference of 16 images
     24  the four kernels at batch 32
    ---
    458, of 480 seconds

What does not fit into --minutes is left out and named in the file; so is what fails. Every result is in the file as
soon as it is there; --again measures only what the file does not have.

Command: python benchmarks/gpu.py [--minutes 8] [--again]
    python benchmarks/gpu.py --device cpu --smoke: the same plan with small networks, to try the script without a GPU
Cost: 8 minutes and 60 GB on an H100. Exit status: 1 if anything failed, was left out or is not exact; 2 without a GPU.
Results: benchmarks/results/gpu.json
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
import tyro

import gpu_contestants as of
import gpu_kernels
from plan import Measurement, Results, Wave, carry_out, start_results
from report import RESULTS, Device, Precision
from residual_tail import STAGES
from seats import Build
from training_step import PLAIN, SE, SENET

PACKAGES = ("torch", "triton", "timm", "senet")
LARGE = (PLAIN, SE, SENET)
SMALL = (of.SMALL_PLAIN, of.SMALL_SE, of.SMALL_SENET)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What is measured.

    Args:
        device: cpu tries the script out, with --smoke.
        minutes: for all of it.
        rounds: of all contestants in turn.
        again: keep what the file has of the same machine, versions and settings, and measure the rest.
        smoke: small images and batches, few rounds.
        output: the file of results; by default gpu.json in benchmarks/results, or with --smoke in a temporary folder.
    """

    device: Device = "cuda"
    minutes: float = 8.0
    rounds: int = 15
    again: bool = False
    smoke: bool = False
    output: Path | None = None


def training(form: of.Form, arguments: Arguments) -> list[Measurement]:
    """Measure training steps in one form: large networks at two batches, the small one."""
    precision: Precision = "bf16" if arguments.device == "cuda" else "fp32"
    settings = [(LARGE, 256, 224, 3), (LARGE, 32, 224, 10), (SMALL, 128, 32, 20)]
    if arguments.smoke:
        settings = [(SMALL, 2, 16, 1)]
    return [
        Measurement(
            kind="small training step" if names is SMALL else "training step",
            setting={"batch": batch, "form": form},
            builds={name: partial(of.training, name, form, batch, side, arguments.device, precision) for name in names},
            rounds=arguments.rounds,
            calls=calls,
        )
        for names, batch, side, calls in settings
    ]


def inference(batches: Sequence[int], arguments: Arguments) -> list[Measurement]:
    """Measure inference, captured: the plain network and timm's SE compiled, and both as senet rewrites them."""
    precision: Precision = "bf16" if arguments.device == "cuda" else "fp32"
    runtimes = of.RUNTIMES if arguments.device == "cuda" else ("eager",)
    side = 32 if arguments.smoke else 224
    return [
        Measurement(
            kind="inference",
            setting={"batch": batch},
            builds={
                f"{kind}, {runtime}": partial(of.inferring, kind, runtime, batch, side, arguments.device, precision)
                for runtime in runtimes
                for kind in ("plain", "SE")
            },
            rounds=arguments.rounds,
            calls=max(3, 48 // batch) if not arguments.smoke else 1,
        )
        for batch in batches
    ]


def kernels(batch: int, arguments: Arguments) -> Iterator[Measurement]:
    """Yield measurements of the kernels at the four stages, to be made one after another."""
    stages = STAGES[-1:] if arguments.smoke else STAGES
    for precision in get_args(Precision):
        for channels, side in stages:
            run = partial(
                gpu_kernels.kernels, precision, (batch, channels, side), arguments.device, min(7, arguments.rounds)
            )
            setting = {"batch": batch, "channels": channels, "side": side, "precision": precision}
            yield Measurement(kind="kernels", setting=setting, builds={"kernels": run})


def alone(kind: str, run: Build) -> list[Measurement]:
    """Measure something that has no contestants."""
    return [Measurement(kind=kind, setting={}, builds={kind: run})]


def waves(arguments: Arguments) -> list[Wave]:
    """Return the plan, see above."""
    device, smoke = arguments.device, arguments.smoke
    step = partial(training, arguments=arguments)
    images, epochs = (256, 2) if smoke else (25_600, 7)
    parts = [
        (20, alone("speeds", partial(gpu_kernels.speeds, device))),
        (35, alone("exactness", partial(gpu_kernels.check, device, few=smoke))),
        (25, step("eager")),
        (15, step("eager, one graph")),
        (110, step("compiled")),
        (15, step("compiled, one graph")),
        (50, alone("senet.train", partial(of.whole_run, "cifar_se_resnet20", images, epochs, device))),
        (50, inference((1, 2) if smoke else (1, 256), arguments)),
        *((3, [one]) for one in kernels(2 if smoke else 256, arguments)),
        (60, step("reduce-overhead")),
        (30, inference((3,) if smoke else (16,), arguments)),
        *((3, [one]) for one in kernels(3 if smoke else 32, arguments)),
    ]
    return [Wave(seconds=seconds, measurements=measurements) for seconds, measurements in parts]


def share_cores() -> None:
    """Give each process that compiles its share of the cores."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(max(1, (os.cpu_count() or 1) // 8)))


def exact(results: Results) -> bool:
    """Whether every comparison with float64 that was made was near."""
    checks = [one["facts"]["exactness"] for one in results.measured if one["kind"] == "exactness" and not one["errors"]]
    return all(one["passed"] == one["made"] for one in checks)


def main(arguments: Arguments) -> int:
    """Carry out the plan; return the exit status."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py needs a GPU that PyTorch sees; the other benchmarks run on the CPU", file=sys.stderr)
        return 2
    if arguments.device == "cpu" and not arguments.smoke:
        print("gpu.py on the CPU takes hours and says nothing of a GPU; add --smoke to try it out", file=sys.stderr)
        return 2
    share_cores()
    settings = {name: value for name, value in asdict(arguments).items() if name in ("device", "rounds", "smoke")}
    output = arguments.output or (Path(tempfile.mkdtemp()) if arguments.smoke else RESULTS) / "gpu.json"
    results = start_results(output, settings, PACKAGES, arguments.again)
    complete = carry_out(waves(arguments), results, arguments.minutes, patience=3 if arguments.device == "cuda" else 30)
    print(f"Wrote {output}")
    return 0 if complete and exact(results) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
