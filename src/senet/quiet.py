"""Calls of other libraries without their notices: what they print and log that is no error."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Leave Python's root logger, which all libraries share, as it was, whatever is set inside."""
    root = logging.getLogger()
    level, filters, handlers, disabled = root.level, root.filters[:], root.handlers[:], root.manager.disable
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
        logging.disable(disabled)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what is imported and called inside from printing progress, logging warnings and setting logging up.

    coremltools draws a bar for each of its passes and warns of every PyTorch newer than 2.7; importing executorch gives
    the root logger a handler, by which all that is logged afterwards would be printed twice; ONNX Runtime gives advice
    about its own steps.
    """
    with root_logger_kept(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        logging.disable(logging.WARNING)
        yield
