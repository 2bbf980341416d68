"""Write the pages of tables.

docs/networks.md: every network's costs; docs/recipes.md: every row of the paper's tables; docs/speed.md,
docs/insertion.md, docs/ablation.md and a table of README.md: what the benchmarks measured. CONTRIBUTING.md: its tree
of files.

Command: make docs
"""

from collections.abc import Callable
from pathlib import Path

from ablation import ablation_page
from insertion import insertion_page
from senet.cli.tables import model_rows, scaled
from senet.paper.costs import HEADINGS, LEGEND, cells, compare_costs
from senet.paper.rows import PAPER_ROWS, Errors, PaperRow
from speed import readme_table, speed_page
from tree import tree

NETWORKS_HEAD = """\
# Networks

Written by `make docs` from the registry; `senet models` prints the same. Parameters are counted with the classes of the
network's own data set; MMAdds are millions of multiply-adds for one image of the given side, convolutions and linear
layers only. The errors are the paper's (arXiv:1709.01507v4, single crop; CIFAR: on the network's data set), not results
of this library.

| network | pixels | parameters | MMAdds | top-1 err., % | top-5 err., % | source |
|---|---:|---:|---:|---:|---:|---|
"""

COMPARISON_HEAD = """
## Beside the paper

What `senet models --paper` prints: every figure of parameters and multiply-adds in the paper and its release. A test
holds that each agrees or has its cause beside it.

"""


def comparison() -> str:
    """Return the comparison of all costs with the paper's."""
    lines = [f"| {' | '.join(HEADINGS)} |\n", "|---|---|---:|---:|---|---:|---:|---:|---|\n"]
    lines += [f"| {' | '.join(cells(row))} |\n" for row in compare_costs()]
    return COMPARISON_HEAD + "".join(lines) + f"\n{LEGEND}\n"


def networks_page() -> str:
    """Return docs/networks.md."""
    lines = []
    for row in model_rows():
        texts = (
            row["name"],
            str(row["input_size"]),
            scaled(row["parameters"], 1, 0),
            scaled(row["multiply_adds"], 1e6, 1),
            scaled(row["paper_top1_error"], 1, 2),
            scaled(row["paper_top5_error"], 1, 2),
            row["source"],
        )
        lines.append(f"| {' | '.join(texts)} |\n")
    return NETWORKS_HEAD + "".join(lines) + comparison()


RECIPES_HEAD = """\
# Recipes for the paper's tables

Written by `make docs` from `senet.paper.rows`. Each row of Tables 2-6, 9 and 10-16 of the paper (arXiv:1709.01507v4)
has the command that trains it. The paper's errors are in %, on one center crop; "ours" is what the command gave us.

The commands look for the images in `data/`; `--data.root FOLDER` says otherwise. `torchrun` starts one process for each
GPU, and the batch is spread over the processes: with fewer, raise `--batch-size` or `--compute.accumulate` in
proportion. `senet train RECIPE --help` says where each recipe comes from, and what of it the sources do not state.
"""
NOTES = {
    2: "ImageNet. The paper's figures are those of its own re-implementations.",
    3: "ImageNet. Crop scale and patience are ours: the paper does not state them.",
    4: "CIFAR-10. The figures without SE are from the column that the paper calls original.",
    5: "CIFAR-100. The figures without SE are from the column that the paper calls original.",
    6: "Places365. The paper trained on Places365-Challenge (8 million images), the recipe on Places365-Standard "
    "(1.8 million); the hyper-parameters are section 5.1's.",
    9: "ImageNet. The paper states the crop of 320 and nothing else beyond the appendix.",
    10: "ImageNet. Tables 10 to 16 vary SE-ResNet-50 without FC biases. Their figures come from a schedule that waits "
    "for the validation loss to stop falling; the recipe is the fixed schedule of 270 epochs from the footnote in "
    "section 6, with which the paper reports 23.21 / 6.53 for ResNet-50 and 22.20 / 6.00 for SE-ResNet-50. Rows with "
    "the same command are one run.",
}
"""What to know of a table, before its rows."""


def errors(figures: Errors | None, digits: int) -> str:
    """Format top-1 and top-5 error, or the one error of CIFAR."""
    if figures is None:
        return "not yet run"
    return " / ".join(f"{error:.{digits}f}" for error in figures if error is not None)


def paper_table(table: int, rows: list[PaperRow]) -> str:
    """Return one table of the paper."""
    digits = 1 if table == 3 else 2  # as printed
    heading = "error" if rows[0].paper.top5 is None else "top-1 / top-5"
    lines = [f"\n## Table {table}\n\n"]
    if table in NOTES:
        lines.append(f"{NOTES[table]}\n\n")
    lines.append(f"| row | paper, {heading} | ours | command |\n|---|---:|---:|---|\n")
    for row in rows:
        texts = (row.label, errors(row.paper, digits), errors(row.result, 2), f"`{row.command()}`")
        lines.append(f"| {' | '.join(texts)} |\n")
    return "".join(lines)


def recipes_page() -> str:
    """Return docs/recipes.md."""
    tables = sorted({row.table for row in PAPER_ROWS})
    return RECIPES_HEAD + "".join(paper_table(t, [row for row in PAPER_ROWS if row.table == t]) for t in tables)


ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"


def filled(path: Path, part: str, text: str) -> str:
    """Return a page with the text between its two marks of a part replaced."""
    start, end = f"<!-- {part}: written by make docs -->\n", f"<!-- end of {part} -->\n"
    before, rest = path.read_text().split(start)
    return before + start + text + end + rest.split(end)[1]


def readme() -> str:
    """Return README.md with its table of speed."""
    return filled(README, "speed", readme_table())


def contributing() -> str:
    """Return CONTRIBUTING.md with its tree of files."""
    return filled(CONTRIBUTING, "tree", tree())


DOCS = Path(__file__).parent
PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "networks.md": networks_page,
    DOCS / "recipes.md": recipes_page,
    DOCS / "speed.md": speed_page,
    DOCS / "insertion.md": insertion_page,
    DOCS / "ablation.md": ablation_page,
    README: readme,
    CONTRIBUTING: contributing,
}
"""The text of each file that is written, not edited."""


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
        print(f"Wrote {path}")
