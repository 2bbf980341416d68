"""What tells an exported file from one that has been damaged since: SHA-256 digests in the report beside it."""

from collections.abc import Mapping
from pathlib import Path

from senet.checksums import digest_of
from senet.errors import SenetError
from senet.files import parse_json

DEPTH = 4
"""Folders above a network's file, at most, beside which the report of a model repository or page may be."""


def parity_path(output: Path) -> Path:
    """Return where the report of an exported network is written: model.onnx.parity.json beside model.onnx."""
    return output.with_name(f"{output.name}.parity.json")


def digests_below(folder: Path) -> dict[str, str]:
    """Return the digests of all files in a folder and the folders below it, by their paths in it."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): digest_of(file) for file in files}


def check_digests(file: Path, companions: tuple[str, ...]) -> None:
    """Raise a SenetError for an exported file that is not as it was written; without a report nothing tells.

    Args:
        file: of a network.
        companions: suffixes of the files that belong to it.
    """
    places = (place for place in (file.absolute(), *file.absolute().parents[:DEPTH]) if place.name)  # "/" has none
    report = next((report for report in map(parity_path, places) if report.is_file()), None)
    if report is None:
        return
    noted = noted_digests(report)
    for part in (file, *map(file.with_suffix, companions)):
        expected = noted.get(part.absolute().relative_to(report.parent.absolute()).as_posix())
        if expected is not None and part.is_file() and digest_of(part) != expected:
            raise SenetError(
                f"{part} is damaged, for its SHA-256 is not the one in {report.name}; copy it again, export it "
                f"again, or remove {report} if you have changed the file yourself"
            )


def noted_digests(report: Path) -> Mapping[str, str]:
    """Return the digests that a report names; none if it cannot be read, or is of a former version."""
    try:
        found = parse_json(report.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, Mapping) else {}
