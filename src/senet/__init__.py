"""Squeeze-and-Excitation networks in PyTorch: the block, the networks of the paper, training, evaluation.

The public names are those of `__init__.pyi`. Each is imported from its module on first use, so that `import senet`
itself is fast.
"""

import lazy_loader

from senet.deprecated import NAMES, current_name

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    current = current_name(name, NAMES)
    if current not in __all__:
        raise AttributeError(f"module 'senet' has no attribute {name!r}{_nearest(name)}")
    return _public(current)


def _nearest(name: str) -> str:
    """Return the public names that are most like one that is not, for a message; nothing for Python's own names."""
    from difflib import get_close_matches  # slow to import, and rarely needed

    return "" if name.startswith("_") else f"; the nearest are {', '.join(get_close_matches(name, __all__, 3, 0))}"


def _version() -> str:
    """Return the version that is installed, or "unknown" where the sources are used without installing them."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely needed

    try:
        return version("senet")
    except PackageNotFoundError:
        return "unknown"
