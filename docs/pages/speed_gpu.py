"""The part of docs/speed.md about GPUs: goals, and the tables of what `make bench-gpu` measured."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pages.measured import Result, median, number, provenance, ratios, read, spread, table
from pages.speed_tables import KERNELS

PLAIN, SE, SENET = "timm resnet50", "timm seresnet50", "senet se_resnet50"
FORMS = ("eager", "eager, one graph", "compiled", "compiled, one graph", "reduce-overhead")
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class GpuGoal:
    """A goal on a GPU.

    Args:
        title: what is compared.
        limit: the most that is allowed; the least, if `at_least`.
        values: what was measured; empty if nothing was.
        before: what the version before four operators reached, in words.
        at_least: whether more is better.
    """

    title: str
    limit: float
    values: Sequence[float]
    before: str
    at_least: bool = False

    def row(self) -> list[str]:
        """Return the row of the table of goals."""
        limit = f"at least {self.limit:,g}" if self.at_least else f"{self.limit:.2f}"
        if not self.values:
            return [self.title, limit, NOT_MEASURED, "", self.before]
        middle = statistics.median(self.values)
        reached = middle >= self.limit if self.at_least else middle <= self.limit + 0.004
        measured = number(middle) if middle > 100 else spread(self.values)
        return [self.title, limit, measured, "yes" if reached else "no", self.before]


def find(result: Result | None, kind: str, **setting: object) -> Result:
    """Return a measurement, an empty one if it was not made."""
    for one in result["measured"] if result else ():
        if one["kind"] == kind and all(one.get(key) == value for key, value in setting.items()):
            return one
    return {"milliseconds": {}, "facts": {}, "errors": {}}


def compared(one: Result, name: str, base: str) -> list[float]:
    """Return the ratios of two contestants in each round; empty if one of them was not measured."""
    times = one["milliseconds"]
    return ratios(times, name, base) if {name, base} <= times.keys() else []


def peak_ratio(one: Result) -> list[float]:
    """Return the peak memory of our network's step beside the plain network's; empty if it was not measured."""
    peaks = [one["facts"].get(name, {}).get("peak_mb") for name in (SENET, PLAIN)]
    return [peaks[0] / peaks[1]] if all(peaks) else []


def gpu_goals(result: Result | None) -> list[GpuGoal]:
    """Return the goals on a GPU."""
    step = {form: find(result, "training step", batch=256, form=form) for form in FORMS}
    one_image, many = (find(result, "inference", batch=batch) for batch in (1, 256))
    run = find(result, "senet.train")["facts"].get("senet.train", {})
    shares = [facts["share_of_copy"]["moments"] for _, facts in kernels_of(result) if facts["precision"] == "bf16"]
    inference = "inference of {}, beside {}, captured alike"
    return [
        GpuGoal(
            title="training step, batch 256, compiled, beside timm resnet50 compiled",
            limit=1.0,
            values=compared(step["compiled"], SENET, PLAIN),
            before="1.91",
        ),
        GpuGoal(
            title="the same beside timm seresnet50 compiled",
            limit=0.85,
            values=compared(step["compiled"], SENET, SE),
            before="1.61",
        ),
        GpuGoal(
            title="eager step in one CUDA graph, batch 256, beside timm resnet50 in one",
            limit=0.85,
            values=compared(step["eager, one graph"], SENET, PLAIN),
            before=NOT_MEASURED,
        ),
        GpuGoal(
            title="peak memory of an eager step, batch 256, beside timm resnet50",
            limit=1.0,
            values=peak_ratio(step["eager"]),
            before=NOT_MEASURED,
        ),
        GpuGoal(
            title=inference.format("256 images", "the plain network"),
            limit=1.0,
            values=compared(many, "SE, senet inductor", "plain, senet inductor"),
            before="1.00",
        ),
        GpuGoal(
            title=inference.format("one image", "the plain network"),
            limit=1.1,
            values=compared(one_image, "SE, senet inductor", "plain, senet inductor"),
            before="1.40",
        ),
        GpuGoal(
            title=inference.format("one image", "timm seresnet50"),
            limit=1.0,
            values=compared(one_image, "SE, senet inductor", "SE, compiled"),
            before="0.96",
        ),
        GpuGoal(
            title="`senet train` of cifar_se_resnet20, batch 128, images/s",
            limit=40_000,
            values=run.get("images_per_s", []),
            before="2,000 to 2,800",
            at_least=True,
        ),
        GpuGoal(
            title="kernel `moments` beside a copy, bf16, the slowest of four stages and two batches",
            limit=0.8,
            values=[min(shares)] if shares else [],
            before="0.22",
            at_least=True,
        ),
    ]


def kernels_of(result: Result | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the shape and the facts of each measurement of the kernels."""
    for one in result["measured"] if result else ():
        if one["kind"] == "kernels" and "kernels" in one["facts"]:
            shape = f"{one['precision']}, {one['batch']} x {one['channels']} x {one['side']} x {one['side']}"
            yield shape, {"precision": one["precision"], **one["facts"]["kernels"]}


