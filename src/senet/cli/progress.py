"""What the command line shows of a run: the lines that it logs, and on a terminal a bar."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from senet.launch import is_first
from senet.terminal import bar, console, printable, say


class Bar:
    """A bar on standard error for as long as a run takes, see `senet.training.progress.Progress`."""

    def __init__(self) -> None:
        self.bar = bar(console(stderr=True))
        self.task = self.bar.add_task("", now="")

    def start(self, name: str, num_batches: int, done: int) -> None:
        """Show the bar."""
        self.bar.update(self.task, description=printable(name), total=num_batches, completed=done)
        self.bar.start()

    def advance(self, batches: int, now: str) -> None:
        """Move it."""
        self.bar.update(self.task, advance=batches, now=now)

    def plan(self, num_batches: int) -> None:
        """Show another length of the run."""
        self.bar.update(self.task, total=num_batches)

    def stop(self) -> None:
        """Leave it as it is."""
        self.bar.stop()


class Lines(logging.Handler):
    """Prints what is logged, a line each, on standard error, above the bar if there is one."""

    def __init__(self, bar: Bar | None) -> None:
        super().__init__(logging.INFO)
        self.bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line; warnings are printed elsewhere."""
        if record.levelno < logging.WARNING:
            say(printable(record.getMessage()), console(stderr=True) if self.bar is None else self.bar.bar.console)


@contextmanager
def lines_shown(part: str, bar: Bar | None = None) -> Iterator[None]:
    """Print what a part of the library logs inside.

    Args:
        part: the name of its logger, such as "senet.training".
        bar: above which the lines stand, if there is one.
    """
    handler, logger = Lines(bar), logging.getLogger(part)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def run_shown() -> Iterator[Bar | None]:
    """Print the lines of the runs inside; give a bar where standard error is a terminal."""
    shown = Bar() if is_first() and console(stderr=True).file.isatty() else None
    with lines_shown("senet.training", shown):
        yield shown
