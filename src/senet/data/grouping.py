"""Counting the outputs of a network as other classes: only some of them, or several as one."""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import torch
from torch import Tensor

from senet.data.folders import listed
from senet.errors import MissingFileError, SenetError, nearest
from senet.files import parse_json

SEPARATORS = (",", ";", "\t")
"""Of columns: Excel writes a semicolon where the comma is the decimal sign, and tabs as "Unicode text"."""
LEFT_OUT = -1
"""The group of an output that is in no class."""


@dataclass(frozen=True)
class ClassGroups:
    """The classes that the outputs of a network are counted as; call it with logits.

    Args:
        names: of the classes.
        group_of: for each output, the number of its class, or `LEFT_OUT`.
    """

    names: tuple[str, ...]
    group_of: tuple[int, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits of the classes, float32.

        Their softmax adds up the probabilities of the outputs of a class; those of outputs that are left out are
        shared out in proportion, as if the network did not have these outputs.

        Args:
            logits: (N, outputs).

        Returns:
            (N, classes).
        """
        group_of = torch.tensor(self.group_of, device=logits.device)
        kept = group_of != LEFT_OUT
        groups, values = group_of[kept].expand(len(logits), -1), logits[:, kept].float()
        shape = (len(logits), len(self.names))
        highest = values.new_full(shape, -torch.inf).scatter_reduce(1, groups, values, "amax")
        sums = values.new_zeros(shape).scatter_add(1, groups, (values - highest.gather(1, groups)).exp())
        return highest + sums.log()

    def only(self, places: Sequence[int], names: tuple[str, ...]) -> "ClassGroups":
        """Return the groups of some of the classes alone, in this order and under these names."""
        new = {place: number for number, place in enumerate(places)}
        return ClassGroups(names, tuple(new.get(group, LEFT_OUT) for group in self.group_of))


def group_classes(
    names: Sequence[str] | None, mapping: Mapping[str, str] | str | Path | None = None, only: Sequence[str] = ()
) -> ClassGroups:
    """Return the classes that the outputs of a network are counted as.

    Args:
        names: of the network's outputs; None if it has no class names.
        mapping: network's class -> other class, several to one; or a file of it, see `read_mapping`. A class that it
            does not name keeps its name.
        only: the classes to keep, as they are called after the mapping; empty for all.

    Raises:
        SenetError: a class that the network does not have, or a network without class names.
    """
    if not names:
        raise SenetError("the network has no class names, by which classes are chosen or mapped; set class_names")
    source = f"the mapping {mapping}" if isinstance(mapping, str | Path) else "the mapping"
    table = read_mapping(mapping) if isinstance(mapping, str | Path) else mapping or {}
    renamed = {normal(name): normal(other) for name, other in table.items()}
    own = [normal(name) for name in names]
    lacking = sorted(set(renamed) - set(own))
    if lacking:
        raise SenetError(
            f"{source} has {lacking[0]!r}, one of {len(lacking)} names that are no class of the network; "
            f"the nearest are {nearest(lacking[0], names)}"
        )
    number = Counter(own)
    keys = [renamed.get(name, name if number[name] == 1 else (name, i)) for i, name in enumerate(own)]
    place_of = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    grouped = tuple(key if isinstance(key, str) else key[0] for key in place_of)
    groups = ClassGroups(grouped, tuple(place_of[key] for key in keys))
    chosen = [normal(name) for name in only]
    unknown = [name for name in chosen if name not in grouped]
    if unknown:
        raise SenetError(f"the network has no class {unknown[0]!r}; the nearest are {nearest(unknown[0], grouped)}")
    shared = [name for name in (*renamed, *chosen) if number[name] > 1]
    if shared:
        raise SenetError(f"{number[shared[0]]} classes of the network are {shared[0]!r}; give each a name of its own")
    return groups.only([place_of[name] for name in chosen], tuple(chosen)) if chosen else groups


def normal(name: str) -> str:
    """Return a name with each accent joined to its letter (NFC), as macOS may store it separately."""
    return normalize("NFC", name)


def read_mapping(path: str | Path) -> dict[str, str]:
    """Read a file that says which class each class of a network is counted as.

    Args:
        path: JSON, one object {"network's class": "other class"}; or CSV, two columns in the same order without a
            heading, separated by commas, or by semicolons or tabs as by Excel in many languages.

    Raises:
        SenetError: it is absent, or of another form.
    """
    path = Path(path)
    expected = f"{path} is not a mapping of classes: expected JSON with one object of texts, or CSV with two columns"
    try:
        text = decoded(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} does not exist; expected a mapping of classes, .json or .csv") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SenetError(f"{expected} ({error})") from error
    if path.suffix.lower() == ".json":
        try:
            pairs = parse_json(text, object_pairs_hook=list)
        except ValueError as error:
            raise SenetError(f"{expected} ({error})") from error
        if not (isinstance(pairs, list) and all(isinstance(pair, tuple) for pair in pairs)):
            raise SenetError(expected)
    else:
        try:
            pairs = columns(text)
        except csv.Error as error:
            raise SenetError(f"{expected} ({error})") from error
    if not pairs or any(len(pair) != 2 or not all(isinstance(w, str) and w for w in pair) for pair in pairs):
        raise SenetError(expected)
    names = [normal(name) for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise SenetError(f"{path} names the class {twice[0]!r} twice; name each class of the network once")
    return dict(pairs)


def decoded(content: bytes) -> str:
    """Return the text of a file in UTF-8, with a byte order mark or without, or in UTF-16 with one, as of Excel."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_utf16 else "utf-8-sig")


def columns(text: str) -> list[tuple[str, ...]]:
    """Return the rows of a CSV that are not empty, by the separator that makes two columns of each, if one does."""
    read = []
    for separator in SEPARATORS:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        rows = [tuple(word.strip() for word in row) for row in lines]
        read.append([row for row in rows if any(row)])
    return next((rows for rows in read if all(len(row) == 2 and all(row) for row in rows)), read[0])


def groups_of_data(groups: ClassGroups, places: Sequence[int], names: tuple[str, ...], source: str) -> ClassGroups:
    """Return the groups of the classes of data alone.

    Args:
        groups: of the network.
        places: the network's class for each of the data's.
        names: of the data's classes.
        source: of the data, for messages.

    Raises:
        SenetError: the data have only one class.
    """
    if len(names) < 2:
        raise SenetError(
            f"{source} has only one class ({listed(names)}); among the classes of the data alone every prediction "
            "is right, so leave out classes_of_data"
        )
    return groups.only(places, names)
