"""Write docs/speed.md and the table of the README from benchmarks/results."""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results"
Result = Mapping[str, Any]

HEAD = """\
# Speed

Written by `make docs` from `benchmarks/results/*.json`. Every number is a median; a ratio is the median of the ratios
within a round, in which all contestants took turns, and the range after it holds the middle half of the rounds. The
first lines of each script in `benchmarks/` say what its contestants are; the JSON files hold every round.
"""
COMMANDS = {
    "residual_tail": "python benchmarks/residual_tail.py",
    "training_step": "python benchmarks/training_step.py",
    "inference": "python benchmarks/inference.py",
}


def read(name: str) -> Result | None:
    """Return the results of a benchmark, None if it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def provenance(name: str, result: Result) -> str:
    """Say which command, machine and versions a result comes from."""
    machine, versions = result["machine"], result["versions"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} threads"
    packages = ", ".join(f"{key} {value}" for key, value in versions.items() if value)
    limits = result["bounds"]
    best = (
        f"a copy moves {limits['copy_gb_per_s']:.0f} GB/s, a matrix product does {limits['fp32_gflops']:.0f} GFLOP/s "
        f"in float32 and {limits['bf16_gflops']:.0f} in bfloat16"
    )
    return f"`{COMMANDS.get(name, name)}`: {where}; {packages}; {result['date']}. In the same run {best}.\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose first column is text and whose others are numbers."""
    lines = [f"| {' | '.join(headings)} |\n", f"|---|{'---:|' * (len(headings) - 1)}\n"]
    return "\n" + "".join(lines + [f"| {' | '.join(row)} |\n" for row in rows])


def number(value: float) -> str:
    """Format to three significant digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def median(times: Mapping[str, Sequence[float]], name: str) -> str:
    """Format the median time of a contestant; empty if it did not take part."""
    return number(statistics.median(times[name])) if name in times else ""


def ratios(times: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Return how many times as long as `base` a contestant took, in each round."""
    return [a / b for a, b in zip(times[name], times[base], strict=True)]


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> str:
    """Format the median of `ratios`."""
    return f"{statistics.median(ratios(times, name, base)):.2f}" if {name, base} <= times.keys() else ""


def shape_of(one: Result) -> str:
    """Format the shape of a measurement's feature maps."""
    return f"{one['batch']} x {one['channels']} x {one['side']} x {one['side']}"


def spread(values: Sequence[float]) -> str:
    """Format a median and the middle half."""
    if len(values) < 3:
        return f"{statistics.median(values):.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


# ---- goals -----------------------------------------------------------------------------------------------------------


Goal = tuple[str, str, str, str, str]


def goal(text: str, limit: float, values: Sequence[float], bound: float | None = None) -> Goal:
    """Return the row of a goal: what is compared, the limit, what was measured, whether it is reached, the bound."""
    reached = "yes" if statistics.median(values) <= limit + 0.004 else "no"
    return text, f"{limit:.2f}", spread(values), reached, "" if bound is None else f"{bound:.2f}"


def over(times: Mapping[str, Sequence[float]], base: str, least: float) -> float:
    """Return a bound in milliseconds as a multiple of the median of a contestant."""
    return least / statistics.median(times[base])


def goals_of_the_operator(result: Result) -> list[Goal]:
    """Return a row for each stage and peer."""
    rows = []
    for one in result["stages"]:
        where = f"{one['channels']} channels, {one['side']}x{one['side']}, {one['precision']}"
        for base, limit in (("plain", 0.75), ("SE", 0.5), ("SE, compiled", 0.6)):
            values = ratios(one["milliseconds"], "senet", base)
            bound = over(one["milliseconds"], base, least_of_the_operator(result, one))
            rows.append(goal(f"operator beside {base}: {where}", limit, values, bound))
    return rows


def least_of_the_operator(result: Result, one: Result) -> float:
    """Return in how many milliseconds a copy would move the operator's bytes."""
    return float(one["least_mb_moved"] / result["bounds"]["copy_gb_per_s"])


