"""Output on a terminal: lines, tables and bars in which no text is markup, whatever a file or a class is called.

Rich reads "[red]" and ":smile:" in any text as instructions, and a terminal reads control characters so. Names of files
and classes may contain both. So no other module prints with rich.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar
from unicodedata import category

import rich.table
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Item = TypeVar("Item")
BARS_SHOWN = ContextVar("BARS_SHOWN", default=False)
UNBOUNDED = 100_000
"""Width where the output is not a terminal: lines are as long as they have to be, so that no name is cut."""
LONGEST = 2000
"""Most letters of what a command says of an input."""


def printable(text: str) -> str:
    r"""Return a text in one line: control characters, line ends and bytes that are no text become \n, \x1b, \udcff."""
    escaped = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if category(c) in escaped else c for c in text)


def shortened(text: str) -> str:
    """Return a text without its middle if it is longer than `LONGEST`: names in files may be of any length."""
    left_out = len(text) - LONGEST
    return text if left_out <= 0 else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class PlainConsole(Console):
    """A console that raises BrokenPipeError when its reader is gone, for the command line to handle."""

    def on_broken_pipe(self) -> None:
        """Let the error pass, where rich would end the process with status 1."""
        raise BrokenPipeError


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console that prints text as it is.

    Args:
        stderr: print to standard error.
        quiet: print nothing.
    """
    made = PlainConsole(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    if not made.file.isatty():
        made.width = UNBOUNDED
    return made


def say(text: str = "", on: Console | None = None) -> None:
    """Print a text on a console, None for standard output; its line ends stay, other control characters are escaped."""
    lines = "\n".join(map(printable, text.split("\n")))
    (on or console()).print(lines, soft_wrap=True)


class Table(rich.table.Table):
    """A table without lines around its cells, which are texts and never cut."""

    def __init__(self, *headings: str, title: str | None = None) -> None:
        super().__init__(box=None, header_style="bold", title=title and Text(printable(title)), title_justify="left")
        for heading in headings:
            self.add_column(heading)

    def add_column(self, header: Any = "", *args: Any, justify: JustifyMethod = "left", **options: Any) -> None:
        """Add a column, with rich's options; a long cell goes on in the next line."""
        super().add_column(Text(printable(str(header))), *args, justify=justify, **{"overflow": "fold", **options})

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts, with rich's options."""
        super().add_row(*(Text(printable(str(cell))) for cell in cells), **options)


def width_of(table: Table) -> int:
    """Return how many letters wide a table is where nothing is folded."""
    return max(map(len, text_of(table).splitlines()), default=0)


def text_of(table: Table) -> str:
    """Return what printing a table gives, without colors and with a line end."""
    wide = Console(width=UNBOUNDED, color_system=None)  # the table holds texts alone, so nothing can be markup
    with wide.capture() as text:
        wide.print(table)
    return text.get()


def bar(on: Console, *, transient: bool = False) -> Progress:
    """Return a bar, which shows on a terminal only; its tasks have a field `now`, a text at its end.

    Args:
        on: where it is drawn.
        transient: let it disappear at the end.
    """
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[now]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        console=on,
        transient=transient,
        disable=on.quiet or not on.file.isatty(),
    )


@contextmanager
def bars_shown() -> Iterator[None]:
    """Let `tracked` draw bars: the command line does, the library by itself prints nothing."""
    token = BARS_SHOWN.set(True)
    try:
        yield
    finally:
        BARS_SHOWN.reset(token)


def tracked(items: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Yield the items; inside `bars_shown` with a bar on standard error, which disappears at the end."""
    if not BARS_SHOWN.get():
        yield from items
        return
    with bar(console(stderr=True), transient=True) as shown:
        task = shown.add_task(printable(description), total=total, now="")
        yield from shown.track(items, total, task_id=task)
