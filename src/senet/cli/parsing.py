"""A command: a dataclass of arguments, which tyro reads, and what it does with them."""

import ast
import contextlib
import inspect
import io
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin

import tyro

from senet.cli.options import by_flag, check_options
from senet.configs import settings
from senet.errors import SenetError
from senet.files import check_writable
from senet.terminal import say

Arguments = TypeVar("Arguments")


class Command(ABC):
    """A command of `senet`: its fields are the arguments, its docstring is what `--help` says."""

    in_processes: ClassVar[Literal["share", "train", "first"]] = "first"
    """What several processes do: share the work, see `senet.processes.shared_work`; train together, or each its runs;
    or nothing but in the first."""
    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Options of other programs, such as "--imgsz", and what does the same here."""

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> "Command":
        """Read the arguments after the command's name.

        Args:
            argv: the arguments.
            prog: "senet" and the command's name, for messages.
        """
        return parse(cls, argv, prog)

    @abstractmethod
    def run(self) -> None:
        """Do what the command is for."""


def parse(
    kind: type[Arguments],
    argv: Sequence[str],
    prog: str,
    *,
    default: Arguments | None = None,
    description: str | None = None,
) -> Arguments:
    """Read a dataclass from arguments with tyro.

    Args:
        kind: the dataclass.
        argv: the arguments.
        prog: what comes before them, for messages.
        default: the values of arguments that are left out; None for the dataclass's own defaults.
        description: what `--help` says first; None for the dataclass's docstring.

    Raises:
        SenetError: an option that the command does not have, a value that a dataclass refuses, or an integer that
            does not fit 64 bits.
        SystemExit: `--help` was printed, or tyro refused the arguments and said why on standard error.
    """
    check_options(by_flag(kind), argv, getattr(kind, "elsewhere", {}))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Arguments = tyro.cli(
                kind,
                args=list(argv),
                prog=prog,
                default=tyro.MISSING_NONPROP if default is None else default,
                registry=REGISTRY,
                description=inspect.getdoc(kind) if description is None else description,
            )
    except SystemExit as stop:
        if refusal := underlying_error(stop):
            raise refusal from None
        print(said.getvalue(), end="", file=sys.stderr)
        raise
    check_integers(parsed)
    return parsed


REGISTRY = tyro.constructors.ConstructorRegistry()
"""The types that this command line reads in its own way."""


@REGISTRY.primitive_rule
def number(info: Any) -> tyro.constructors.PrimitiveConstructorSpec[float | None] | None:
    """Read an integer or a decimal number, or None where there may be none; what Python says is not for users."""
    kind: type[int] | type[float] | None = {int: int, int | None: int, float: float, float | None: float}.get(info.type)
    if kind is None:
        return None
    may_be_none = info.type is not kind
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: None if may_be_none and words == ["None"] else number_in(words[0], kind),
        is_instance=lambda value: (
            (value is None and may_be_none) or isinstance(value, kind if kind is int else (int, float))
        ),
        str_from_instance=lambda value: [str(value)],
    )


def number_in(word: str, kind: type[int] | type[float]) -> float:
    """Return the number that a word is.

    Raises:
        ValueError: it is none; tyro puts the option's name before the message.
    """
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"expected {'an integer' if kind is int else 'a number'}, not {word!r}") from None


@REGISTRY.primitive_rule
def sides(info: Any) -> tyro.constructors.PrimitiveConstructorSpec[tuple[int, int] | None] | None:
    """Read height and width, or one number for both."""
    if info.type != tuple[int, int] | None:
        return None

    def read(words: list[str]) -> tuple[int, int] | None:
        if words == ["None"]:
            return None
        if len(words) not in (1, 2):
            raise ValueError(f"expected one number for a square, or height and width, not {len(words)} numbers")
        height, width = (int(number_in(word, int)) for word in (words * 2)[:2])
        return height, width

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="SIDE|{HEIGHT WIDTH}",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None"] if value is None else list(map(str, value)),
    )


@REGISTRY.primitive_rule
def words_or_none(info: Any) -> tyro.constructors.PrimitiveConstructorSpec[tuple[str, ...] | None] | None:
    """Read some of the words of a Literal, or none of them; None where the option is left out."""
    whole = next((kind for kind in get_args(info.type) if get_origin(kind) is tuple), None)
    choices = get_args(get_args(whole)[0]) if whole is not None else ()
    is_optional = {*get_args(info.type)} == {whole, type(None)}
    if not (choices and is_optional and all(isinstance(choice, str) for choice in choices)):
        return None

    def read(words: list[str]) -> tuple[str, ...] | None:
        if unknown := [word for word in words if word not in choices]:
            if words == ["None"]:
                return None
            raise ValueError(f"expected some of {', '.join(choices)}, with spaces between them, not {unknown[0]!r}")
        return tuple(words)

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"[{{{','.join(choices)}}} ...]",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: ["None"] if value is None else list(value),
    )


@REGISTRY.primitive_rule
def keyword_arguments(info: Any) -> tyro.constructors.PrimitiveConstructorSpec[Mapping[str, Any]] | None:
    """Read a mapping from words KEY=VALUE, as timm's --model-kwargs."""
    if get_origin(info.type) is not Mapping:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="KEY=VALUE",
        instance_from_str=lambda words: dict(map(keyword_argument, words)),
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda mapping: [f"{key}={value}" for key, value in mapping.items()],
    )


def keyword_argument(word: str) -> tuple[str, bool | int | float | str | tuple[Any, ...]]:
    """Return the key and the value of a word KEY=VALUE.

    The value is a number, True, False, several of these such as (0.9,0.95), or else text.

    Raises:
        SenetError: the word has no "=".
    """
    key, equals, text = word.partition("=")
    if not (key and equals):
        raise SenetError(f"{word!r} is no keyword argument; expected KEY=VALUE, such as stem_pool=pad")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    several = isinstance(value, tuple) and all(isinstance(item, bool | int | float) for item in value)
    return key, value if several or isinstance(value, bool | int | float | str) else text


def underlying_error(error: BaseException) -> SenetError | None:
    """Return the SenetError that led to another exception; None if there is none.

    tyro draws a box around the message of an error that a dataclass raises; the message alone is enough.
    """
    context = error.__context__
    return context if context is None or isinstance(context, SenetError) else underlying_error(context)


def check_integers(parsed: Any) -> None:
    """Raise a SenetError for an integer that does not fit 64 bits, anywhere in a dataclass of arguments."""
    for name, value in settings(parsed, ""):
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) >= 2**63:
                raise SenetError(f"{name} is {number}; expected an integer of less than 19 digits")


# ---- output ----------------------------------------------------------------------------------------------------------


def check_new(folder: Path) -> None:
    """Raise a SenetError for an output folder that exists already, or cannot be made."""
    if folder.exists():
        raise SenetError(f"{folder} exists already; name another folder by --output")
    check_writable(folder)


def print_report(report: Any, as_json: bool, ending: str) -> None:
    """Print a report dataclass as JSON, or as its own text with a last line."""
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        say(f"{report}\n{ending}")
