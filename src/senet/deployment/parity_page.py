"""One self-contained HTML page about an exported network: whether it is the same, how fast, where its error arises."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from senet.analysis.pages import thumbnail, write_page
from senet.deployment.detection_parity import DetectionParity
from senet.deployment.parity import ParityReport
from senet.errors import counted
from senet.files import check_page


def write_parity_page(report: ParityReport, output: str | Path = "parity.html") -> Path:
    """Write an HTML page about a comparison; open it in a browser.

    Args:
        report: from `senet.deployment.parity.compare_exported`.
        output: the page, one HTML file that needs no network.

    Returns:
        The page's path.

    Raises:
        SenetError: the file cannot be written.
    """
    path = Path(output)
    check_page(path)
    pictures = pictures_of(report)
    named = replace(
        report,
        disagreements=tuple(
            replace(each, image=Path(each.image).name) if report.images is not None and report.images.files else each
            for each in report.disagreements
        ),
    )
    write_page(
        path,
        "parity",
        **heading(report, report.precision),
        data={**named.to_dict(), "pictures": pictures},
        scripts=("latency",),
        report=report,
        accuracy=report.accuracy,
        machine=report.processor.described(report.precision),
        has_pictures=bool(pictures),
    )
    return path


def heading(report: ParityReport | DetectionParity, precision: str) -> dict[str, Any]:
    """Return title, facts and provenance of a page about a comparison.

    Args:
        report: of the comparison.
        precision: of the exported network.
    """
    return {
        "title": f"{Path(report.exported).name} against its original",
        "facts": [f"{counted(report.num_images, 'image')} of {Path(report.source).name}", precision],
        "provenance": [f"original: {report.original}", f"exported: {report.exported}", f"data: {report.source}"],
    }


def pictures_of(report: ParityReport) -> dict[int, str]:
    """Return the pictures of the disagreements as data URIs, by their number in the data."""
    images, preprocessing = report.images, report.preprocessing
    if images is None or preprocessing is None:
        return {}
    return {each.index: thumbnail(images, each.index, preprocessing.in_channels) for each in report.disagreements}
