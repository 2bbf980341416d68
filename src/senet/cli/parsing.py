"""A command: a dataclass of arguments, which tyro reads, and what it does with them."""

import ast
import contextlib
import inspect
import io
import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro

from senet.configs import settings
from senet.errors import SenetError
from senet.files import check_writable
from senet.terminal import say

Arguments = TypeVar("Arguments")
POSITIONAL = tyro.conf.Positional[str].__metadata__[0]  # type: ignore[attr-defined]


class Command(ABC):
    """A command of `senet`: its fields are the arguments, its docstring is what `--help` says."""

    in_processes: ClassVar[Literal["share", "train", "first"]] = "first"
    """What several processes do: share the work, see `senet.processes.shared_work`; train together, or each its runs;
    or nothing but in the first."""

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
        SenetError: a value that a dataclass refuses, or an integer that does not fit 64 bits.
        SystemExit: `--help` was printed, or tyro refused the arguments and said why on standard error.
    """
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
def number(info: Any) -> tyro.constructors.PrimitiveConstructorSpec[float] | None:
    """Read an integer or a decimal number; what Python says of a word that is none is not for users."""
    if info.type not in (int, float):
        return None
    kind: type[int] | type[float] = info.type
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: number_in(words[0], kind),
        is_instance=lambda value: isinstance(value, kind if kind is int else (int, float)),
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


# ---- options as they are typed ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """An option of a command: how it is typed, and whether it takes no value but is on or off."""

    flag: str
    is_switch: bool

    def with_value(self, value: str) -> str:
        """Return how a value is given, such as `--epochs 3`, `--json` or `--no-json`."""
        if not self.is_switch:
            return f"{self.flag} {value}"
        place, dot, name = self.flag.removeprefix("--").rpartition(".")
        return self.flag if value == "True" else f"--{place}{dot}no-{name}"


def options(kind: type, place: str = "", typed: str = "") -> Iterator[tuple[str, Option]]:
    """Yield the options of a dataclass of arguments with the names that Python knows them by.

    Args:
        kind: the dataclass.
        place: dotted name of the field that holds it, ending in a dot; empty for the command itself.
        typed: the same as the user types it.
    """
    for name, hint in get_type_hints(kind, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        if POSITIONAL in marks or tyro.conf.Suppress in marks or get_origin(hint) is ClassVar:
            continue
        mark = next((mark for mark in marks if getattr(mark, "name", None) is not None), None)
        word = name.replace("_", "-") if mark is None else mark.name
        whole = word if mark is not None and mark.prefix_name is False else ".".join(filter(None, (typed, word)))
        inner = hint.__origin__ if marks else hint
        if isinstance(inner, type) and get_origin(inner) is None and is_dataclass(inner):
            yield from options(inner, f"{place}{name}.", whole)
        else:
            yield f"{place}{name}", Option(f"--{whole}", inner is bool)


def by_every_name(kind: type) -> Mapping[str, Option]:
    """Return the options of a command by their dotted names, and by every end of such a name that is unambiguous."""
    found: dict[str, set[Option]] = {}
    typed = {}
    configured = getattr(kind, "configuration", None)  # whose fields the command takes as well
    for name, option in (*options(kind), *(() if configured is None else options(configured))):
        words = name.split(".")
        for i in range(len(words)):
            found.setdefault(".".join(words[i:]), set()).add(option)
        typed[option.flag.removeprefix("--").replace("-", "_")] = option
    return {name: next(iter(known_as)) for name, known_as in found.items() if len(known_as) == 1} | typed


def as_typed(sentence: str, kind: type) -> str:
    """Return a message of the library with the arguments that it names written as options of a command.

    "data.val_fraction is 2" becomes "--data.val-fraction is 2", and "json=False" becomes "--no-json". Names without a
    dot or underscore could be plain English: they count as options only with "=value" or at the start of the sentence.
    """
    for name, option in sorted(by_every_name(kind).items(), key=lambda item: -len(item[0])):
        whole = rf"(?<![\w.\-/'\"`=]){re.escape(name)}"
        sentence = re.sub(
            rf"{whole}=(['\"]?)([^\s'\",;)]*[^\s'\",;).])\1",
            lambda found, option=option: option.with_value(found[2]),  # type: ignore[misc]
            sentence,
        )
        if "." in name or "_" in name:
            sentence = re.sub(rf"{whole}(?![\w\-/'\"`=(]|\.\w)", option.flag, sentence)
        elif not Path(name).exists():  # a folder of the user's that is called so
            sentence = re.sub(rf"^{re.escape(name)}(?= is | has )", option.flag, sentence)
    return sentence


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
