"""The proof that comes with every export: the comparison of the file with the network that it was made of."""

import logging
from pathlib import Path
from typing import Literal

from torch import nn

from senet.deployment.detection_parity import DetectionParity
from senet.deployment.parity import ParityReport, compare_exported
from senet.deployment.pictures import pictures_for
from senet.deployment.targets import TargetInfo
from senet.errors import SenetError, warn
from senet.evaluation.batches import DataSource, run_data
from senet.evaluation.functions import Network, name_of
from senet.files import check_page

logger = logging.getLogger(__name__)

NumImages = int | Literal["all"] | None
"""How many images are compared; None for the usual number."""


def check_proof(model: nn.Module, target: str, info: TargetInfo, data: DataSource | None, page: Path | None) -> None:
    """Raise a SenetError, before the work, for data that do not fit the network, or a page that cannot be written.

    Args:
        model: the network.
        target: the name of the format.
        info: of the format.
        data: that were given.
        page: that was asked for.
    """
    if info.elsewhere and (data is not None or page is not None):
        name = "report" if data is None else "data"
        raise SenetError(f"{name} has no effect on {target}, for {info.elsewhere}; leave it out")
    if isinstance(data, str | Path):
        pictures_for(model, data, 1)
    check_report(page)


def check_report(page: Path | None) -> None:
    """Raise a SenetError, before the work, for a page that cannot be written."""
    if page is not None:
        check_page(page)
        from senet.analysis import pages  # noqa: F401  # raises a MissingExtraError


def number_of(asked: NumImages, usual: int) -> int | None:
    """Return how many images are compared, None for all, where so many are usual.

    Raises:
        SenetError: it is another word than "all", or less than 1.
    """
    if asked is not None and asked != "all" and (isinstance(asked, str) or asked < 1):
        raise SenetError(f"num_images is {asked!r}; expected at least 1, or 'all'")
    return usual if asked is None else None if asked == "all" else int(asked)


def prove(
    model: nn.Module, run_or_model: Network, path: Path, output: Path, data: DataSource | None, number: int | None
) -> ParityReport:
    """Compare a file with its network.

    Args:
        model: the network.
        run_or_model: what it was opened from.
        path: of the file, or the folder of a page.
        output: where it will be.
        data: as for `compare_exported`.
        number: of images, likewise.

    Raises:
        SenetError: see `compare_exported`.
    """
    names = name_of(run_or_model), str(output)
    logger.info("comparing %s with %s", output, names[0])
    own = run_data(run_or_model) if data is None and isinstance(run_or_model, str | Path) else None
    try:
        return compare_exported(model, path, own if data is None else data, images=number, names=names)
    except SenetError as error:
        if own is None:
            raise
        reason = str(error).replace(str(path), str(output))  # which the file does not lie at yet
        warn(f"the file is compared on generated pictures, for the data of {names[0]} cannot be used: {reason}")
        return compare_exported(model, path, images=number, names=names)


def write_proof(report: ParityReport | DetectionParity, page: Path) -> None:
    """Write the page of a report."""
    if isinstance(report, DetectionParity):
        from senet.deployment.detection_parity_page import write_detection_parity_page

        write_detection_parity_page(report, page)
        return
    from senet.deployment.parity_page import write_parity_page  # needs plotly

    write_parity_page(report, page)
