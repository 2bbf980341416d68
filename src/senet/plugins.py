"""Registration from outside the library: networks, recipes, gates and excitations of other packages.

A package registers when its module is imported, for instance by `senet.register_model(...)` at its end. There are three
ways to have it imported: a program imports it; the command line does, `senet --import MODULE ...`; or the package is
installed and its pyproject.toml names the module, which is imported when an unknown name is looked up:

    [project.entry-points."senet.plugins"]
    any_name = "my_package.my_networks"
"""

import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec

from senet.errors import MissingExtraError, SenetError

MAIN = "__main__"
"""The module of what a program registers itself."""
GROUP = "senet.plugins"
"""The group of entry points whose modules are imported."""


def load(modules: Iterable[str]) -> None:
    """Import modules that register networks, recipes, gates or excitations.

    Args:
        modules: their names, such as "my_package.my_networks".

    Raises:
        SenetError: one does not exist, cannot be imported, or registers a name that is taken.
    """
    for module in modules:
        import_plugin(module, f"--import {module}")


@cache
def load_installed() -> None:
    """Import the modules that installed packages name in the group `GROUP`, once in a process.

    Raises:
        SenetError: one cannot be imported, or registers a name that is taken.
    """
    for point in entry_points(group=GROUP):
        import_plugin(point.module, f"the entry point {point.name} = {point.value!r} of group {GROUP}")


def import_plugin(module: str, source: str) -> None:
    """Import a module that somebody named.

    Args:
        module: its name.
        source: what named it, for messages.

    Raises:
        SenetError: it cannot be imported.
    """
    try:
        import_module(module)
    except SenetError as error:
        raise SenetError(f"{source}: {error}") from error
    except ImportError as error:
        raise MissingExtraError(
            f"{source}: {error}; install its package, add its folder to PYTHONPATH, or correct the name"
        ) from error
    except Exception as error:  # whatever somebody's module does when it is imported
        raise SenetError(f"{source} cannot be imported: {type(error).__name__}: {error}".splitlines()[0]) from error


def check_imported(modules: Iterable[str], source: str) -> None:
    """Check that the modules which a saved model needs have been imported; none is imported because a file names it.

    Args:
        modules: what the model's config.json says under "requires". "__main__", the program that saved it, is not
            checked: it may be this one, or have become a module since.
        source: the folder or file, for messages.

    Raises:
        MissingExtraError: one has not.
    """
    missing = [module for module in modules if module not in sys.modules and module != MAIN]
    if missing:
        load_installed()
    for module in missing:
        if module in sys.modules:
            continue
        package = module.partition(".")[0]
        if find_spec(package) is None:
            remedy = f"which is not installed; install {package} first"
        else:
            remedy = f"which is not imported; import {module} first, on the command line by --import {module}"
        raise MissingExtraError(f"{source} needs the module {module}, {remedy}")
