"""Write docs/networks.md from the registry: every network's costs beside the paper's figures.

Command: make docs
"""

from pathlib import Path

import torch

from senet.block import SEOptions
from senet.costs import cost
from senet.models.registry import create_model
from senet.models.table import model_rows, scaled

PAGE = Path(__file__).parent / "networks.md"
HEAD = """\
# Networks

Written by `make docs` from the registry; `senet models` prints the same. Parameters are counted with the classes of the
network's own data set; MMAdds are millions of multiply-adds for one image of the given side, convolutions and linear
layers only. The paper's columns are its figures (arXiv:1709.01507v4, single crop; CIFAR: error on CIFAR-10), not
results of this library.

| network | pixels | parameters | paper, M | MMAdds | paper | difference | top-1 err., % | top-5 err., % | source |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---|
"""

ABLATIONS = """
## The ablations' networks

SE-ResNet-50 without FC biases, as section 6 of the paper varies it. The paper's parameter counts agree with ours once
BatchNorm's moving means and variances are counted too (53,120 numbers in ResNet-50); reduction 8 differs in the last
digit.

| table | variant | parameters | with moving statistics, M | paper, M | MMAdds | paper |
|---|---|---:|---:|---:|---:|---:|
"""
VARIANTS: tuple[tuple[str, str, SEOptions | None, float, float | None], ...] = (
    *(
        ("10", f"reduction {ratio}", SEOptions(reduction=ratio, bias=False), millions, None)
        for ratio, millions in ((2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9))
    ),
    ("10", "no SE", None, 25.6, None),
    *(
        ("13", f"stage {stage} only", SEOptions(stages=(stage,), bias=False), millions, None)
        for stage, millions in ((2, 25.6), (3, 25.7), (4, 26.4))
    ),
    ("15", "behind the 3x3", SEOptions(placement="3x3", bias=False), 25.8, 3860),
    ("16", "no squeeze", SEOptions(squeeze="none", bias=False), 28.1, 4270),
)
"""Table, variant, its options (None: the plain network), the paper's millions of parameters and of multiply-adds."""


def ablations() -> str:
    """Return the table of the ablations' networks."""
    lines = []
    for number, variant, se, paper_parameters, paper_multiply_adds in VARIANTS:
        with torch.device("meta"):
            model = create_model("se_resnet50" if se else "resnet50", se=se)
        counted = cost(model)
        statistics = sum(b.numel() for b in model.buffers() if b.dim())
        cells = (
            number,
            variant,
            scaled(counted.parameters, 1, 0),
            scaled(counted.parameters + statistics, 1e6, 2),
            f"{paper_parameters}",
            scaled(counted.multiply_adds, 1e6, 1),
            scaled(paper_multiply_adds, 1, 0),
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return ABLATIONS + "".join(lines)


def page() -> str:
    """Return the page."""
    lines = []
    for row in model_rows():
        paper = row["paper_multiply_adds"]
        difference = "" if paper is None else f"{100 * (row['multiply_adds'] / paper - 1):+.2f} %"
        cells = (
            row["name"],
            str(row["input_size"]),
            scaled(row["parameters"], 1, 0),
            scaled(row["paper_parameters"], 1e6, 1),
            scaled(row["multiply_adds"], 1e6, 1),
            scaled(paper, 1e6, 0),
            difference,
            scaled(row["paper_top1_error"], 1, 2),
            scaled(row["paper_top5_error"], 1, 2),
            row["source"],
        )
        lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines) + ablations()


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"Wrote {PAGE}")
