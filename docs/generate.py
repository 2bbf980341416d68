"""Write docs/networks.md from the registry: every network's costs beside the paper's figures.

Command: make docs
"""

from pathlib import Path

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
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"Wrote {PAGE}")
