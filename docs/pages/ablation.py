"""Write docs/ablation.md from benchmarks/results/ablation_*.json, which are the ablation.json of `senet ablate`."""

import statistics
from collections.abc import Mapping
from typing import Any

from pages.measured import RESULTS, read, table
from senet.paper.ablation import SUBJECTS, paper_error

HEAD = """\
# The paper's ablations, run again

Written by `make docs` from `benchmarks/results/ablation_*.json`. Tables 10 to 16 of arXiv:1709.01507v4 on small data:
the mean top-1 error over the seeds in %, after the last epoch, with its standard deviation and their number. `of plain`
is the difference to the network without SE in standard errors of that difference, by the variance over seeds that all
variants have together: below about 2, the seeds do not tell the two apart. Variants have the paper's labels; the last
column is the paper's error with SE-ResNet-50 on ImageNet.
"""
DIGITS = """\
`cifar_se_resnet20` on scikit-learn's digits: 360 images to evaluate on, so that one is 0.28 %. As in the paper a ReLU
gate is the worst (tanh and sigmoid are within the seeds of each other), SE after the sum (SE-POST) is the worst place,
and SE before the branch (SE-PRE) is as good as the standard one. Not as in the paper, SE on the identity branch,
the best place there, is clearly worse here. The rest (reduction, squeeze, stages, 3x3, no squeeze, and whether there is
SE at all) these data are too easy to tell apart."""
CIFAR = """\
`cifar_se_resnet20` on the strongly compressed CIFAR-10 of [results.md](results.md), three epochs each: how fast these
networks learn, not where they end. Three seeds for Tables 10 to 13 and two for 14 to 16 (`of plain` is by all three
seeds of the plain one). As in the paper the gates come in the order sigmoid, tanh, ReLU, each clearly worse than the
one before; average squeeze is ahead of max; SE after the sum (SE-POST) is the worst place and SE before the branch
(SE-PRE) as good as the standard one; and of the reductions 32 has the highest error, by less than the seeds can tell.
Not as in the paper, SE on the identity branch is clearly worse, as on digits; and of the stages the last one alone has
the highest error, not the lowest, again within the seeds. After three epochs the standard SE is 0.3 points ahead of the
plain network, which the seeds do not tell apart; nor do they reductions, stages, the 3x3 place and no squeeze."""
THREE_EPOCHS = "cifar10_short --epochs 3 --data FOLDER --output runs/cifar"
DATA = {
    "digits": (
        "On digits",
        ("senet ablate digits --seeds 5 --output runs/ablation",),
        DIGITS,
    ),
    "cifar10": (
        "On CIFAR-10",
        (
            f"senet ablate {THREE_EPOCHS} --tables 10 11 12 13 --seeds 3",
            f"senet ablate {THREE_EPOCHS} --tables 14 15 16 --seeds 2",
        ),
        CIFAR,
    ),
}


def deviation(runs: Mapping[str, list[float]]) -> float:
    """Return the standard deviation over seeds that all variants have together: the root of the pooled variance."""
    freedom = sum(len(errors) - 1 for errors in runs.values())
    squares = sum((len(errors) - 1) * statistics.variance(errors) for errors in runs.values() if len(errors) > 1)
    return (squares / freedom) ** 0.5


def section(name: str, result: Mapping[str, Any]) -> str:
    """Return the tables of one data set."""
    title, commands, what = DATA[name]
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    text = f"\n## {title}\n\n{what}\n\n```console\n"
    text += "".join(f"$ {command}\n" for command in commands)
    text += f"```\n\nWith {versions}; {result['date']}.\n"
    runs = {row["run"]: row["top1_errors"] for row in sorted(result["rows"], key=lambda row: len(row["top1_errors"]))}
    plain, sigma = runs["plain"], deviation(runs)
    text += f"All variants together: {sigma:.2f} points of standard deviation over seeds.\n"
    for number in sorted({row["table"] for row in result["rows"]}):
        lines = []
        for row in result["rows"]:
            errors = row["top1_errors"]
            if row["table"] == number:
                spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
                error = sigma * (1 / len(errors) + 1 / len(plain)) ** 0.5
                beside = (statistics.mean(errors) - statistics.mean(plain)) / error
                counts = (f"{row['parameters']:,}", f"{row['multiply_adds'] / 1e6:,.2f}")
                lines.append(
                    (
                        row["label"],
                        *counts,
                        f"{statistics.mean(errors):.2f}{spread} ({len(errors)})",
                        "" if row["run"] == "plain" else f"{round(beside, 1) + 0.0:+.1f}",
                        f"{paper_error(number, row['label']):.2f}",
                    )
                )
        text += f"\nTable {number}, {SUBJECTS[number]}:\n"
        text += table(("variant", "parameters", "MMAdds", "error, % (seeds)", "of plain", "paper's, %"), lines)
    return text


def ablation_page() -> str:
    """Return docs/ablation.md."""
    found = {name: read(f"ablation_{name}") for name in DATA if (RESULTS / f"ablation_{name}.json").exists()}
    return HEAD + "".join(section(name, result) for name, result in found.items() if result is not None)
