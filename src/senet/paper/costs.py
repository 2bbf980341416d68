"""Parameters and multiply-adds of every network, compared with what the paper prints."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Literal

import torch

from senet.costs import Cost, cost
from senet.factory import create_model
from senet.nn.block import SEOptions
from senet.paper.figures import ROWS, Row

TOLERANCE = 0.01
"""Largest relative difference of multiply-adds that needs no explanation."""
Counting = Literal["trainable", "with moving statistics", "truncated"]
"""How the paper's figure of the parameters comes about; see `CostComparison.counting`."""

INCEPTION_299 = (
    "cause unknown, the release has no file of it: at 299 pixels the network counts 13,156 however its pooling rounds; "
    "5, 20 and 5 blocks would count 11,756, and 297 pixels 11,732, where pooling rounds down, as Caffe's does not"
)
SHUFFLENET_BUDGET = "140 is the budget of all 1x ShuffleNets; arXiv:1707.01083, Table 1, counts 137 for g=3"
CAUSES = {
    "inception_resnet_v2": INCEPTION_299,
    "se_inception_resnet_v2": INCEPTION_299,
    "shufflenet_v1_g3": SHUFFLENET_BUDGET,
    "se_shufflenet_v1_g3": f"{SHUFFLENET_BUDGET}; the 2 that SE adds are with its pooling",
    "reduction8": "30.64 with moving statistics, as its neighbors are counted: the paper's last digit stands alone",
}
"""Why this library's count differs from the paper's, by experiment."""


@dataclass(frozen=True, kw_only=True)
class CostComparison:
    """The counts of this library beside the paper's.

    Args:
        printed: the paper's row.
        parameters: trainable.
        moving_statistics: BatchNorm's moving means and variances.
        multiply_adds: for one image.
    """

    printed: Row
    parameters: int
    moving_statistics: int
    multiply_adds: int

    @property
    def counting(self) -> Counting | None:
        """How the count of parameters becomes the paper's figure; None if it does not, or if the paper prints none."""
        text = self.printed.figures.parameters
        if text is None:
            return None
        unit = Decimal(1) if "," in text else Decimal(10**6)
        figure = Decimal(text.replace(",", ""))
        digit = Decimal(1).scaleb(int(figure.as_tuple().exponent))
        trainable, with_statistics = (
            Decimal(n) / unit for n in (self.parameters, self.parameters + self.moving_statistics)
        )
        if abs(trainable - figure) <= digit / 2:
            return "trainable"
        if abs(with_statistics - figure) <= digit / 2:
            return "with moving statistics"
        return "truncated" if figure <= trainable < figure + digit else None

    @property
    def difference(self) -> float | None:
        """The multiply-adds counted here relative to the paper's, less one."""
        printed = self.printed.figures.multiply_adds
        return None if printed is None else self.multiply_adds / (1e6 * printed) - 1

    @property
    def agrees(self) -> bool:
        """Whether parameters agree to the paper's digits, and multiply-adds within `TOLERANCE`."""
        parameters = self.printed.figures.parameters is None or self.counting is not None
        return parameters and (self.difference is None or abs(self.difference) <= TOLERANCE)

    @property
    def cause(self) -> str:
        """Why the two differ; empty where they agree."""
        return CAUSES.get(self.printed.experiment, "")


def printed_costs() -> list[Row]:
    """Return every row with parameters or multiply-adds; of rows that quote the same network the first."""
    rows: dict[tuple[str, SEOptions | None, str | None], Row] = {}
    for row in ROWS:
        if row.figures.parameters is not None or row.figures.multiply_adds is not None:
            rows.setdefault((row.experiment, row.se, row.figures.parameters), row)
    return list(rows.values())


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
    for row in (row for row in printed_costs() if fnmatchcase(row.network, pattern)):
        counted, moving_statistics = count(row.network, row.se)
        yield CostComparison(
            printed=row,
            parameters=counted.parameters,
            moving_statistics=moving_statistics,
            multiply_adds=counted.multiply_adds,
        )


HEADINGS = ("table", "row", "network", "parameters", "paper", "agree", "MMAdds", "paper", "difference", "cause")
"""The columns of the comparison."""
LEGEND = (
    "Parameters: trainable, beside the paper's in millions (the release's in full). They agree to the digits printed: "
    "as they are (yes), counting BatchNorm's moving means and variances as well, or with the last digit truncated.\n"
    "MMAdds: millions of multiply-adds for one image, convolutions and linear layers; "
    f"a difference over {100 * TOLERANCE:.0f} % has its cause beside it."
)
"""The note below the table."""


def cells(row: CostComparison) -> tuple[str, ...]:
    """Return a comparison as the texts of `HEADINGS`."""
    figures, difference = row.printed.figures, row.difference
    counting = "" if figures.parameters is None else row.counting or "no"
    return (
        row.printed.source,
        row.printed.label,
        row.printed.network,
        f"{row.parameters:,}",
        figures.parameters or "",
        counting.replace("trainable", "yes"),
        f"{row.multiply_adds / 1e6:,.1f}",
        "" if figures.multiply_adds is None else f"{figures.multiply_adds:.0f}",
        "" if difference is None else f"{100 * difference:+.2f} %",
        row.cause,
    )