def goals_of_training(result: Result) -> list[Goal]:
    """Return a row for each precision and peer, and for memory."""
    rows = []
    for one in result["steps"]:
        for base, limit in (("timm resnet50", 1.0), ("timm seresnet50", 0.92)):
            values = ratios(one["milliseconds"], "senet se_resnet50", base)
            bound = over(one["milliseconds"], base, least_of_training(result, one))
            rows.append(goal(f"training step beside {base}, {one['precision']}", limit, values, bound))
    kept = read("training_step_kept")
    for one in kept["steps"] if kept else ():
        values = ratios(one["milliseconds"], "senet se_resnet50", "timm resnet50")
        title = f"training step beside timm resnet50, {one['precision']}, with memory kept, {len(values)} rounds"
        rows.append(goal(title, 1.0, values, over(one["milliseconds"], "timm resnet50", least_of_training(kept, one))))
    for precision, peak in result["peak_mb"].items():
        values = [peak["senet se_resnet50"] / peak["timm resnet50"]]
        rows.append(goal(f"peak memory of a training step beside timm resnet50, {precision}", 1.0, values))
    return rows


def least_of_training(result: Result, one: Result) -> float:
    """Return in how many milliseconds a step's multiplications would be done at the speed of a matrix product."""
    return float(result["gflop"] / result["bounds"][f"{one['precision']}_gflops"] * 1e3)


def least_of_inference(result: Result, one: Result) -> float:
    """Return the same for a batch at inference."""
    return float(result["gflop_per_image"] * one["batch"] / result["bounds"][f"{one['precision']}_gflops"] * 1e3)


def goals_of_inference(result: Result) -> list[Goal]:
    """Return a row for each batch: against the plain network and against the fastest peer."""
    rows = []
    for one in result["latency"]:
        times = one["milliseconds"]
        best = fastest_of_ours(times)
        where, least = f"batch {one['batch']}, {one['precision']}", least_of_inference(result, one)
        plain = best.replace("SE,", "plain,")
        rows.append(
            goal(
                f"inference beside the plain network, optimized alike: {where}",
                1.02,
                ratios(times, best, plain),
                over(times, plain, least),
            )
        )
        peer = fastest_peer(times, "SE,")
        title = f"inference ({best[4:]}) beside the fastest peer ({peer[4:]}): {where}"
        rows.append(goal(title, 1.0, ratios(times, best, peer), over(times, peer, least)))
    return rows


def fastest_of_ours(times: Mapping[str, Sequence[float]]) -> str:
    """Return the backend of `senet.optimize_for_inference` with the least median on SE-ResNet-50."""
    return fastest(times, [name for name in times if name.startswith("SE, senet") and "ONNX" not in name])


def fastest_peer(times: Mapping[str, Sequence[float]], kind: str) -> str:
    """Return the runtime of others with the least median on a network."""
    return fastest(times, [name for name in times if name.startswith(kind) and "senet" not in name])


