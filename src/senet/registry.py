"""Tables of named things that other packages may add to."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import TypeVar

from senet.deprecated import REGISTERED, current_name
from senet.errors import SenetError
from senet.plugins import load_installed

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """A table by name in which nothing is replaced, and which knows the module that added an entry.

    Before an unknown name is looked up, and before all are listed, the modules that installed packages name in the
    group "senet.plugins" are imported.

    Args:
        kind: what the entries are, for messages, such as "gate".
        own: this library's entries.
    """

    def __init__(self, kind: str, own: Mapping[str, T]) -> None:
        self.kind = kind
        self._entries = dict(own)
        self._modules: dict[str, str] = {}

    def __getitem__(self, name: str) -> T:
        """Return an entry, also by a name that it had once; KeyError if there is none."""
        name = current_name(name, REGISTERED.get(self.kind, {}))
        if name not in self._entries:
            load_installed()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order of their registration."""
        load_installed()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        """Count the entries."""
        load_installed()
        return len(self._entries)

    def register(self, name: str, entry: T, module: str) -> None:
        """Add an entry.

        Args:
            name: not in the table yet; of letters, digits, "_" and "-".
            entry: what it names.
            module: whose import adds it, see `calling_module`.

        Raises:
            SenetError: the name is taken, or has other characters.
        """
        if not re.fullmatch(r"\w[\w-]*", name):
            raise SenetError(f"the {self.kind} {name!r} has a name that is not of letters, digits, '_' and '-'")
        if name in self._entries:
            owner = self.module_of(name) or "senet"
            raise SenetError(f"the {self.kind} {name!r} is registered already, by {owner}; choose another name")
        self._entries[name] = entry
        self._modules[name] = module

    def module_of(self, name: str) -> str | None:
        """Return the module that registered an entry; None for this library's own."""
        return self._modules.get(name)


def calling_module() -> str:
    """Return the name of the module outside this library whose code is running."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "senet":
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "__main__"))
