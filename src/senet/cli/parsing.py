"""Arguments read by tyro, and mistakes in them told in one sentence."""

import contextlib
import inspect
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import asdict, fields, is_dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, get_type_hints

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
    helping = {"-h", "--help"} & set(argv)
    try:
        with contextlib.redirect_stderr(said), contextlib.nullcontext() if helping else unbounded_lines():
            parsed = tyro.cli(
                command,
                args=list(with_switches(argv, set(switches(command)))),
                prog=prog,
                default=default,
                description=inspect.getdoc(command),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SenetError(f"{one_sentence(said.getvalue())}; `{prog} --help` explains all arguments") from None
    check_numbers(parsed)
    return parsed


def switches(command: Any, place: str = "") -> Iterator[str]:
    """Yield the options of a dataclass of arguments that are on or off, as they are written on a command line."""
    for name, kind in get_type_hints(command).items():
        if is_dataclass(kind):
            yield from switches(kind, "" if name == "config" else f"{place}{name}.")
        elif kind is bool:
            yield f"--{place}{name}".replace("_", "-")


def with_switches(argv: Sequence[str], names: Set[str]) -> Iterator[str]:
    """Yield arguments with `--x.y False` written as `--x.no-y`, as tyro has it, and `--x.y True` as `--x.y`."""
    words = list(argv)
    for i, word in enumerate(words):
        if i and word in ("True", "False") and words[i - 1].replace("_", "-") in names:
            continue
        option, equals, value = word.partition("=")
        if option.replace("_", "-") in names:
            value = value if equals else "".join(words[i + 1 : i + 2])
            if value == "False":
                place, dot, name = option.removeprefix("--").rpartition(".")
                yield f"--{place}{dot}no-{name}"
                continue
            word = option if value == "True" else word
        yield word


@contextlib.contextmanager
def unbounded_lines() -> Iterator[None]:
    """Let tyro believe in a terminal of any width: it breaks long values into lines."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "1000000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


REWORDINGS = (
    (r"no type matching (.+?) could be instantiated from \[(.*?)\](?:\.\s+Got errors:.*)?$", r"expected \1, not \2"),
    (r"invalid literal for int\(\) with base 10: ", "expected an integer, not "),
    (r"could not convert string to float: ", "expected a number, not "),
    (r"Could not find valid parse for arguments: \[(.*?)\]$", r"a value among \1 is of another kind"),
    (r"Failed to parse key-value pairs!", "expected pairs of a key and a value"),
    (r"^error parsing config(?:\.\w+)+: ", ""),
    (r"`\[bold\](.*?)\[/bold\]`", r"`\1`"),
    (r"\{None\}\|\{?(.*?)\}?, not", r"None or \1, not"),
)
"""What tyro and Python say to programmers, and what is said in its place."""


def one_sentence(box: str) -> str:
    """Return the mistake that a box of tyro's describes: what follows its title, without help texts."""
    lines = [re.sub(r"^(│ |  )|[│ ]+$", "", line) for line in box.splitlines()]
    title = next((i for i, line in enumerate(lines) if re.search(r"^[╭╰]|──|--- *$", line)), 0)
    before_rule = takewhile(lambda line: not re.fullmatch(r" *[─╰╯-]+", line), lines[title + 1 :])
    told = " ".join(line.strip() for line in before_rule if not line.startswith("     "))
    near = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", box, re.DOTALL)
    sentence = told[:1].lower() + told[1:].strip().rstrip(".")
    for theirs, ours in REWORDINGS:
        sentence = re.sub(theirs, ours, sentence, flags=re.DOTALL)
    return f"{sentence}; perhaps you meant {near[1]}" if near else sentence


def check_numbers(parsed: Any, place: str = "") -> None:
    """Raise a SenetError for a number that no counter can hold, anywhere in a dataclass of arguments."""
    for field in fields(parsed):
        value, name = getattr(parsed, field.name), f"{place}{field.name}"
        if is_dataclass(value):
            check_numbers(value, "" if name == "config" else f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) >= 2**63:
                raise SenetError(f"{name} is {number}; expected a number of less than 19 digits")


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
    from senet.nn.modes import default_device
    from senet.nn.precision import slow_bf16

    if asked and (slow := slow_bf16("--bf16", default_device(), "leave it out for speed")):
        say(f"senet: {slow}", console(stderr=True))


def summary(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(function) or "").splitlines()[0]
