"""What `senet ablate` prints at the end: a table for each of the paper's."""

from collections.abc import Iterator, Sequence

from senet.paper.ablation import SUBJECTS, AblationRow
from senet.terminal import Table


def ablation_tables(rows: Sequence[AblationRow]) -> Iterator[Table]:
    """Yield a table for each of the paper's."""
    for number in sorted({row.table for row in rows}):
        table = Table(title=f"Table {number}: {SUBJECTS[number]}")
        table.add_column("variant")
        for heading in ("parameters", "MMAdds", "top-1 err., %", "± over seeds", "paper's, %"):
            table.add_column(heading, justify="right")
        for row in (row for row in rows if row.table == number):
            number_of_seeds = len(row.top1_errors)
            spread = f"{row.deviation:.2f} ({number_of_seeds})" if number_of_seeds > 1 else "one seed"
            counts = (f"{row.parameters:,}", f"{row.multiply_adds / 1e6:,.2f}")
            paper = "" if row.paper_error is None else f"{row.paper_error:.2f}"
            table.add_row(row.label, *counts, f"{row.mean:.2f}", spread, paper)
        yield table
