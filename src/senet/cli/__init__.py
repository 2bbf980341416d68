"""The command line: `senet COMMAND`, see `COMMANDS`."""

import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import torch

from senet.cli.analysis import run_ablate, run_explain, run_prune, run_record
from senet.cli.networks import run_convert, run_insert, run_models
from senet.cli.parsing import summary
from senet.cli.processes import first_speaks, first_to_fail, is_first
from senet.cli.training import run_demo, run_evaluate, run_predict, run_train
from senet.errors import SenetError
from senet.terminal import console, printable, say

COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = MappingProxyType(
    {
        "demo": run_demo,
        "train": run_train,
        "evaluate": run_evaluate,
        "predict": run_predict,
        "models": run_models,
        "convert": run_convert,
        "insert": run_insert,
        "record": run_record,
        "explain": run_explain,
        "prune": run_prune,
        "ablate": run_ablate,
    }
)


def usage() -> str:
    """Return what `senet --help` prints."""
    commands = "\n".join(f"  {name:<10} {summary(function)}" for name, function in COMMANDS.items())
    return (
        f"usage: senet COMMAND [...]\n\nSqueeze-and-Excitation networks in PyTorch.\n\n{commands}\n\n"
        "`senet COMMAND --help` explains a command."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 for a part left out, 2 for bad input, or 128 + a signal's number.

    Of several processes that torchrun started, the first prints; when one fails, all end with the first one's sentence.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the encoding lacks is printed with escapes
            stream.reconfigure(errors="backslashreplace")
    argv = sys.argv[1:] if argv is None else argv
    try:
        with first_speaks(), warnings_shown():
            run_command(argv)
    except SenetError as error:
        if first_to_fail():
            say(f"senet: {printable(str(error))}", console(stderr=True))
        return 2
    except KeyboardInterrupt:
        if is_first():
            say("senet: stopped", console(stderr=True))
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except Exception as error:
        if not first_to_fail():
            return 2  # another process has failed, and this one could not go on without it
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more can be had"])[0]
        say(f"senet: out of memory ({printable(reason)}); take a smaller batch, image or network", console(stderr=True))
        return 2
    return 0


def run_command(argv: Sequence[str]) -> None:
    """Run the command that the first word names."""
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return
    if not argv or argv[0] not in COMMANDS:
        given = f"{argv[0]!r} is no command" if argv else "the command is missing"
        raise SenetError(f"{given}; expected {', '.join(COMMANDS)}")
    COMMANDS[argv[0]](argv[1:])


class WarningLines(logging.Handler):
    """Prints what the library warns of, a line each, on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning."""
        say(f"warning: {printable(record.getMessage())}", console(stderr=True))


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show the library's warnings, whatever another library has done to logging."""
    handler, logger = WarningLines(logging.WARNING), logging.getLogger("senet")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that there is no memory left, on the processor or on a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
