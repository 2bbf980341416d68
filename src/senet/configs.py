"""Configurations to plain values and back: one pair of functions for every configuration dataclass.

    values = to_dict(config)                  # dictionaries, lists, strings, numbers, booleans, None: JSON
    config = from_dict(TrainConfig, values)   # equal to the first

Written by hand rather than with dacite or cattrs: each would have to be taught paths, integers for floats, read-only
mappings and dotted names of unknown keys, which is most of this file, and every model folder would depend on it.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from senet.errors import SenetError, nearest

Config = TypeVar("Config")

Switch = Literal["auto", "on", "off"]
"""The value of an option that can be left to the library ("auto")."""


def is_on(switch: Switch) -> bool | None:
    """Return True or False for a switch, None for "auto"."""
    return None if switch == "auto" else switch == "on"


def stored_fields(kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    """Return the fields of a dataclass that are written, with their types, by name.

    A field that does not count when two configurations are compared (`field(compare=False)`) is not written.
    """
    hints = get_type_hints(kind)
    return {f.name: (f, hints[f.name]) for f in fields(kind) if f.compare}


def to_dict(config: Any, *, name: str = "") -> dict[str, Any]:
    """Return a configuration as plain values.

    Args:
        config: an instance of a dataclass, whose values are plain, paths, tuples, mappings or dataclasses.
        name: what the configuration is called in messages.

    Raises:
        SenetError: a value is of another kind; the message has its dotted name.
    """
    return {key: plain(getattr(config, key), dotted(name, key)) for key in stored_fields(type(config))}


def plain(value: Any, name: str) -> Any:
    """Return one value of a configuration as plain values, see `to_dict`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(item, name) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item, dotted(name, key)) for key, item in value.items()}
    if is_dataclass(value):
        return to_dict(value, name=name)
    raise SenetError(f"{name} is of class {type(value).__name__}, which cannot be written to a file; use a plain value")


def settings(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of a configuration, or of a part of one, with their dotted names."""
    if is_dataclass(value):
        for part in fields(value):
            if part.compare:
                yield from settings(getattr(value, part.name), dotted(name, part.name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from settings(item, dotted(name, key))
    else:
        yield name, value


def overlaid(value: Any, asked: Mapping[str, Any], name: str) -> Any:
    """Return a part of a configuration with the values of `asked`, by dotted name, in their places."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
        return replace(value, **{part: overlaid(own, asked, f"{name}.{part}") for part, own in parts.items()})
    if isinstance(value, Mapping):
        start = f"{name}."
        return {**value, **{key.removeprefix(start): v for key, v in asked.items() if key.startswith(start)}}
    return asked.get(name, value)


def from_dict(kind: type[Config], values: Any, *, name: str = "") -> Config:
    """Return the configuration that `to_dict` wrote.

    Args:
        kind: the dataclass.
        values: its fields; those left out have their defaults.
        name: what the configuration is called in messages.

    Raises:
        SenetError: an unknown or missing key, a value of another type, or one that the dataclass refuses; the message
            has the dotted name.
    """
    if not isinstance(values, Mapping):
        raise SenetError(f"{name or 'the configuration'} is {values!r}; expected keys and values")
    known = stored_fields(kind)
    for key in values:
        if key not in known:
            raise SenetError(f"{dotted(name, key)} is unknown; the nearest are {nearest(str(key), known)}")
    for key, (field, _) in known.items():
        if key not in values and field.default is MISSING and field.default_factory is MISSING:
            raise SenetError(f"{dotted(name, key)} is missing")
    return kind(**{key: typed(known[key][1], value, dotted(name, key)) for key, value in values.items()})


def check_setting(kind: Any, name: str, value: Any) -> None:
    """Raise a SenetError unless a configuration has a value of this name, and takes this one for it.

    Args:
        kind: the dataclass.
        name: dotted.
        value: of the field; an instance of its class if it is a dataclass.
    """
    inner = kind
    for key in name.split("."):
        inner = next((part for part in (inner, *get_args(inner)) if is_dataclass(part)), Any)
        if inner is Any:  # inside a mapping, whose keys are free
            break
        known = stored_fields(inner)
        if key not in known:
            names = list(names_of_settings(kind))
            last = name.rpartition(".")[2]
            same = [other for other in names if other.rpartition(".")[2] == last]
            raise SenetError(f"no setting is called {name}; the nearest are {', '.join(same) or nearest(name, names)}")
        inner = known[key][1]
    typed(inner, plain(value, name), name)


def names_of_settings(kind: Any, name: str = "") -> Iterator[str]:
    """Yield the dotted names of the fields of a dataclass and of those inside."""
    for key, (_, inner) in stored_fields(kind).items():
        yield dotted(name, key)
        for part in (inner, *get_args(inner)):
            if is_dataclass(part):
                yield from names_of_settings(part, dotted(name, key))


def typed(kind: Any, value: Any, name: str) -> Any:
    """Convert one plain value to the type of a configuration's field.

    Args:
        kind: a dataclass, a plain type, `Path`, or a tuple, mapping, `Literal` or union of them.
        value: the plain value.
        name: dotted, for messages.

    Raises:
        SenetError: the value is not of that type.
    """
    origin = get_origin(kind)
    if is_dataclass(kind):
        return from_dict(kind, value, name=name)  # type: ignore[arg-type]
    if origin in (Union, UnionType):
        return chosen(get_args(kind), value, name)
    if origin is tuple and isinstance(value, list | tuple):
        items = get_args(kind)
        kinds = items[:1] * len(value) if items[-1] is Ellipsis else items
        if len(kinds) == len(value):
            return tuple(typed(item_kind, item, name) for item_kind, item in zip(kinds, value, strict=True))
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        item_kind = get_args(kind)[1]
        return {key: typed(item_kind, item, dotted(name, key)) for key, item in value.items()}
    elif origin is Literal and value in get_args(kind):
        return value
    elif kind is Any or (isinstance(kind, type) and fits(kind, value)):
        return kind(value) if kind in (float, Path) else value
    raise SenetError(f"{name} is {value!r}; expected {in_words(kind)}")


def chosen(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    """Convert a value to the first type of a union that accepts it."""
    for kind in kinds:
        if isinstance(kind, type) and type(value) is kind:  # True is an integer, too
            return value
    for item_kind in kinds:
        with suppress(SenetError):
            return typed(item_kind, value, name)
    sections = [item_kind for item_kind in kinds if is_dataclass(item_kind)]
    if sections and isinstance(value, Mapping):
        return from_dict(sections[0], value, name=name)  # type: ignore[arg-type]  # says what is wrong inside
    raise SenetError(f"{name} is {value!r}; expected {' or '.join(map(in_words, kinds))}")


def fits(kind: type, value: Any) -> bool:
    """Whether a plain value is of a plain type; an integer is a float, too, and a string a path."""
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, str) if kind is Path else type(value) is kind


def in_words(kind: Any) -> str:
    """Return a type in words, for a message."""
    origin, items = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, items))}"
    if origin is tuple:
        inside = in_words(items[0])
        return f"a list of {inside}" if items[-1] is Ellipsis else f"a list of {len(items)}: {inside}"
    if origin is not None and origin not in (Union, UnionType):
        return "keys and values"
    if origin is not None:
        return " or ".join(map(in_words, items))
    words = {NoneType: "null", bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    return words.get(kind, "a path" if kind is Path else "keys and values")


def dotted(name: str, key: object) -> str:
    """Return the name of a value inside another."""
    return f"{name}.{key}" if name else str(key)
