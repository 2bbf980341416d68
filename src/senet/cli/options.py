"""The options of a command: how they are typed, and the answer to one that it does not have."""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, get_origin, get_type_hints

import tyro

from senet.errors import SenetError, nearest

CHECKED_BY_TYRO = ("--help", "--tyro-", "--model.se.")
"""Beginnings of options that are no fields of a command, or fields of one that may be None."""
POSITIONAL = tyro.conf.Positional[str].__metadata__[0]  # type: ignore[attr-defined]


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
    What is between backquotes is a command or Python, and stays.
    """
    parts = re.split(r"(`[^`]*`)", sentence)
    if len(parts) > 1:
        return "".join(part if part.startswith("`") else as_typed(part, kind) for part in parts)
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


# ---- options that a command does not have ----------------------------------------------------------------------------


def flag_of(word: str) -> str:
    """Return the option that a word names, in the form in which it is listed; empty for a value."""
    name = word.partition("=")[0].replace("_", "-")
    return re.sub(r"(^--|\.)no-", r"\1", name) if word.startswith("--") else ""


def unknown_option(typed: str, flag: str, known: Set[str], elsewhere: Mapping[str, str]) -> str:
    """Return the message about an unknown option: a user of timm's types --lr for --optimizer.lr.

    Args:
        typed: the option.
        flag: in the form in which it is listed.
        known: the options of the command.
        elsewhere: those of other programs.
    """
    if flag in elsewhere:
        return f"no option is called {typed}; here that is {elsewhere[flag]}"
    last = flag.removeprefix("--")
    same = sorted(other for other in known if other.rpartition(".")[2] == last)
    if typed.startswith("--no-"):
        same = [f"{other.removesuffix(last)}no-{last}" for other in same]
    return f"no option is called {typed}; the nearest are {', '.join(same) or nearest(flag, known)}"


def by_flag(*kinds: type) -> dict[str, Option]:
    """Return the options of some dataclasses of arguments, as they are listed."""
    return {option.flag: option for kind in kinds for _, option in options(kind)}


def check_options(found: Mapping[str, Option], argv: Sequence[str], elsewhere: Mapping[str, str]) -> None:
    """Raise a SenetError for options that a command does not have, or that are written as elsewhere: -b 8, imgsz=640.

    Args:
        found: the options of the command, see `by_flag`.
        argv: its arguments.
        elsewhere: options of other programs, and what does the same here.
    """
    wrong: list[str] = []
    is_value = False
    for word in argv:
        wrong.append(mistake(word, is_value, found.keys(), elsewhere))
        flag, has_value = flag_of(word), "=" in word
        # --model-kwargs takes words KEY=VALUE
        is_value = not has_value and not found[flag].is_switch if flag in found else is_value and has_value
    if any(wrong):
        raise SenetError("; ".join(dict.fromkeys(filter(None, wrong))))


def mistake(word: str, is_value: bool, known: Set[str], elsewhere: Mapping[str, str]) -> str:
    """Return what is wrong with a word of a command line; empty if nothing is.

    Args:
        word: the word.
        is_value: whether it may be the value of the option before it.
        known: the options of the command.
        elsewhere: those of other programs.
    """
    typed, _, value = word.partition("=")
    flag, name = flag_of(word), f"--{typed.lstrip('-').replace('_', '-')}"
    is_named = (name in known or name in elsewhere) and not word.startswith("-")
    if flag and flag not in known and not flag.startswith(CHECKED_BY_TYRO):
        return unknown_option(typed, flag, known, elsewhere)
    if is_short(typed):
        return unknown_short_option(typed, name, known, elsewhere)
    if value and is_named and not is_value and not Path(word).exists():
        return f"no option is written {word!r}; here that is {f'{name} {value}' if name in known else elsewhere[name]}"
    return ""


def is_short(word: str) -> bool:
    """Return whether a word is an option with a single dash, and no number or file."""
    return re.fullmatch(r"-[A-Za-z][\w-]*", word) is not None and word != "-h" and not Path(word).exists()


def unknown_short_option(typed: str, name: str, known: Set[str], elsewhere: Mapping[str, str]) -> str:
    """Return the message about an option with a single dash, as `unknown_option`; `name` is it with two."""
    if name in known:
        return f"no option is called {typed}; here that is {name}"
    if len(typed) > 2:
        return unknown_option(typed, name, known, elsewhere)
    meant = [flag for flag in known if flag.rpartition(".")[2].lstrip("-").startswith(typed[1:])]
    such_as = ", such as " + " or ".join(sorted(meant, key=lambda flag: ("." in flag, flag))[:2]) if meant else ""
    return f"no option is called {typed}; options are written in full{such_as}"


def check_values(argv: Sequence[str], elsewhere: Mapping[str, Mapping[str, str]]) -> None:
    """Raise a SenetError for a value that an option has in other programs only.

    Args:
        argv: the arguments of a command.
        elsewhere: for some of its options, the values of other programs and what does the same here.
    """
    for word, following in pairwise((*argv, "")):
        flag, equals, value = word.partition("=")
        value = value if equals else following
        remedy = elsewhere.get(flag, {}).get(value.lower())
        if remedy is not None:
            raise SenetError(f"{flag} has no {value}; {remedy}")
