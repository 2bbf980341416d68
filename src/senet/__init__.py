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
    return _public(current_name(name, NAMES))


def _version() -> str:
    """Return the version that is installed, or "unknown" where the sources are used without installing them."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely needed

    try:
        return version("senet")
    except PackageNotFoundError:
        return "unknown"