def fastest(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Return the contestant with the least median."""
    return min(names, key=lambda name: statistics.median(times[name]))


KERNELS = ("moments", "apply", "sums", "gradients")
OPERATOR_HEAD = """
## The residual tail

BatchNorm, SE, sum and ReLU, forward and backward, in milliseconds. `least` is the time of a copy of the bytes that the
operator has to read and write; `kept` is what is saved for the backward pass beside its input, in MB.
"""
PARTS = """
Where its time goes, in milliseconds: the four passes, the six small matrix products of the excitation (alone), and the
rest, which is PyTorch's and Python's way from step to step.
"""
INFERENCE_HEAD = """
## Inference

`differs` is the largest difference of SE-ResNet-50's outputs from eager float32, relative to the largest output.
"""
PARTS_OF_INFERENCE = """
Where OpenVINO's time goes on the rewritten networks, in milliseconds, by its own profile. In the plain network the sum
and the ReLU are part of the convolutions.
"""


# ---- sections --------------------------------------------------------------------------------------------------------


def operator_section(result: Result) -> str:
    """Return the tables of the residual tail."""
    text = OPERATOR_HEAD
    names = ("plain", "SE", "plain, compiled", "SE, compiled", "senet", "senet, no SE")
    headings = ("shape", *names, "least", "kept: plain", "SE", "senet")
    for precision in ("fp32", "bf16"):
        rows = []
        for one in result["stages"]:
            if one["precision"] == precision:
                least = least_of_the_operator(result, one)
                times = [median(one["milliseconds"], name) for name in names]
                kept = [number(one["mb_kept"][name]) for name in ("plain", "SE", "senet")]
                shape = f"{precision}, {shape_of(one)}"
                rows.append((shape, *times, number(least), *kept))
        text += table(headings, rows)
    if "parts" in result["stages"][0]:
        text += PARTS
        names = (*KERNELS, "excitation", "all")
        rows = []
        for one in result["stages"]:
            shape = f"{one['precision']}, {shape_of(one)}"
            rest = one["parts"]["all"] - sum(one["parts"][name] for name in names[:-1])
            rows.append((shape, *(number(one["parts"][name]) for name in names), number(rest)))
        text += table(("shape", *names, "rest"), rows)
    text += "\nHow it grows (float32):\n"
    rows = []
    for one in result["growth"]:
        times = one["milliseconds"]
        shape = shape_of(one)
        three = [median(times, name) for name in ("plain", "SE", "senet")]
        rows.append((shape, *three, ratio(times, "senet", "plain"), ratio(times, "senet", "SE")))
    return text + table(("shape", "plain", "SE", "senet", "times plain", "times SE"), rows)


def training_section(result: Result) -> str:
    """Return the tables of a training step."""
    text = "\n## A training step\n"
    for one in result["steps"]:
        times, precision = one["milliseconds"], one["precision"]
        least = least_of_training(result, one)
        text += f"\n{precision}, {one['batch']} images of {one['side']} pixels; at the speed of a matrix product the "
        text += f"multiplications alone would take {number(least)} ms.\n"
        rows = []
        for name in times:
            peak = result["peak_mb"].get(precision, {}).get(name)
            compared = [spread(ratios(times, name, base)) for base in ("timm resnet50", "timm seresnet50")]
            rows.append((name, median(times, name), *compared, "" if peak is None else number(peak)))
        text += table(("network", "ms", "times timm resnet50", "times timm seresnet50", "peak memory, MB"), rows)
    if result["growth"]:
        text += f"\nHow it grows ({result['growth'][0]['precision']}):\n"
    rows = []
    for one in result["growth"]:
        times = one["milliseconds"]
        three = [median(times, name) for name in ("plain", "SE", "senet")]
        setting = f"depth {one['depth']}, batch {one['batch']}, {one['side']} pixels"
        rows.append((setting, *three, ratio(times, "senet", "plain"), ratio(times, "senet", "SE")))
    headings = ("", "timm plain, ms", "timm SE, ms", "senet, ms", "times plain", "times SE")
    return text + (table(headings, rows) if rows else "")


def inference_section(result: Result) -> str:
    """Return the tables of inference."""
    text = INFERENCE_HEAD
    for one in result["latency"]:
        times, precision = one["milliseconds"], one["precision"]
        least = least_of_inference(result, one)
        text += f"\n{precision}, batch {one['batch']}; the multiplications alone: {number(least)} ms.\n"
        rows = []
        for name in times:
            if name.startswith("SE, "):
                plain = name.replace("SE, ", "plain, ")
                differs = f"{one['differences'][name]:.0e}"
                rows.append((name[4:], median(times, plain), median(times, name), ratio(times, name, plain), differs))
        text += table(("runtime", "ResNet-50, ms", "SE-ResNet-50, ms", "SE / plain", "differs"), rows)
    if result["growth"]:
        text += "\nHow it grows (float32):\n"
        names = list(result["growth"][0]["milliseconds"])
        rows = []
        for one in result["growth"]:
            setting = f"depth {one['depth']}, batch {one['batch']}, {one['side']} pixels"
            rows.append((setting, *(median(one["milliseconds"], name) for name in names)))
        text += table(("", *(f"{name}, ms" for name in names)), rows)
    return text


def inference_parts(result: Result) -> str:
    """Return the table of where OpenVINO's time goes, each kind of layer beside the same of the plain network."""
    rows = []
    for one in result["parts"]:
        times = {
            kind: {part: statistics.median(ms) for part, ms in of.items()} for kind, of in one["milliseconds"].items()
        }
        for kind, name in (("plain", "ResNet-50"), ("SE", "SE-ResNet-50")):
            spent = times[kind]
            title = f"{name}, batch {one['batch']}, {one['precision']}"
            rows.append((title, *map(number, spent.values()), number(sum(spent.values()))))
    parts = list(result["parts"][0]["milliseconds"]["SE"])
    return PARTS_OF_INFERENCE + table(("", *parts, "all"), rows)


def kernels_section(result: Result) -> str:
    """Return the table of the GPU's kernels."""
    rows = []
    for one in result["kernels"]:
        shape = f"{one['precision']}, {shape_of(one)}"
        shares = [f"{one['share_of_copy'][name]:.2f}" for name in KERNELS]
        rows.append((shape, *shares))
    passed = sum(one["near"] for one in result["checks"])
    text = f"\n## Kernels on a GPU\n\n{passed} of {len(result['checks'])} comparisons with float64 passed. "
    return text + "Bandwidth beside that of a copy:\n" + table(("shape", *KERNELS), rows)


def kept_section(operator: Result, training: Result) -> str:
    """Return the times with memory kept."""
    rows = []
    for one in operator["stages"]:
        times = one["milliseconds"]
        shape = f"{one['precision']}, {shape_of(one)}"
        rows.append(kept_row(shape, times, ("plain", "SE", "senet"), least_of_the_operator(operator, one)))
    for one in training["steps"]:
        names = ("timm resnet50", "timm seresnet50", "senet se_resnet50")
        title = f"training step, {one['precision']}"
        rows.append(kept_row(title, one["milliseconds"], names, least_of_training(training, one)))
    text = KEPT_HEAD + table(("", "plain", "SE", "senet", "times plain", "times SE", "bound"), rows)
    shares = []
    for one in training["steps"]:
        rest = {name: of["rest"] for name, of in one["parts"].items()}
        for name, of in one["parts"].items():
            middle = [number(statistics.median(of[part])) for part in ("convolutions", "rest")]
            compared = spread(ratios(rest, name, "timm resnet50"))
            shares.append((f"{name}, {one['precision']}", *middle, compared))
    return text + SHARES_HEAD + table(("", "convolutions", "elsewhere", "elsewhere, times plain"), shares)


def kept_row(title: str, times: Mapping[str, Sequence[float]], names: Sequence[str], least: float) -> list[str]:
    """Return the times of the plain network, timm's SE and this library's, two ratios, and the bound."""
    compared = [spread(ratios(times, names[2], base)) for base in names[:2]]
    return [title, *(median(times, name) for name in names), *compared, number(least)]


SECTIONS: dict[str, tuple[Callable[[Result], str], Callable[[Result], list[Goal]]]] = {
    "residual_tail": (operator_section, goals_of_the_operator),
    "training_step": (training_section, goals_of_training),
    "inference": (inference_section, goals_of_inference),
}
KEPT_HEAD = """
## With memory kept

The same with glibc told to keep what is freed, as allocators of GPU memory do (`make bench` shows the two variables):
in milliseconds, without page faults of feature maps that are newly mapped at every step. They are much of the times
above; of eager PyTorch's at the widest maps they are most.
"""
SHARES_HEAD = """
The convolutions are the same in all three networks, but take some percent more or less from process to process and from
minute to minute, which is most of the spread above (the rounds are those of several processes). So here is what a step
takes in convolutions and elsewhere, in milliseconds, by PyTorch's profiler:
"""
MISSED = """
`bound` is the ratio that would be measured if nothing but the bytes that must move (operator) or the multiplications
(training, inference) took time, at the speeds that this machine reached in the same run.

What is missed, and why. On the small maps of the last stages the operator's four passes move their bytes at a half to
four fifths of the speed of a copy ([parts](#the-residual-tail)), but the excitation's six matrix products and the way
from step to step through PyTorch and Python (`rest`) do not shrink with the map, and plain BatchNorm, sum and ReLU have
neither: they run in the time that the passes alone take. In bfloat16 the maps are half as large, and the same holds one
stage earlier.

In a training step everything but the convolutions takes about as long with SE as without
([with memory kept](#with-memory-kept)). What is above the plain network's time is Python's way to the operator, about a
millisecond for each of 16 blocks, and is less than what the convolutions differ by from process to process.

The peak memory of a training step is above the plain network's by SE's own 2.5 million parameters, with their gradients
and momenta (30 MB); of feature maps the operator keeps no more than plain BatchNorm and ReLU do.

At inference the convolutions, the small ones of the excitation included, take about the same time in both networks
([parts](#inference)). What SE adds is one pass that scales, adds the shortcut and applies the ReLU. OpenVINO does the
latter two inside the plain network's convolutions, but can multiply inside a convolution by constants alone. The pass
reads two maps and writes one for each block: 1.06 GB for 16 images in float32, which a copy moves in about 40 ms; one
image's maps stay in the cache.
"""
NO_GPU = """
## On a GPU

Not measured yet. One command checks the Triton kernels against float64 and times everything above:
`python benchmarks/gpu.py`.
"""


def speed_page() -> str:
    """Return docs/speed.md."""
    goals, text = [], ""
    for name, (section, goals_of) in SECTIONS.items():
        result = read(name)
        if result is not None:
            text += section(result) + "\n" + provenance(name, result)
            parts = read(f"{name}_parts")
            text += "" if parts is None else inference_parts(parts)
            goals += goals_of(result)
    kept, steps_kept = read("residual_tail_kept"), read("training_step_kept")
    if kept is not None and steps_kept is not None:
        text += kept_section(kept, steps_kept)
    kernels = read("gpu")
    for name, (section, _) in SECTIONS.items():
        result = read(f"{name}_cuda")
        if result is not None:
            text += section(result).replace("\n## ", "\n## On a GPU: ") + "\n" + provenance(name, result)
    text += NO_GPU if kernels is None else kernels_section(kernels)
    if not goals:
        return HEAD + "\nNot measured yet: `make bench` does.\n" + text
    heading = "\n## Goals\n\nWhat we set out to reach on two CPU cores, as a multiple of the other's time or memory.\n"
    return HEAD + heading + table(("", "at most", "measured", "reached", "bound"), goals) + MISSED + text


def readme_table() -> str:
    """Return the lines of the README between the markers."""
    training, inference = read("training_step"), read("inference")
    if training is None or inference is None:
        return "\nNot measured yet: `make bench` does.\n\n"
    rows = []
    for one in training["steps"]:
        times = one["milliseconds"]
        three = [median(times, name) for name in ("timm resnet50", "timm seresnet50", "senet se_resnet50")]
        over = [spread(ratios(times, name, "timm resnet50")) for name in ("timm seresnet50", "senet se_resnet50")]
        rows.append((f"training step, {one['batch']} images, {one['precision']}", *three, *over))
    for one in inference["latency"]:
        times = one["milliseconds"]
        best = fastest_of_ours(times)
        peers = [fastest_peer(times, kind) for kind in ("plain,", "SE,")]
        three = [median(times, name) for name in (*peers, best)]
        over = [spread(ratios(times, name, peers[0])) for name in (peers[1], best)]
        rows.append((f"inference, batch {one['batch']}, {one['precision']}", *three, *over))
    headings = ("ms", "ResNet-50", "SE-ResNet-50", "with senet", "SE / plain", "senet / plain")
    machine = training["machine"]
    where = f"\n{machine['processor']}, {machine['threads']} threads, PyTorch {training['versions']['torch']}"
    return f"{table(headings, rows)}{where}, {training['date']}.\n\n"
