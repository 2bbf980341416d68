"""Files that a runtime cannot open, or compute: its reason in one sentence, without its own trace."""

import re
from pathlib import Path

from senet.errors import SenetError, first_line

TRACE = re.compile(r"(Exception from|Check '.*' failed at|\[ONNXRuntimeError\]) .*:\s*", re.ASCII)
"""Lines of OpenVINO that say where in its source it stopped."""
PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed:)?")
"""What ONNX Runtime puts before its reasons."""


def reason(error: Exception) -> str:
    """Return why a runtime could not open or compute a file: the first line that says more than where it stopped."""
    lines = (line.strip() for line in str(error).splitlines())
    said = next((line for line in lines if line and not TRACE.fullmatch(line)), first_line(error))
    return PREFIX.sub("", said).partition(" This is an internal miniz error")[0].rstrip(".") or first_line(error)


def unreadable(path: Path, runtime: str, error: Exception) -> SenetError:
    """Return the error for a file that a runtime cannot open.

    Args:
        path: of the file.
        runtime: its name.
        error: that it raised.
    """
    return SenetError(
        f"{path} cannot be opened by {runtime} ({reason(error)}); it is damaged or no such file: copy it whole, or "
        "export it again"
    )
