"""Parameters and multiply-adds of every network beside what the paper prints."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Literal

import torch

from senet.costs import Cost, cost
from senet.factory import create_model
from senet.models.catalog import CARDS
from senet.nn.block import SEOptions
from senet.terminal import Table, tracked

TOLERANCE = 0.01
"""Largest relative difference of multiply-adds that needs no explanation."""
Counting = Literal["trainable", "with moving statistics", "truncated"]
"""How the paper's figure of the parameters comes about; see `CostComparison.counting`."""


@dataclass(frozen=True, kw_only=True)
class PrintedCost:
    """What the paper prints of one network; figures as text, for their number of digits.

    Args:
        table: where.
        label: of the row.
        name: of our network.
        se: its SE options; None for the network's default.
        parameters: in millions, or in full.
        multiply_adds: in millions.
        note: the cause of a difference.
    """

    table: str
    label: str
    name: str
    se: SEOptions | None = None
    parameters: str | None = None
    multiply_adds: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class CostComparison:
    """Our counts beside the paper's.

    Args:
        printed: the paper's.
        parameters: trainable.
        moving_statistics: BatchNorm's moving means and variances.
        multiply_adds: for one image.
    """

    printed: PrintedCost
    parameters: int
    moving_statistics: int
    multiply_adds: int

    @property
    def counting(self) -> Counting | None:
        """How our parameters become the paper's figure; None if they do not, or if it prints none."""
        text = self.printed.parameters
        if text is None:
            return None
        unit = Decimal(1) if "," in text else Decimal(10**6)
        figure = Decimal(text.replace(",", ""))
        digit = Decimal(1).scaleb(int(figure.as_tuple().exponent))
        ours, with_statistics = (Decimal(n) / unit for n in (self.parameters, self.parameters + self.moving_statistics))
        if abs(ours - figure) <= digit / 2:
            return "trainable"
        if abs(with_statistics - figure) <= digit / 2:
            return "with moving statistics"
        return "truncated" if figure <= ours < figure + digit else None

    @property
    def difference(self) -> float | None:
        """Our multiply-adds relative to the paper's, less one."""
        text = self.printed.multiply_adds
        return None if text is None else self.multiply_adds / (1e6 * float(text)) - 1

    @property
    def agrees(self) -> bool:
        """Whether parameters agree to the paper's digits, and multiply-adds within `TOLERANCE`."""
        parameters = self.printed.parameters is None or self.counting is not None
        return parameters and (self.difference is None or abs(self.difference) <= TOLERANCE)


NO_BIAS = SEOptions(bias=False)
RELEASE = tuple(
    PrintedCost(table="release", label=label, name=name, parameters=parameters)
    for label, name, parameters in (
        ("SE-ResNet-50", "se_resnet50", "28,088,024"),
        ("SE-ResNet-101", "se_resnet101", "49,326,872"),
        ("SE-ResNet-152", "se_resnet152", "66,821,848"),
        ("SE-ResNeXt-50", "se_resnext50_32x4d", "27,559,896"),
        ("SE-ResNeXt-101", "se_resnext101_32x4d", "48,955,416"),
    )
)
"""The authors' files, whose parameters can be counted in full."""


def ablation(
    table: str, label: str, se: SEOptions | None, parameters: str, multiply_adds: str | None = None, note: str = ""
) -> PrintedCost:
    """Return a row of the ablations on SE-ResNet-50."""
    return PrintedCost(
        table=table,
        label=label,
        name="se_resnet50" if se else "resnet50",
        se=se,
        parameters=parameters,
        multiply_adds=multiply_adds,
        note=note,
    )


