"""Names of shards as webdataset's users type them: braces, several patterns in one word, addresses."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from senet.errors import SenetError

MOST = 1_000_000
"""Most shards that a pattern may stand for."""
SEPARATOR = "::"
"""Between patterns in one word."""
TAR, PARQUET = (".tar", ".tar.gz", ".tgz"), (".parquet",)
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?|([A-Za-z])\.\.([A-Za-z])")


def is_address(name: str) -> bool:
    """Return whether a name is an address, such as https://, s3:// or memory://, and not a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.\-]*://", name) is not None


def is_shard(name: str) -> bool:
    """Return whether a file is a shard, by its name."""
    return path_of(name).lower().endswith((*TAR, *PARQUET))


def path_of(name: str) -> str:
    """Return the path in an address, without the query that a signature may be in; a path as it is."""
    return urlsplit(name).path if is_address(name) else name


def base_name(name: str) -> str:
    """Return the last part of a path or of an address."""
    return path_of(name).rstrip("/").rpartition("/")[2]


def shown(name: str) -> str:
    """Return an address without its password and query, which may be secrets, for messages."""
    if not is_address(name):
        return name
    parts = urlsplit(name)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def joined(folder: str, name: str) -> str:
    """Return the path or address of a file in a folder; an address keeps its query."""
    if not is_address(folder):
        return str(Path(folder) / name)
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def folder_of(name: str) -> str:
    """Return the folder of a file, a path or an address; the address keeps its query."""
    if not is_address(name):
        return str(Path(name).parent)
    parts = urlsplit(name)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0]))


def has_wildcard(name: str) -> bool:
    """Return whether a name has * or ?; the ? of an address begins its query."""
    return "*" in path_of(name) or ("?" in name and not is_address(name))


def expanded(pattern: str) -> list[str]:
    """Return the names that a pattern stands for: `a-{000..099}.tar`, `{a,b}.tar`, and several such joined by `::`.

    Raises:
        SenetError: they are more than a million, or an empty range.
    """
    names: list[str] = []
    for each in pattern.split(SEPARATOR):
        parts = list(parts_of(each, pattern))
        number = 1
        for part in parts:
            number *= len(part)
        if number + len(names) > MOST:
            raise SenetError(f"{shown(pattern)} stands for more than {MOST:,} shards; expected ranges as {{000..099}}")
        names += map("".join, product(*parts))
    return names


def parts_of(pattern: str, whole: str) -> Iterator[list[str]]:
    """Yield the choices for each part of a pattern without nested braces, see `expanded`."""
    for text in re.split(r"(\{[^{}]*\})", pattern):
        inside = text[1:-1] if text.startswith("{") and text.endswith("}") else None
        if inside is None:
            yield [text]
        elif found := RANGE.fullmatch(inside):
            yield ranged(found, whole)
        else:
            yield inside.split(",") if "," in inside else [text]


def ranged(found: re.Match[str], whole: str) -> list[str]:
    """Return the words of a range as a shell has them: with leading zeros where an end has some, also backwards."""
    first, last, step, letter, last_letter = found.groups()
    if letter:
        low, high = ord(letter), ord(last_letter)
        way = 1 if low <= high else -1
        return [chr(code) for code in range(low, high + way, way)]
    low, high = int(first), int(last)
    stride = abs(int(step or 1)) or 1
    if abs(high - low) // stride >= MOST:
        raise SenetError(f"{shown(whole)} stands for more than {MOST:,} shards; expected ranges as {{000..099}}")
    padded = any(re.match(r"-?0\d", word) for word in (first, last))
    width = max(len(first), len(last)) if padded else 0
    way = 1 if low <= high else -1
    return [f"{number:0{width}d}" for number in range(low, high + way, way * stride)]
