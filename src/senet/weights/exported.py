"""The exported file that a path means: the path itself, or the network in a folder that `senet export` wrote."""

from pathlib import Path

from senet.errors import SenetError
from senet.weights.hub import EXPORTED

PAGE = ("index.html", "model.onnx")
"""What the folder of a page has: the page and its network."""
SETTINGS, SERVED = ("config.json", "*/config.pbtxt"), ("*/[0-9]*/model.onnx", "*/[0-9]*/model.xml")
"""What a folder has that servers read: settings and networks, see `senet.deployment.layouts`."""


def exported_file(source: str | Path) -> Path | None:
    """Return the exported file that a path means; None if it means something else.

    Args:
        source: the file; the folder of a page; or one that servers read, if it has a single network.

    Raises:
        SenetError: it is such a folder with several networks.
    """
    path = Path(source)
    if path.suffix.lower() in EXPORTED:
        return path
    if not path.is_dir():
        return None
    if all((path / name).is_file() for name in PAGE):
        return path / PAGE[1]
    if not any(any(path.glob(pattern)) for pattern in SETTINGS):  # photos may be many folders of many files
        return None
    found = sorted(file for pattern in SERVED for file in path.glob(pattern))
    if len(found) > 1:
        raise SenetError(f"{path} has {len(found)} exported networks; name one of them, such as {found[0]}")
    return found[0] if found else None