ABLATIONS = (
    ablation("Table 10", "reduction 2", SEOptions(reduction=2, bias=False), "45.7"),
    ablation("Table 10", "reduction 4", SEOptions(reduction=4, bias=False), "35.7"),
    ablation(
        "Table 10",
        "reduction 8",
        SEOptions(reduction=8, bias=False),
        "30.7",
        note="30.64 with moving statistics, as its neighbors are counted: the paper's last digit stands alone",
    ),
    ablation("Table 10", "reduction 16", NO_BIAS, "28.1"),
    ablation("Table 10", "reduction 32", SEOptions(reduction=32, bias=False), "26.9"),
    ablation("Table 10", "no SE", None, "25.6"),
    ablation("Table 13", "stage 2 only", SEOptions(stages=(2,), bias=False), "25.6"),
    ablation("Table 13", "stage 3 only", SEOptions(stages=(3,), bias=False), "25.7"),
    ablation("Table 13", "stage 4 only", SEOptions(stages=(4,), bias=False), "26.4"),
    ablation("Table 13", "all stages", NO_BIAS, "28.1"),
    ablation("Table 15", "behind the 3x3", SEOptions(placement="3x3", bias=False), "25.8", "3860"),
    ablation("Table 16", "no squeeze", SEOptions(squeeze="none", bias=False), "28.1", "4270"),
)


def printed_costs() -> list[PrintedCost]:
    """Return every figure of parameters and multiply-adds in the paper and its release."""
    of_cards = [
        PrintedCost(
            table=paper.source or "",
            label=name,
            name=name,
            parameters=None if paper.parameters is None else f"{paper.parameters:.1f}",
            multiply_adds=None if paper.multiply_adds is None else f"{paper.multiply_adds:.0f}",
            note=paper.cost_note,
        )
        for name, paper in ((name, card.paper) for name, card in CARDS.items())
        if paper.multiply_adds is not None
    ]
    return [*of_cards, *RELEASE, *ABLATIONS]


def count(name: str, se: SEOptions | None) -> tuple[Cost, int]:
    """Return the cost of a network, and the number of its moving statistics; nothing is allocated."""
    with torch.device("meta"):
        model = create_model(name, se=se)
    return cost(model), sum(buffer.numel() for buffer in model.buffers() if buffer.dim())


def compare_costs(pattern: str = "*") -> Iterator[CostComparison]:
    """Count the networks that the paper gives figures of.

    Args:
        pattern: as the shell's, of their names.
    """
    printed = [row for row in printed_costs() if fnmatchcase(row.name, pattern)]
    for row in tracked(printed, "Counting", len(printed)):
        counted, moving_statistics = count(row.name, row.se)
        yield CostComparison(
            printed=row,
            parameters=counted.parameters,
            moving_statistics=moving_statistics,
            multiply_adds=counted.multiply_adds,
        )


HEADINGS = ("table", "network", "parameters", "paper", "agree", "MMAdds", "paper", "difference", "note")


def cells(row: CostComparison) -> tuple[str, ...]:
    """Return a comparison as the texts of `HEADINGS`."""
    printed, difference = row.printed, row.difference
    counting = "" if printed.parameters is None else row.counting or "no"
    return (
        printed.table,
        printed.label,
        f"{row.parameters:,}",
        printed.parameters or "",
        counting.replace("trainable", "yes"),
        f"{row.multiply_adds / 1e6:,.1f}",
        printed.multiply_adds or "",
        "" if difference is None else f"{100 * difference:+.2f} %",
        printed.note,
    )


def paper_table(rows: list[CostComparison]) -> Table:
    """Return the comparisons as a table for the terminal."""
    table = Table()
    for heading in HEADINGS:
        left = heading in ("table", "network", "agree", "note")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "note")
    for row in rows:
        table.add_row(*cells(row))
    return table


LEGEND = (
    "Parameters: trainable, beside the paper's in millions (the release's in full). They agree to the digits printed: "
    "as they are (yes), counting BatchNorm's moving means and variances as well, or with the last digit truncated.\n"
    "MMAdds: millions of multiply-adds for one image, convolutions and linear layers; "
    f"a difference over {100 * TOLERANCE:.0f} % has its cause beside it."
)
