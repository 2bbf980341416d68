"""The tables of docs/speed.md: what was measured on the CPU, topic by topic."""

import statistics
from collections.abc import Mapping, Sequence

from pages.measured import Result, median, number, ratio, ratios, shape_of, spread, table
from pages.speed_goals import least_of_inference, least_of_the_operator, least_of_training

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
