"""Matching the classes of data with the outputs of a network: by name, never silently by position."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unicodedata import normalize

from senet.data.folders import is_number, listed
from senet.data.images import ImageSplit
from senet.errors import SenetError, nearest, warn


def spelled(name: str) -> str:
    """Return a name as it is compared: macOS may store an accent as a character of its own, which NFC joins."""
    return normalize("NFC", name)


def places_of(names: Sequence[str], among: Sequence[str], key: Callable[[str], Any] = spelled) -> list[int | None]:
    """Return the place of each name among others, None for those that are not there.

    Args:
        names: of classes.
        among: other names.
        key: what is compared.
    """
    place_of = {key(name): place for place, name in enumerate(among)}
    return [place_of.get(key(name)) for name in names]


def missing_from(among: Sequence[str], names: Sequence[str], key: Callable[[str], Any] = spelled) -> list[str]:
    """Return those names, in their order, that are not among others; see `places_of`."""
    return [name for name, place in zip(names, places_of(names, among, key), strict=True) if place is None]


def order_of(names: Sequence[str], among: Sequence[str]) -> list[int] | None:
    """Return the place of each name among others of the same classes; None if they are not the same."""
    found = [place for place in places_of(names, among) if place is not None]
    return found if len(found) == len(names) and sorted(found) == list(range(len(among))) else None


def match_classes(images: ImageSplit, names: tuple[str, ...] | None, num_classes: Callable[[], int]) -> ImageSplit:
    """Return the images with the network's labels and class names; the data may have only some of its classes.

    Args:
        images: with labels.
        names: see `place_classes`.
        num_classes: see `place_classes`.

    Raises:
        SenetError: see `place_classes`.
    """
    own, source = images.class_names, images.source
    places = place_classes(images, names, num_classes)
    if names is None:
        return images
    if len(own) < len(names):
        warn(
            f"{source} has {len(own)} of the network's {len(names)} classes ({listed(own)}): "
            "accuracy is measured on those, among all classes"
        )
    return replace(images, class_names=names) if places == range(len(names)) else images.relabeled(places, names)


def place_classes(images: ImageSplit, names: tuple[str, ...] | None, num_classes: Callable[[], int]) -> Sequence[int]:
    """Return for each class of the data the number of the network's output for it.

    In data without class names, label k means output k of the network.

    Args:
        images: with labels.
        names: of the network's outputs; None if it has no class names.
        num_classes: called to count the outputs of a network without class names.

    Raises:
        SenetError: the data have classes that the network lacks, or the match is not certain.
    """
    own, source = images.class_names, images.source
    if own == names:
        return range(len(own))
    are_labels = not images.names_of_folders and own == tuple(map(str, range(len(own))))
    if names and (not are_labels or all(is_number(name) for name in names)):
        return by_name(images, names)
    count = len(names) if names else num_classes()
    if count != len(own):
        unnamed = "" if names else "; those of a network without class names must be as many: set model.class_names"
        raise SenetError(f"the network has {count} classes, but {source} has {len(own)}{unnamed}")
    if not names and images.names_of_folders:
        numbered = all(is_number(name) for name in own)
        order = "of their numbers (torchvision's ImageFolder has 10 before 2)" if numbered else "of their names"
        warn(
            f"the network has no class names: its outputs are taken for the {count} classes of {source} in the order "
            f"{order}, {listed(own)}; set model.class_names if that is wrong"
        )
    return range(count)


def first_of(lacking: Sequence[str]) -> str:
    """Return the first of the names that something lacks, up to the word "only": "'cat', one of 2 that"."""
    return f"{lacking[0]!r}, {f'one of {len(lacking)} that' if len(lacking) > 1 else 'which'}"


def by_name(images: ImageSplit, names: tuple[str, ...]) -> Sequence[int]:
    """Match the classes of the data with those of the network by name; numbers by value, so that "07" is "7"."""
    own, source = images.class_names, images.source
    if all(is_number(name) for name in own) and not any(is_number(name) for name in names):
        if [int(name) for name in own] != list(range(len(names))):
            raise SenetError(
                f"the network's classes have names ({listed(names)}), but those of {source} are numbers "
                f"({listed(own)}); rename them, or set data.class_names"
            )
        warn(f"the classes of {source} are numbers, taken for the network's outputs: 0 is {names[0]!r}, and so on")
        return range(len(names))
    numbers = all(is_number(name) for name in (*own, *names))
    key: Callable[[str], Any] = int if numbers else spelled
    if lacking := missing_from(names, own, key):
        fitting = "rename or remove the classes that do not fit"
        remedy = fitting if images.names_of_folders else "name the classes of its labels by data.class_names"
        raise SenetError(
            f"the network has no class {first_of(lacking)} only {source} has; the nearest are "
            f"{nearest(lacking[0], names)}: {remedy}"
        )
    seen = Counter(key(name) for name in names) | Counter(key(name) for name in own)
    for name in own:
        if seen[key(name)] > 1:
            raise SenetError(f"the class {name!r} of {source} fits several classes; give each a name of its own")
    return [place for place in places_of(own, names, key) if place is not None]
