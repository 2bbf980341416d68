"""The proof that comes with every export: the comparison of the file with the network that it was made of."""

from pathlib import Path

from torch import nn

from senet.deployment.parity import ParityReport, compare_exported, parity_path, write_parity
from senet.deployment.pictures import pictures_for
from senet.errors import SenetError, warn
from senet.evaluation.batches import DataSource, run_data
from senet.evaluation.functions import Network, name_of
from senet.factory import EXPORTED
from senet.files import check_page


def check_proof(model: nn.Module, output: Path, data: DataSource | None, page: Path | None) -> None:
    """Raise a SenetError, before the work, for data that do not fit the network, or a page that cannot be written.

    Args:
        model: the network.
        output: of the export.
        data: that were given.
        page: that was asked for.
    """
    if output.suffix not in EXPORTED:
        for name, value in (("data", data), ("report", page)):
            if value is not None:
                raise SenetError(
                    f"{name} has no effect on {output}, which cannot be run here to compare it; leave it out"
                )
        return
    if isinstance(data, str | Path):
        pictures_for(model, data, 1)
    if page is not None:
        check_page(page)
        from senet.analysis import pages  # noqa: F401  # raises a MissingExtraError


def prove(
    model: nn.Module, run_or_model: Network, path: Path, output: Path, data: DataSource | None
) -> ParityReport | None:
    """Compare a file with its network, and write the report as JSON beside the file.

    Args:
        model: the network.
        run_or_model: what it was opened from.
        path: of the file.
        output: where it will be.
        data: as for `compare_exported`.

    Returns:
        The report; None for a file that cannot be run here.

    Raises:
        SenetError: see `compare_exported`.
    """
    if path.suffix not in EXPORTED:
        return None
    names = name_of(run_or_model), str(output)
    own = run_data(run_or_model) if data is None and isinstance(run_or_model, str | Path) else None
    try:
        report = compare_exported(model, path, own if data is None else data, names=names)
    except SenetError as error:
        if own is None:
            raise
        warn(f"the file is compared on generated pictures, for the data of {names[0]} cannot be used: {error}")
        report = compare_exported(model, path, names=names)
    write_parity(report, parity_path(path))
    return report


def write_proof(report: ParityReport | None, page: Path | None) -> None:
    """Write the page of a report, if one was asked for."""
    if report is not None and page is not None:
        from senet.deployment.parity_page import write_parity_page  # needs plotly

        write_parity_page(report, page)
