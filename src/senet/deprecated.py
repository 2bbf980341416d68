"""Names that have changed: for some releases the old name still gives the new object, with a warning.

A public name that changes goes into one of the tables in the same commit, as `"old": ("new", "0.3")`: the new name, and
the first release without the old one. CONTRIBUTING.md ("Changing a public name") has the policy.
"""

import sys
import warnings
from collections.abc import Mapping

# Plain tuples: `import senet` imports this module, and typing or dataclasses would take longer than all the rest of it.
Renamed = Mapping[str, tuple[str, str]]

NAMES: Renamed = {}
"""Attributes of `senet`: functions and classes."""
REGISTERED: Mapping[str, Renamed] = {"network": {}, "recipe": {}, "gate": {}, "excitation": {}}
"""What `senet.registry` holds, by kind. Model folders hold these names, so their entries stay for good."""


def current_name(name: str, renamed: Renamed) -> str:
    """Return what `name` is called now, with a FutureWarning at the caller's line if that is something else.

    Args:
        name: as the caller wrote it.
        renamed: one of the tables of this module.
    """
    if name not in renamed:
        return name
    new, removed_in = renamed[name]
    message = f"{name} is now called {new}; the old name works until senet {removed_in}"
    warnings.warn(message, FutureWarning, stacklevel=frames_of_this_library() + 1)
    return new


def frames_of_this_library() -> int:
    """Count the calls within this library that led here, so that a warning can name the line of the caller."""
    frame, number = sys._getframe(1), 0
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "senet":
        frame, number = frame.f_back, number + 1
    return number
