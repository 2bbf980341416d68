"""Arguments read by tyro, and mistakes in them told in one sentence."""

import contextlib
import inspect
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tyro

from senet.errors import SenetError
from senet.files import check_writable
from senet.terminal import console, say


def parse(command: Any, argv: Sequence[str], prog: str, default: Any = None) -> Any:
    """Parse arguments with tyro; what it would say in a box about a mistake becomes one sentence.

    Raises:
        SenetError: unknown, missing or malformed arguments.
        SystemExit: `--help` was asked for and printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command,
                args=list(argv),
                prog=prog,
                default=default,
                description=inspect.getdoc(command),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SenetError(f"{one_sentence(said.getvalue())}; `{prog} --help` explains all arguments") from None


def one_sentence(box: str) -> str:
    """Return the mistake that a box of tyro's describes: what follows its first rule, without help texts."""
    lines = [re.sub(r"^(│ |  )|[│ ]+$", "", line) for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.search(r"^[╭╰]|──|--- *$|^---", line)] + [len(lines)] * 2
    told = " ".join(line.strip() for line in lines[rules[0] + 1 : rules[1]] if not line.startswith("     "))
    near = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", box, re.DOTALL)
    sentence = told[:1].lower() + told[1:].strip().rstrip(".")
    return f"{sentence}; perhaps you meant {near[1]}" if near else sentence


def check_new(folder: Path) -> None:
    """Raise a SenetError for an output folder that exists already, or cannot be made."""
    if folder.exists():
        raise SenetError(f"{folder} exists already; name another folder")
    check_writable(folder)


def print_report(report: Any, as_json: bool, ending: str) -> None:
    """Print a report dataclass as JSON, or as its own text with a last line."""
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        say(f"{report}\n{ending}")


def say_slow_bf16(asked: bool) -> None:
    """Say on standard error if bf16 is asked for and slow on this machine."""
    from senet.borrowing import default_device
    from senet.training.precision import slow_bf16

    if asked and (slow := slow_bf16("--bf16", default_device(), "leave it out for speed")):
        say(f"senet: {slow}", console(stderr=True))


def summary(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(function) or "").splitlines()[0]
