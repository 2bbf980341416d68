"""Write the tables of fine-tuning in docs/results.md from benchmarks/results/finetuning.json and _variants.json."""

import statistics
from collections.abc import Iterable, Sequence

from pages.measured import Result, number, provenance, read, table

PLAIN = "cifar_resnet20"
PEERS = ("fastai", "timm", "timm, advised")
OURS = "senet finetune"
USUAL = "base"
LABELS = {
    (OURS, False): "`senet finetune`",
    ("fastai", False): "fastai, `fine_tune`",
    ("timm", False): "timm, `train.py`",
    ("timm, advised", False): "timm, `train.py`, advised",
    ("from scratch", False): "`senet finetune --no-pretrained`",
    (OURS, True): "without SE: `senet finetune`",
    ("SE inserted", True): "without SE, then inserted: `senet finetune`",
}
"""Of each contestant, and whether its network was trained without SE."""
CIFAR = """
Top-1 accuracy in % on the 5,000 test images of the five classes, mean and standard deviation of {seeds} seeds, which
also choose the images. Of the images a fifth are for validation. Training took at most {seconds} seconds on one core.
"""
PHOTOS = """
Crops of at least 48 pixels of the boxes in 100 photos of COCO, 10 classes, two thirds of the crops people, in the other
classes 2 to 6 crops for training: the packaged `cifar_se_resnet20`, at 48 pixels. Those of train.json's photos are for
training and validation, those of val.json's judge. Mean and standard deviation over seeds.
"""
VARIANTS = """
What the defaults of `senet finetune` rest on: balanced accuracy in % on pictures that judge nothing else (see the
command's file), and by how many points it changes with one choice, with the standard error over seeds where there is
more than one. Differences of less than twice that say nothing, and those of a single seed little. The base has 0.4
times the default's learning rate, and BatchNorm trained except on the photos; most runs are shorter than the default's.
"""
KEPT = """
The same with the epoch that was best in validation kept instead of the last; all of the runs above.
"""
EPOCHS = """
Images that are trained on in a second on one core, validation included; median of rounds in turn.
"""


def finetuning_tables() -> str:
    """Return the tables, or that nothing has been measured."""
    result = read("finetuning")
    if result is None:
        return "\nNot measured yet: `python benchmarks/finetuning.py --all`.\n" + variants_tables()
    parts = [part(result) for name, part in PARTS.items() if result.get(name)]
    return "".join(parts) + "\n" + provenance("python benchmarks/finetuning.py --all", result) + variants_tables()


def contestants(rows: Sequence[Result]) -> list[tuple[str, bool]]:
    """Return the contestants that have rows, each with whether its network was trained without SE, as in `LABELS`."""
    found = {(row["contestant"], row["network"] == PLAIN) for row in rows}
    return [key for key in LABELS if key in found]


def values(rows: Iterable[Result], key: tuple[str, bool], metric: str, group: int | None = None) -> list[float]:
    """Return a metric of a contestant in all its runs, or in those of one group."""
    return [
        row[metric]
        for row in rows
        if (row["contestant"], row["network"] == PLAIN) == key and group in (None, row["group"]) and metric in row
    ]


def with_deviation(found: Sequence[float]) -> str:
    """Format a mean and a standard deviation."""
    if not found:
        return "failed"
    deviation = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{deviation}"


def cifar(result: Result) -> str:
    """Return the table of CIFAR-10."""
    rows = result["cifar"]
    groups = sorted({row["group"] for row in rows})
    lines = [
        (LABELS[key], *(with_deviation(values(rows, key, "top1", group)) for group in groups))
        for key in contestants(rows)
    ]
    seconds = ", ".join(f"{max(row['budget'] for row in rows if row['group'] == group):.0f}" for group in groups)
    text = CIFAR.format(seeds=len({row["seed"] for row in rows}), seconds=seconds)
    text += table(("", *(f"{group} images a class" for group in groups)), lines)
    said = [f"{ahead(rows, 'top1', group)} with {group} images a class" for group in groups]
    return text + f"\nAhead of the best of the others: {', '.join(said)} (points of top-1 accuracy).\n"


def ahead(rows: Sequence[Result], metric: str, group: int) -> str:
    """Format by how many points this library's mean is ahead of the best of the others."""
    own, *others = (values(rows, (name, False), metric, group) for name in (OURS, *PEERS))
    means = [statistics.mean(found) for found in others if found]
    return f"{statistics.mean(own) - max(means):+.1f}" if own and means else "unknown"


def photos(result: Result) -> str:
    """Return the table of the photos' crops, by how long and on how many cores the contestants trained."""
    rows, metrics = result["photos"], ("balanced_accuracy", "macro_f1", "top1")
    lines, said = [], []
    for seconds, cores in sorted({(row["budget"], row["cores"]) for row in rows}):
        some = [row for row in rows if (row["budget"], row["cores"]) == (seconds, cores)]
        of_time = f"{seconds:.0f} s on {cores} core{'s' if cores > 1 else ''}"
        for key in contestants(some):
            found = [values(some, key, metric) for metric in metrics]
            lines.append((of_time, LABELS[key], str(len(found[0])), *map(with_deviation, found)))
        own, *others = (values(some, (name, False), metrics[0]) for name in (OURS, *PEERS))
        means = [statistics.mean(found) for found in others if found]
        if own and means:
            said.append(f"{statistics.mean(own) / max(means):.2f} in {of_time}")
    text = PHOTOS + table(("time", "", "seeds", "balanced accuracy, %", "macro F1, %", "top-1, %"), lines)
    if said:
        text += f"\nBalanced accuracy as a multiple of that of the best other: {', '.join(said)}.\n"
    return text


def epochs(result: Result) -> str:
    """Return the table of how long an epoch takes."""
    cases = result["epoch"]
    names = list(dict.fromkeys(name for case in cases for name in case["images_per_s"]))
    lines = []
    for name in names:
        found = [case["images_per_s"].get(name) for case in cases]
        lines.append((name, *(number(statistics.median(speeds)) if speeds else "failed" for speeds in found)))
    heads = [f"`{case['network']}`, {case['image_size']} pixels" for case in cases]
    return EPOCHS + table(("", *heads), lines)


def variants_tables() -> str:
    """Return the table of what each of `senet finetune`'s defaults is worth, empty if it has not been measured."""
    result = read("finetuning_variants")
    if result is None:
        return ""
    found = {(row["data"], row["variant"]): row for row in result["summary"]}
    data, names = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    order = sorted(names, key=lambda name: (name != USUAL, names.index(name)))
    lines = [(name, *(change(found.get((each, name))) for each in data)) for name in order]
    text = VARIANTS + table(("", *data), lines)
    means = [
        [statistics.mean(row[kept] for (each, _), row in found.items() if each == own) for own in data]
        for kept in ("last", "best")
    ]
    text += KEPT + table(
        ("", *data),
        [(f"{kept} epoch", *map("{:.1f}".format, row)) for kept, row in zip(("last", "best"), means, strict=True)],
    )
    return text + "\n" + provenance("python benchmarks/finetuning_variants.py", result)


def change(row: Result | None) -> str:
    """Format by how much a variant differs from the defaults; for these, what they reach."""
    if row is None:
        return ""
    if row["variant"] == USUAL:
        return f"{row['last']:.1f}"
    error = f" ± {row['error']:.1f}" if "error" in row else ""
    return f"{row['difference']:+.1f}{error}"


PARTS = {"cifar": cifar, "photos": photos, "epoch": epochs}
