"""Write docs/networks.md: the costs of every network, and their comparison with the paper's."""

from senet.cli.tables import model_cells, model_rows
from senet.paper.costs import HEADINGS, LEGEND, cells, compare_costs

NETWORKS_HEAD = """\
# Networks

Written by `make docs`; `senet models` prints the same. Parameters are counted with the classes of the
network's own data set; MMAdds are millions of multiply-adds for one image of the given side, convolutions and linear
layers only. The errors are the paper's (arXiv:1709.01507v4, single crop; CIFAR: on the network's data set), not results
of this library.

| network | pixels | parameters | MMAdds | top-1 err., % | top-5 err., % | source |
|---|---:|---:|---:|---:|---:|---|
"""

COMPARISON_HEAD = """
## Beside the paper

What `senet models --paper` prints: every figure of parameters and multiply-adds in the paper and its release. A test
checks that each agrees or has its cause beside it.

"""


def comparison() -> str:
    """Return the comparison of all costs with the paper's."""
    lines = [f"| {' | '.join(HEADINGS)} |\n", "|---|---|---|---:|---:|---|---:|---:|---:|---|\n"]
    lines += [f"| {' | '.join(cells(row))} |\n" for row in compare_costs()]
    return COMPARISON_HEAD + "".join(lines) + f"\n{LEGEND}\n"


def networks_page() -> str:
    """Return docs/networks.md."""
    lines = []
    for row in model_rows():
        texts = [text for heading, text in model_cells(row).items() if not heading.startswith("paper")]
        lines.append(f"| {' | '.join(texts)} |\n")
    return NETWORKS_HEAD + "".join(lines) + comparison()
