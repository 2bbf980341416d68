"""The sections of docs/speed.md about small networks and about the host's work."""

import statistics

from pages.measured import Result, median, number, ratio, table

SMALL_HEAD = """
## Small networks

Tails: BatchNorm, SE, sum and ReLU, forward and backward. Steps: cifar_resnet20 and cifar_se_resnet20 on the 32 images
of 8x8 of `senet demo`, and on 128 of 32x32; `as built` is what `senet.create_model` gives. In milliseconds, float32.
"""
HOST_HEAD = """
## What the host does

Forward and backward, with networks so narrow and images so small that arithmetic takes next to no time, and the tail's
operators replaced by ones that only allocate: what Python, autograd and the dispatcher do, in microseconds of one core.
On a GPU an eager step cannot be faster than this; CUDA graphs take it out of the step. Small maps on the CPU take
`excited_sum`; on CUDA a compiled network takes the operators where there is SE, an eager one for large maps, with and
without SE. A launch is an operator that neither makes a view nor only allocates. The last columns are the difference
from the plain network for each block.
"""
KINDS = {
    "plain": "without SE",
    "SE": "SE, layer by layer",
    "senet, small maps": "SE as on small maps",
    "senet": "SE by the four operators",
    "senet, every norm": "every norm by the four operators",
}


def small_section(result: Result) -> str:
    """Return the tables of small tails and small networks."""
    rows = []
    for one in result["tails"]:
        times = one["milliseconds"]
        shape = f"tail, {one['batch']} x {one['channels']} x {one['side']} x {one['side']}"
        three = [median(times, name) for name in ("plain", "SE", "senet")]
        rows.append((shape, *three, "", ratio(times, "senet", "plain"), ""))
    for one in result["steps"]:
        times = one["milliseconds"]
        title = f"training step, {one['batch']} images of {one['side']}x{one['side']}"
        four = [median(times, name) for name in ("plain", "SE", "senet", "as built")]
        rows.append((title, *four, ratio(times, "senet", "plain"), ratio(times, "as built", "plain")))
    headings = ("", "plain", "SE", "senet", "as built", "senet / plain", "as built / plain")
    return SMALL_HEAD + table(headings, rows)


def host_section(result: Result) -> str:
    """Return the table of what the host does."""
    rows = []
    for one in result["networks"]:
        medians = {name: 1e3 * statistics.median(times) for name, times in one["milliseconds"].items()}
        for name, counts in one["counts"].items():
            more = (medians[name] - medians["plain"]) / one["blocks"]
            launches = (counts["launches"] - one["counts"]["plain"]["launches"]) / one["blocks"]
            cells = (f"{counts['operators']:,}", f"{counts['launches']:,}", f"{medians[name]:,.0f}")
            rows.append((f"{one['network']}, {KINDS[name]}", *cells, number(launches), f"{more:,.0f}"))
    headings = ("", "operators", "launches", "microseconds", "launches more, a block", "microseconds more, a block")
    return HOST_HEAD + table(headings, rows)