GOALS_HEAD = """
### On a GPU

The last column is the version before the operator was cut into four: one H100 80GB, torch 2.11, triton 3.6, timm
1.0.29, bf16 autocast, channels-last, 2026-11-26.
"""
NO_GPU = """
Not measured yet since then. One command does, in 8 minutes on an H100: `make bench-gpu`.
"""


def gpu_goals_section() -> str:
    """Return the goals on a GPU."""
    result = read("gpu")
    rows = [goal.row() for goal in gpu_goals(result)]
    text = GOALS_HEAD + ("" if result is not None else NO_GPU)
    return text + table(("", "at most", "measured", "reached", "2026-11-26"), rows)


def gpu_section() -> str:
    """Return the tables of what was measured on a GPU, empty if nothing was."""
    result = read("gpu")
    if result is None:
        return ""
    text = "\n## On a GPU\n\n" + provenance("gpu", with_bounds(result))
    check = find(result, "exactness")["facts"].get("exactness")
    if check is not None:
        text += f"\n{check['passed']} of {check['made']} comparisons with float64 passed.\n"
    text += steps_tables(result) + inference_table(result)
    rows = [
        (shape, *(f"{facts['share_of_copy'][name]:.2f}" for name in KERNELS)) for shape, facts in kernels_of(result)
    ]
    if rows:
        text += "\nBandwidth of the kernels beside that of a copy:\n" + table(("shape", *KERNELS), rows)
    return text + failures(result)


def with_bounds(result: Result) -> Result:
    """Return a result with the speeds of the machine where other results have them."""
    speeds = find(result, "speeds")["facts"].get("speeds")
    return result if speeds is None else {**result, "bounds": speeds}


def steps_tables(result: Result) -> str:
    """Return a table for each network and batch: milliseconds, and times the plain network, in every form."""
    text = ""
    for kind, batch in (("training step", 256), ("training step", 32), ("small training step", 128)):
        forms = {form: find(result, kind, batch=batch, form=form) for form in FORMS}
        names = list(dict.fromkeys(name for one in forms.values() for name in one["milliseconds"]))
        rows = []
        for name in names:
            cells = []
            for one in forms.values():
                times = compared(one, name, names[0])
                cells.append(f"{median(one['milliseconds'], name)} ({statistics.median(times):.2f})" if times else "")
            peak = forms["eager"]["facts"].get(name, {}).get("peak_mb")
            rows.append((name, *cells, "" if peak is None else number(peak)))
        if rows:
            text += f"\nA {kind} of {batch} images, in ms (and times {names[0]}):\n"
            text += table(("", *FORMS, "peak memory, eager, MB"), rows)
    return text


def inference_table(result: Result) -> str:
    """Return the table of inference."""
    rows = []
    for batch in (1, 16, 256):
        one = find(result, "inference", batch=batch)
        for name in one["milliseconds"]:
            plain = name.replace("SE,", "plain,")
            times = compared(one, name, plain)
            cells = (median(one["milliseconds"], name), f"{statistics.median(times):.2f}" if times else "")
            rows.append((f"batch {batch}: {name}", *cells))
    return "\nInference:\n" + table(("", "ms", "times plain"), rows) if rows else ""


def failures(result: Result) -> str:
    """Return what failed and what was left out, empty if nothing."""
    lines = [
        f"- {one['name']}: {name}: {error}\n" for one in result["measured"] for name, error in one["errors"].items()
    ]
    lines += [f"- {name}: left out: {reason}\n" for name, reason in result["left_out"].items()]
    return "\nWhat failed or was left out:\n\n" + "".join(lines) if lines else ""
