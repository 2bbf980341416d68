"""What training on many GPUs should take, on paper: a model of the gradients' sum beside the step that hides it.

Nothing here is measured on more than one GPU. The step of one is; bandwidths and delays are those that their makers and
others state. docs/scale.md shows the table, names the sources and says what is left out.

Command: python benchmarks/scaling_model.py
Cost: seconds.
Results: benchmarks/results/scaling_model.json.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import senet
from report import RESULTS

OUTPUT = RESULTS / "scaling_model.json"
MODEL = "se_resnet50"
IN_ALL = 8192
"""Images of a step up to which networks learn as well as with few (arXiv:1706.02677)."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine and what joins it to others, as far as the sum of gradients depends on them.

    Args:
        name: of the network between machines.
        gpus: in each machine.
        inside: bytes a second that a GPU sends to the others of its machine.
        outside: bytes a second that all GPUs of a machine together send to other machines.
        start: seconds before a sum begins.
        inside_delay: seconds for each message inside.
        outside_delay: seconds for each message between machines.
    """

    name: str
    gpus: int = 8
    inside: float = 450e9
    outside: float = 400e9
    start: float = 8.4e-6
    inside_delay: float = 3.4e-6
    outside_delay: float = 14e-6


NETWORKS = (
    Machine(name="InfiniBand, 8 x 400 Gb/s", outside=8 * 400e9 / 8),
    Machine(name="Ethernet, 100 Gb/s", outside=100e9 / 8),
    Machine(name="Ethernet, 10 Gb/s", outside=10e9 / 8),
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The step of one GPU without others.

    SE-ResNet-50 in bf16 autocast, compiled, on one H100 80GB with torch 2.11, 2026-11-26.

    Args:
        seconds: of forward and backward pass and update, for `images`.
        images: of the batch for which it was measured.
        backward: share of the time in which gradients come.
    """

    seconds: float = 53.3e-3
    images: int = 256
    backward: float = 2 / 3

    def of(self, images: int) -> float:
        """Return the seconds of a step of another batch, as if they were proportional, which flatters small ones."""
        return self.seconds * images / self.images


ONE_GPU = Step()


def sum_seconds(size: float, gpus: int, machine: Machine) -> float:
    """Return how long an all-reduce takes: inside of each machine, between machines, inside again.

    A ring of n sends 2 (n - 1) messages, each an n-th of the data. Its first half, inside of a machine, leaves each GPU
    the sum of a part; GPUs of the same part sum it between machines, each over its share of the network; the second
    half gives all parts to all. Between many machines a tree has fewer delays, 2 log2 n, and NCCL takes it then.

    Args:
        size: bytes.
        gpus: that sum, in all.
        machine: what they are in.
    """
    inside = min(gpus, machine.gpus)
    machines = math.ceil(gpus / machine.gpus)
    ring_inside = 2 * (inside - 1) / inside * size / machine.inside + 2 * (inside - 1) * machine.inside_delay
    if machines == 1:
        return machine.start + ring_inside
    hops = min(2 * (machines - 1), 2 * math.ceil(math.log2(machines)))
    outside = 2 * (machines - 1) / machines * size / machine.outside + hops * machine.outside_delay
    return machine.start + ring_inside + outside


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the model says of a setting.

    Args:
        gpus: in all.
        network: between machines.
        images: of a step on each GPU.
        alone: seconds of a step without others.
        summing: seconds of all sums of a step.
        waiting: seconds of them that the backward pass does not hide.
    """

    gpus: int
    network: str
    images: int
    alone: float
    summing: float
    waiting: float

    @property
    def efficiency(self) -> float:
        """The share of the GPUs' time that is not spent on waiting for sums."""
        return self.alone / (self.alone + self.waiting)

    @property
    def images_per_s(self) -> float:
        """Images a second, of all GPUs."""
        return self.gpus * self.images / (self.alone + self.waiting)


def row(
    gpus: int,
    machine: Machine,
    images: int,
    numbers: int,
    bytes_each: int,
    step: Step = ONE_GPU,
    bucket: int = 25 << 20,
) -> Row:
    """Return what the model says.

    Gradients come evenly over the backward pass, a bucket is summed when it is full, and sums follow each other. So the
    last bucket is always waited for, and of the others what takes longer than the rest of the backward pass.

    Args:
        gpus: in all.
        machine: what they are in.
        images: of a step on each GPU.
        numbers: gradients of the network.
        bytes_each: 4, or 2 where they are compressed.
        step: of one GPU.
        bucket: bytes of gradients of float32 that are summed at once.
    """
    sizes = bucket_sizes(numbers, bucket)
    alone = step.of(images)
    backward = alone * step.backward
    ready = done = 0.0
    summing = 0.0
    for size in sizes:
        ready += backward * size / sum(sizes)
        seconds = sum_seconds(size * bytes_each / 4, gpus, machine)
        summing += seconds
        done = max(done, ready) + seconds
    return Row(
        gpus=gpus,
        network=machine.name,
        images=images,
        alone=alone,
        summing=summing,
        waiting=done - backward,
    )


def bucket_sizes(numbers: int, bucket: int) -> list[int]:
    """Return the bytes of each bucket of float32; the first is smaller in PyTorch, which changes little here."""
    whole, rest = divmod(4 * numbers, bucket)
    return [bucket] * whole + [rest] * (rest > 0)


def rows(gpus: Sequence[int] = (8, 64, 1024)) -> Iterator[tuple[Row, Row]]:
    """Yield what the model says of each setting, with gradients of float32 and of bf16.

    With 256 images on each GPU, and with `IN_ALL` in all GPUs where that is less.
    """
    numbers = senet.cost(senet.create_model(MODEL), input_size=224).parameters
    for number in gpus:
        for images in dict.fromkeys((Step.images, min(Step.images, IN_ALL // number))):
            for machine in NETWORKS if number > Machine.gpus else NETWORKS[:1]:  # one machine needs no network
                yield row(number, machine, images, numbers, 4), row(number, machine, images, numbers, 2)


def results() -> dict[str, Any]:
    """Return the table."""
    table = [
        asdict(plain)
        | {"efficiency": plain.efficiency, "images_per_s": plain.images_per_s}
        | {"compressed": {"summing": small.summing, "efficiency": small.efficiency}}
        for plain, small in rows()
    ]
    return {"model": MODEL, "step": asdict(ONE_GPU), "machine": asdict(NETWORKS[0]), "rows": table}


def main() -> None:
    """Print the table and write it."""
    found = results()
    for each in found["rows"]:
        print(
            f"{each['gpus']:>5} GPUs, {each['images']:>3} images, {each['network']:<25} sums "
            f"{each['summing'] * 1e3:7.2f} ms, efficiency {each['efficiency']:6.1%} "
            f"(bf16 {each['compressed']['efficiency']:6.1%})"
        )
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Wrote {OUTPUT}")


if __name__ == "__main__":
    main()
