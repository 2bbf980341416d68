"""Write docs/recipes.md: the rows of the paper's tables, each with the command that trains it, and newer recipes."""

import re

from senet.paper.figures import DETECTION_ROWS, FIXED_SCHEDULE, Figures
from senet.paper.rows import PAPER_ROWS, PaperRow
from senet.recipes import RECIPES

RECIPES_HEAD = """\
# Recipes for the paper's tables

Written by `make docs` from `senet.paper`. Each row of Tables 2-7, 9 and 10-16 of the paper (arXiv:1709.01507v4) has the
command that trains it. The errors are the paper's, in %, on one center crop. **This project has run none of these
commands to its end yet**: they take hours to weeks on GPUs. What it has trained is in
[results.md](results.md) and [ablation.md](ablation.md).

The commands look for the images in `data/`; `--data.root FOLDER` says otherwise. `torchrun` starts one process for each
GPU, and the batch is spread over the processes: with fewer, raise `--batch-size` or `--compute.accumulate` in
proportion. `senet train RECIPE --help` says where each recipe comes from, and what of it the sources do not state.
"""


def errors(figures: Figures, digits: int = 2) -> str:
    """Format top-1 and top-5 error, or the one error of CIFAR."""
    return " / ".join(f"{error:.{digits}f}" for error in (figures.top1, figures.top5) if error is not None)


fixed = {network: errors(figures) for network, figures in FIXED_SCHEDULE.items()}
NOTES = {
    2: "ImageNet. The paper's figures are those of its own re-implementations.",
    3: "ImageNet. The paper states neither crop scale nor patience; the recipe's are this project's choice.",
    4: "CIFAR-10. The figures without SE are from the column that the paper calls original.",
    5: "CIFAR-100. The figures without SE are from the column that the paper calls original.",
    6: "Places365. The paper trained on Places365-Challenge (8 million images), the recipe on Places365-Standard "
    "(1.8 million); the hyper-parameters are section 5.1's.",
    9: "ImageNet. The paper states the crop of 320 and nothing else beyond the appendix.",
    10: "ImageNet. Tables 10 to 16 vary SE-ResNet-50 without FC biases. Their figures come from a schedule that waits "
    "for the validation loss to stop falling; the recipe is the fixed schedule of 270 epochs from the footnote in "
    f"section 6, with which the paper reports {fixed['resnet50']} for ResNet-50 and {fixed['se_resnet50']} for "
    "SE-ResNet-50. Rows with the same command are one run.",
}
"""What to know of a table, before its rows."""


def paper_table(table: int, rows: list[PaperRow]) -> str:
    """Return one table of the paper."""
    digits = 1 if table == 3 else 2  # as printed
    heading = "error" if rows[0].printed.figures.top5 is None else "top-1 / top-5"
    lines = [f"\n## Table {table}\n\n"]
    if table in NOTES:
        lines.append(f"{NOTES[table]}\n\n")
    lines.append(f"| row | the paper's {heading} | command |\n|---|---:|---|\n")
    for row in rows:
        texts = (row.printed.label, errors(row.printed.figures, digits), f"`{row.command()}`")
        lines.append(f"| {' | '.join(texts)} |\n")
    return "".join(lines)


MODERN_HEAD = """
## ImageNet as it is trained today

Procedures A1 to A3 of "ResNet strikes back" (arXiv:2110.00476), beside the paper's. The accuracies are that work's, of
timm's ResNet-50, in %, on one center crop of 224 pixels; `--model.name resnet50` is that network, and without it the
recipes train its SE twin.

| recipe | ResNet-50, top-1 | epochs | command |
|---|---:|---:|---|
"""


def modern_row(name: str) -> str:
    """Return the row of a recipe, whose docstring has the expected accuracy and the command."""
    said = " ".join((RECIPES[name].__doc__ or "").split())
    accuracy, command = (
        found.group(1)
        for found in (re.search(r"reaches (\S+) %", said), re.search(r"Command: (.*?) Takes", said))
        if found
    )
    return f"| `{name}` | {accuracy} | {RECIPES[name]().epochs} | `{command}` |\n"


DETECTION_HEAD = """
## Table 7

Faster R-CNN on COCO, trained on train2017 and evaluated on val2017 (the paper's minival), average precision in %. The
paper says "2x" of the schedule and no more; its baselines are those of Detectron's FPN models of 2017-12 (AP 37.9 and
39.8), whose settings `coco_faster_rcnn` has, each with its source. **Not reproduced here yet.** `WEIGHTS` are the
trunk's, from ImageNet. `coco_faster_rcnn_1x` is the schedule of half the length. With fewer GPUs the learning rate and
the iterations follow the images of a step by themselves.

| row | the paper's AP50 / AP | command |
|---|---:|---|
"""

DETECTION_PEERS = """
Faster R-CNN with ResNet-50 and a feature pyramid, without SE, has an AP of 36.7 (1x) and 37.9 (2x) in Detectron, 36.9
(1x, Detectron's settings) and 37.9 (1x, its own settings with scale jitter) in Detectron2, 37.4 (1x) and 38.4 (2x) in
mmdetection: differences of this size come from details, before SE adds any.
"""


def detection_table() -> str:
    """Return Table 7."""
    start = "torchrun --nproc-per-node 8 -m senet train coco_faster_rcnn --data COCO"
    lines = [
        f"| {row.label} | {row.ap50} / {row.ap} | `{start} --output runs/coco_faster_rcnn/{row.trunk} --model.trunk "
        f"{row.trunk} --weights WEIGHTS` |\n"
        for row in DETECTION_ROWS
    ]
    return "".join((DETECTION_HEAD, *lines, DETECTION_PEERS))


def recipes_page() -> str:
    """Return docs/recipes.md."""
    tables = {
        t: paper_table(t, [row for row in PAPER_ROWS if row.printed.table == t])
        for t in {row.printed.table for row in PAPER_ROWS}
    }
    tables[7] = detection_table()
    paper = "".join(tables[number] for number in sorted(tables))
    modern = "".join(map(modern_row, ("imagenet_a1", "imagenet_a2", "imagenet_a3")))
    return RECIPES_HEAD + paper + MODERN_HEAD + modern
