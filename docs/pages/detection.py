"""Write the tables of detection in docs/results.md from benchmarks/results/detection.json and detection_step.json."""

import statistics

from pages.measured import Result, number, provenance, read, table

LABELS = {"resnet18": "ResNet-18", "se_resnet18": "SE-ResNet-18"}
FIGURES = {"ap50": "AP50", "ap": "AP", "ap75": "AP75"}
CELLS = """
Faster R-CNN on 364 photos of blood cells (BCCD; 205 for training, 87 to choose the best epoch, 72 to judge), from
random weights, photos of {image} pixels, {epochs} epochs; in %, on the test photos, mean and standard deviation of
{seeds} seeds.
"""
STEP = """
Seconds for one image of {height} x {width} pixels with Faster R-CNN on a feature pyramid and ResNet-50, BatchNorm a
fixed affine function, the stem and the first stage frozen; median of {rounds} rounds in turn, and the ratio to this
library's plain detector, round by round (lowest to highest). All have the same weights, and SE blocks whose gates are
1, so that all find the same boxes. *Optimized*: `senet.optimize_for_inference(detector, backend="eager")`.
"""
OVERFIT = """
Of {photos} photos of COCO with {boxes} boxes, trained on alone for {epochs} epochs, Faster R-CNN on {trunk} finds
{ap50:.1f} % (AP50; AP {ap:.1f}): what it must, if boxes, labels and losses are right.
"""


def detection_tables() -> str:
    """Return the tables, or that nothing has been measured."""
    parts = [cells(read("detection")), overfitting(read("detection_overfit")), steps(read("detection_step"))]
    return "".join(parts)


def cells(result: Result | None) -> str:
    """Return the table of the blood cells."""
    if result is None:
        return "\nNot measured yet: `python benchmarks/detection.py --data FOLDER`.\n"
    runs, lines = result["runs"], []
    classes = list(runs[0]["ap50_by_class"])
    for trunk, label in LABELS.items():
        own = [run for run in runs if run["trunk"] == trunk]
        if own:
            found = [[run[name] for run in own] for name in FIGURES]
            found += [[run["ap50_by_class"][name] for run in own] for name in classes]
            lines.append((label, *map(with_deviation, found)))
    seeds = len({run["seed"] for run in runs})
    text = CELLS.format(seeds=seeds, **result["settings"])
    text += table(("trunk", *FIGURES.values(), *(f"AP50, {name}" for name in classes)), lines)
    return text + "\n" + provenance("python benchmarks/detection.py --data FOLDER", result)


def with_deviation(found: list[float]) -> str:
    """Format a mean and a standard deviation."""
    deviation = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{deviation}"


def overfitting(result: Result | None) -> str:
    """Return how well some photos are learned by heart."""
    if result is None:
        return ""
    command = "python benchmarks/detection.py --overfit FOLDER"
    return OVERFIT.format(**result["overfit"]) + "\n" + provenance(command, result)


def steps(result: Result | None) -> str:
    """Return the table of times."""
    if result is None:
        return "\nNot measured yet: `python benchmarks/detection_step.py`.\n"
    lines = []
    for what in ("training step", "one image"):
        found = result[what]
        plain = found["milliseconds"]["plain"]
        for name, times in found["milliseconds"].items():
            ratios = sorted(a / b for a, b in zip(times, plain, strict=True))
            shown = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            shown = "1" if name == "plain" else shown
            lines.append((what, name, number(statistics.median(times) / 1000), shown))
    text = STEP.format(**result["settings"]) + table(("", "detector", "seconds", "times plain"), lines)
    return text + "\n" + provenance("python benchmarks/detection_step.py", result)
