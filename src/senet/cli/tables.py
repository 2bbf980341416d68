"""Tables of networks: their parameters, multiply-adds and errors beside the paper's."""

from collections.abc import Sequence
from typing import Any

import torch

from senet.costs import cost
from senet.factory import create_model
from senet.models.catalog import list_models, model_card
from senet.paper.costs import HEADINGS, CostComparison, cells
from senet.paper.figures import Figures, row_of
from senet.terminal import Table, console, say, tracked


def model_rows(pattern: str = "*") -> list[dict[str, Any]]:
    """Return a row for every network that matches: counted on the meta device, nothing is allocated.

    Returns:
        name, input_size (pixels), parameters, multiply_adds, and paper_parameters and paper_multiply_adds in the same
        units, paper_top1_error and paper_top5_error in %, source; None where the paper says nothing.
    """
    rows = []
    names = list_models(pattern)
    for name in tracked(names, "Counting", len(names)):
        card, printed = model_card(name), row_of(name)
        with torch.device("meta"):
            counted = cost(create_model(name))
        paper = Figures() if printed is None else printed.figures
        rows.append(
            {
                "name": name,
                "input_size": card.preprocessing.image_size,
                "parameters": counted.parameters,
                "paper_parameters": None if paper.parameters is None else round(float(paper.parameters) * 1e6),
                "multiply_adds": counted.multiply_adds,
                "paper_multiply_adds": None if paper.multiply_adds is None else round(paper.multiply_adds * 1e6),
                "paper_top1_error": paper.top1,
                "paper_top5_error": paper.top5,
                "source": card.source if printed is None else printed.source,
            }
        )
    return rows


def scaled(value: float | None, unit: float, digits: int) -> str:
    """Format a number in a unit; empty for None."""
    return "" if value is None else f"{value / unit:,.{digits}f}"


def model_cells(row: dict[str, Any]) -> dict[str, str]:
    """Return the cells of a row of `model_rows`, by the headings of the table."""
    return {
        "network": row["name"],
        "pixels": str(row["input_size"]),
        "parameters": scaled(row["parameters"], 1, 0),
        "paper, M": scaled(row["paper_parameters"], 1e6, 1),
        "MMAdds": scaled(row["multiply_adds"], 1e6, 1),
        "paper": scaled(row["paper_multiply_adds"], 1e6, 0),
        "top-1 err.": scaled(row["paper_top1_error"], 1, 2),
        "top-5 err.": scaled(row["paper_top5_error"], 1, 2),
        "source": row["source"],
    }


def print_models(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table, printed = Table(), [model_cells(row) for row in rows]
    for heading in printed[0]:
        table.add_column(heading, justify="left" if heading in ("network", "source") else "right", no_wrap=True)
    for texts in printed:
        table.add_row(*texts.values())
    console().print(table)
    say(
        "MMAdds: millions of multiply-adds for one image. "
        "Errors in %, single crop, as the paper (arXiv:1709.01507v4) prints them."
    )


def comparison_table(rows: Sequence[CostComparison]) -> Table:
    """Return the comparisons of costs as a table."""
    table = Table()
    for heading in HEADINGS:
        left = heading in ("table", "row", "network", "agree", "cause")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "cause")
    for row in rows:
        table.add_row(*cells(row))
    return table
