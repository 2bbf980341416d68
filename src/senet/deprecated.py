"""Names that were changed: the old ones still work, with a warning, until the release that is written beside them.

A public name that changes goes into one of the tables in the same commit, as `"old": ("new", "0.3")`: the new name, and
the first release without the old one. CONTRIBUTING.md ("Changing a public name") has the policy.
"""

import warnings
from collections.abc import Mapping

# Plain tuples: `import senet` imports this module, and typing or dataclasses would take longer than all the rest of it.
Renamed = Mapping[str, tuple[str, str]]

NAMES: Renamed = {}
"""Attributes of `senet`: functions and classes."""
NETWORKS: Renamed = {}
"""Networks of `create_model`."""
RECIPES: Renamed = {}
"""Recipes of `senet train`."""


def current_name(name: str, renamed: Renamed) -> str:
    """Return what `name` is called now, with a FutureWarning if that is something else.

    Args:
        name: as the caller wrote it.
        renamed: one of the tables of this module.
    """
    if name not in renamed:
        return name
    new, removed_in = renamed[name]
    message = f"{name} is now called {new}; the old name works until senet {removed_in}"
    warnings.warn(message, FutureWarning, stacklevel=3)
    return new
