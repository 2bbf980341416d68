"""Calls of other libraries without their notices: what they print and log that is no error."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what is imported and called inside from printing progress, logging warnings and setting logging up.

    coremltools draws a bar for each of its passes and warns of every PyTorch newer than 2.7; importing executorch gives
    the root logger a handler, by which all that is logged afterwards would be printed twice.
    """
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
