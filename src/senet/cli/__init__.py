"""The command line: `senet COMMAND`, see `COMMANDS`."""

import argparse
import errno
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TextIO, cast

import senet
from senet.cli.processes import only_first_prints, run_together, stacks_on_request, without_frames
from senet.errors import SenetError, nearest
from senet.launch import first_to_fail, is_first
from senet.terminal import bars_shown, console, printable, say, shortened

if TYPE_CHECKING:
    from senet.cli.parsing import Command


SAID_BY_SENET = (
    "Image size .* could be decompression bomb",
    "'torch.load' received a zip file that looks like a Torch",
)
"""Beginnings of other libraries' warnings about files that are read as usual, or refused in a sentence anyway."""
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says where a disk is full, a quota is used up, a file may not grow, or a disk is read-only."""


class Entry(NamedTuple):
    """Where a command is defined, so that only the one that runs is imported, and its line in `senet --help`."""

    module: str
    name: str
    summary: str

    def load(self) -> "type[Command]":
        """Import the command."""
        return cast("type[Command]", getattr(import_module(self.module), self.name))


COMMANDS: Mapping[str, Entry] = MappingProxyType(
    {
        "demo": Entry("senet.cli.demo", "DemoCommand", "Train a network and its SE twin; fine-tune one."),
        "train": Entry("senet.cli.training", "TrainCommand", "Train a network by a recipe, or go on with a run."),
        "finetune": Entry("senet.cli.finetuning", "FinetuneCommand", "Train a network on pictures of your own."),
        "evaluate": Entry("senet.cli.evaluation", "EvaluateCommand", "Measure the accuracy of a run or a network."),
        "predict": Entry("senet.cli.prediction", "PredictCommand", "Classify images."),
        "shard": Entry("senet.cli.sharding", "ShardCommand", "Write a data set as shards: tar files or parquet."),
        "runs": Entry("senet.cli.runs", "RunsCommand", "Compare runs: settings, best epochs, time, curves."),
        "models": Entry("senet.cli.models", "ModelsCommand", "List the networks, with their costs."),
        "convert": Entry("senet.cli.networks", "ConvertCommand", "Turn weights from anywhere into a model folder."),
        "insert": Entry("senet.cli.networks", "InsertCommand", "Put SE blocks into a network that has none."),
        "export": Entry("senet.cli.export", "ExportCommand", "Write a network as a file for other runtimes."),
        "record": Entry("senet.cli.analysis", "RecordCommand", "Record what the gates of a network do on a data set."),
        "explain": Entry("senet.cli.analysis", "ExplainCommand", "Write a page about what the gates of a network do."),
        "prune": Entry("senet.cli.analysis", "PruneCommand", "Take SE blocks out of a network."),
        "ablate": Entry("senet.cli.training", "AblateCommand", "Train the variants of the paper's ablations."),
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    It is 0; 1 if inputs were skipped; 2 for bad input; 3 if an exported network differs from its original beyond the
    tolerance; 128 + a signal's number.

    Under torchrun only the first process prints. When one fails, all exit, and only the first failure is reported.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the encoding lacks is printed with escapes
            stream.reconfigure(errors="backslashreplace")
    for message in SAID_BY_SENET:
        warnings.filterwarnings("ignore", message)
    stacks_on_request()
    without_frames()
    try:
        with only_first_prints(), bars_shown():
            run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except SenetError as error:
        if first_to_fail():
            say(f"senet: {printable(shortened(str(error)))}", console(stderr=True))
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
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            leave_unwritten(sys.stdout)
            said = f"senet: the output cannot be written ({error.strerror}); make room, or name another place"
            say(said, console(stderr=True))
            return 2
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            say(
                f"senet: {printable(shortened(str(error.filename)))} is too long for a name; check it",
                console(stderr=True),
            )
            return 2
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or ["no more can be had"])[0]
        say(f"senet: out of memory ({printable(reason)}); take a smaller batch, image or network", console(stderr=True))
        return 2
    return 0


def leave_unwritten(stream: TextIO) -> None:
    """Close a stream that cannot be written, so that Python does not try again at its end, with a traceback."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            stream.close()


def first_words() -> argparse.ArgumentParser:
    """Return the parser of what comes before the command's own arguments."""
    commands = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    reader = argparse.ArgumentParser(
        "senet",
        usage="senet [--version] [--import MODULE] COMMAND ...",
        description=f"Squeeze-and-Excitation networks in PyTorch.\n\n{commands}",
        epilog="`senet COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    reader.add_argument("--version", action="store_true", help="show the version and exit")
    reader.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="first import a module that registers networks, recipes, gates or excitations, from the current folder or "
        "an installed package; may be repeated",
    )
    reader.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    reader.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return reader


def run(argv: Sequence[str]) -> None:
    """Run the command that a command line names."""
    asked = first_words().parse_args(argv)
    if asked.version:
        print(f"senet {senet.__version__}")
        return
    if asked.command is None:
        raise SenetError(f"the command is missing; expected one of {', '.join(COMMANDS)}")
    if asked.command not in COMMANDS:
        raise SenetError(
            f"no command is called {asked.command!r}; the nearest are {nearest(asked.command, COMMANDS)} "
            "(`senet --help` lists all)"
        )
    if asked.modules:
        from senet import plugins

        sys.path.insert(0, "")  # as `python -m` does
        plugins.load(asked.modules)
    kind = COMMANDS[asked.command].load()
    with options_as_typed(kind):
        run_together(kind.read(asked.arguments, f"senet {asked.command}"), asked.command)


@contextmanager
def options_as_typed(kind: "type[Command]") -> Iterator[None]:
    """Print the library's warnings, and reword warnings and errors to name a command's options as they are typed."""
    from senet.cli.options import as_typed

    class WarningLines(logging.Handler):
        """Prints a line for each warning on standard error."""

        def emit(self, record: logging.LogRecord) -> None:
            """Print one warning."""
            say(f"warning: {printable(as_typed(record.getMessage(), kind))}", console(stderr=True))

    handler, logger = WarningLines(logging.WARNING), logging.getLogger("senet")
    logger.addHandler(handler)
    try:
        yield
    except SenetError as error:
        raise SenetError(as_typed(str(error), kind)) from error
    finally:
        logger.removeHandler(handler)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that there is no memory left, on the processor or on a GPU."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
