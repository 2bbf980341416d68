"""A bar that shows on a terminal how far something is, and nothing elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

Item = TypeVar("Item")


def tracked(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Yield the items, with a bar on standard error that disappears at the end."""
    console = Console(stderr=True)
    yield from track(
        items, escape(description), total, console=console, transient=True, disable=not console.is_terminal
    )
