"""Write docs/insertion.md from benchmarks/results."""

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pages.measured import read, table

HEAD = """\
# SE in other people's networks

Written by `make docs` from `benchmarks/results/insertion_*.json`. [guide.md](guide.md#add-se-to-your-own-model) says
how to put SE into your own.
"""
STATUSES = ("inserted", "gated already", "nothing to insert", "failed")


COVERAGE_HEAD = """
## Which networks

`python benchmarks/insertion_coverage.py`: every classifier of torchvision without attention, and of timm's modules of
convolutional networks the smallest network of each set of layer classes. Outputs equal bit for bit, keys kept, one
training step, removal: all of it holds for all that have not failed. Where every branch has a gate already, a second
one was inserted (`existing="add"`).
"""
DENSE_HEAD = """
## Encoder-decoders and detectors

`python benchmarks/insertion_dense.py`: the decoders of segmentation_models_pytorch with a {encoder}, and every
detection and segmentation network of torchvision. Outputs equal bit for bit, keys kept, removal. The encoder gets what
it gets in a classifier. A decoder gets blocks where it joins maps (U-Net) or adds a branch of its own to a map
(LinkNet), and none in the top-down sums of a feature pyramid.
"""
FINETUNING_HEAD = """
## Does it help?

`python benchmarks/insertion_finetuning.py`: {model}, trained without SE to {before:.2f} % on a strongly compressed
CIFAR-10, fine-tuned for {epochs} epochs as it is, and with SE inserted ({added:,} parameters beside {parameters:,}):
the same weights, budget and seeds.
"""


def coverage(result: Mapping[str, Any]) -> str:
    """Return the tables of `insertion_coverage.py`."""
    rows, text = result["networks"], COVERAGE_HEAD
    counted = []
    for library in ("torchvision", "timm"):
        of = [row for row in rows if row["network"].startswith(f"{library}/")]
        counts = Counter(row["status"] for row in of)
        counted.append((library, str(len(of)), *(str(counts[status]) for status in STATUSES)))
    text += table(("library", "networks", *STATUSES), counted)
    text += provenance(result)
    told = [(row["network"], row["reason"]) for row in rows if row["status"] in ("nothing to insert", "failed")]
    if told:
        text += "\nNothing to insert, or failed:\n\n| network | why |\n|---|---|\n"
        text += "".join(f"| {name} | {reason} |\n" for name, reason in told)
    text += "\nAll networks, with the blocks that were put in and where:\n"
    lines = []
    for row in rows:
        if "blocks" in row:
            where = ", ".join(row["kinds"])
            lines.append((row["network"], row["family"], str(row["blocks"]), str(row["gated"]), where))
    return text + table(("network", "family", "blocks", "branches with a gate", "where"), lines)


def dense(result: Mapping[str, Any]) -> str:
    """Return the table of `insertion_dense.py`."""
    lines = [
        (
            row["network"],
            *("; ".join(f"{count} x {what}" for what, count in row[key].items()) for key in ("sites", "skipped")),
        )
        for row in result["networks"]
    ]
    text = DENSE_HEAD.format(encoder=result["encoder"])
    text += "\n| network | sites | skipped |\n|---|---|---|\n"
    text += "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text + provenance(result)


def provenance(result: Mapping[str, Any]) -> str:
    """Say which versions a result comes from, and when."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"\n{versions}; {result['date']}.\n"


def finetuning(result: Mapping[str, Any]) -> str:
    """Return the table of `insertion_finetuning.py`."""
    text = FINETUNING_HEAD.format(
        model=result["model"],
        before=result["before"]["top1"],
        epochs=result["settings"]["epochs"],
        added=result["parameters_added"],
        parameters=result["parameters"],
    )
    lines, means = [], {}
    for name in ("plain", "SE"):
        top1 = [row["top1"] for row in result["runs"] if row["network"] == name]
        means[name] = top1
        each = ", ".join(f"{x:.2f}" for x in top1)
        lines.append((name, f"{statistics.mean(top1):.2f}", f"{statistics.stdev(top1):.2f}", each))
    text += table(("network", "top-1, %", "deviation", "seeds"), lines)
    gains = [b - a for a, b in zip(means["plain"], means["SE"], strict=True)]
    mean, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    helps = "helps" if mean > 2 * error else "hurts" if mean < -2 * error else "neither helps nor hurts"
    text += (
        f"\nGain seed by seed: {', '.join(f'{gain:+.2f}' for gain in gains)}; on average {mean:+.2f} with a standard "
    )
    text += f"error of {error:.2f}. So in {result['settings']['epochs']} epochs SE {helps} here. {result['date']}.\n"
    return text


def insertion_page() -> str:
    """Return docs/insertion.md."""
    sections = {"insertion_finetuning": finetuning, "insertion_dense": dense, "insertion_coverage": coverage}
    results = {name: read(name) for name in sections}
    missing = [f"`python benchmarks/{name}.py`" for name, result in results.items() if result is None]
    text = HEAD + (f"\nNot measured yet: {' and '.join(missing)}.\n" if missing else "")
    return text + "".join(sections[name](result) for name, result in results.items() if result is not None)
