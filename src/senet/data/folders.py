"""Folders of images: a folder for each class, found, ordered and divided."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from senet.data.reading import missing_for
from senet.errors import SenetError, warn

File = tuple[str, int]
"""A file and its label."""
JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})
SHOWN = 5
"""Names that a message lists at most."""


def listed(names: Sequence[str]) -> str:
    """Return names for a message, the first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_hidden(name: str) -> bool:
    """Tell whether an entry is the system's or a program's own: neither class nor image."""
    return name.startswith(".") or name.lower() in JUNK


def refuse(error: OSError) -> NoReturn:
    """Name a folder that cannot be listed."""
    raise SenetError(f"{error.filename} cannot be listed ({error.strerror}); change its permissions") from error


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, but for hidden entries, in the order of their names."""
    try:
        return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    except OSError as error:
        refuse(error)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder in the order of their labels.

    Numbers are in the order of their values, as timm has them; torchvision has "10" before "2".
    """
    found = [entry for entry in visible(folder) if entry.is_dir()]
    numbers = all(is_number(entry.name) for entry in found)
    return sorted(found, key=lambda entry: int(entry.name)) if numbers else found


def is_number(name: str) -> bool:
    """Tell whether a name is a whole number in plain digits."""
    return name.isascii() and name.isdigit()


class Skipped(Counter[str]):
    """What was left out of a folder, counted by reason."""

    def take(self, name: str) -> bool:
        """Return whether a file is an image by its name; count it otherwise."""
        extension = os.path.splitext(name)[1].lower()  # noqa: PTH122  # much faster than a Path, for a million files
        remedy = missing_for(extension)
        if is_hidden(name):
            if remedy is not None:
                self["hidden"] += 1
            return False
        if remedy:
            self[f"{extension} ({remedy})"] += 1
        elif remedy is None:
            self[extension or "without extension"] += 1
        return remedy == ""

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.items()))

    def tell(self, folder: Path) -> None:
        """Warn of what was left out of a folder, if anything was."""
        if self:
            warn(f"{folder}: left out {sum(self.values())} files that are not read as images: {self}")


def images_below(folder: Path, skipped: Skipped) -> Iterator[str]:
    """Yield the image files in a folder and in the folders below it, in the order of their names."""
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            if skipped.take(name):
                yield f"{root}{os.sep}{name}"


def images_in(folder: Path) -> list[File]:
    """Return the image files that lie in a folder itself, each with the label 0."""
    skipped = Skipped()
    found = [(str(path), 0) for path in sorted(folder.iterdir()) if path.is_file() and skipped.take(path.name)]
    if found:
        skipped.tell(folder)
    return found


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that hold images, themselves or below."""
    return [entry for entry in visible_folders(folder) if next(images_below(entry, Skipped()), None)]


def read_classes(folder: Path, names: Sequence[str] | None = None) -> tuple[list[File], tuple[str, ...]]:
    """Return the images of a folder of class folders, and the names of the classes.

    Args:
        folder: holds a folder for each class.
        names: of the classes that there may be; None for those that are found, of which each must have images.

    Raises:
        SenetError: there are no classes, empty ones, or others than may be.
    """
    skipped = Skipped()
    by_class = {entry.name: list(images_below(entry, skipped)) for entry in visible_folders(folder)}
    loose = sum(entry.is_file() and missing_for(entry.suffix) == "" for entry in visible(folder))
    if loose:
        skipped["images outside the folders of classes"] += loose
    why = f" (left out: {skipped})" if skipped else ""
    expected = f"each class needs a folder with images: {folder}/CLASS/IMAGE"
    if not any(by_class.values()):
        raise SenetError(f"{folder} has no folders of images{why}; {expected}")
    empty = [name for name, files in by_class.items() if not files]
    if names is None and empty:
        raise SenetError(f"{folder} has no images of {listed(empty)}{why}; {expected}, so fill or remove those")
    skipped.tell(folder)
    tell_of_groups(folder, by_class)
    names = tuple(by_class) if names is None else names
    numbers = {name: number for number, name in enumerate(names)}
    return [(file, numbers[name]) for name, files in by_class.items() for file in files], tuple(names)


def path_below(folder: Path, file: str) -> str:
    """Return the path of a file in a folder, with slashes; much faster than a Path's, for a million files."""
    return file[len(str(folder)) + 1 :].replace(os.sep, "/")


def tell_of_groups(folder: Path, by_class: dict[str, list[str]]) -> None:
    """Warn of folders that hold folders of images alone: they may be groups of classes."""
    groups = {}
    for name, files in by_class.items():
        below = [path_below(folder / name, file) for file in files]
        parents = {path.split("/")[0] for path in below}
        if len(parents) > 1 and all("/" in path for path in below):
            groups[name] = sorted(parents)
    if groups:
        name, inside = next(iter(groups.items()))
        warn(
            f"{folder}: {listed(list(groups))} hold no images themselves but folders of images; {name} "
            f"({listed(inside)}) counts as one class. If those are the classes, move their folders up into {folder}"
        )


def check_same_classes(folder: Path, train_folder: Path, names: Sequence[str]) -> None:
    """Compare the classes to evaluate on with those to train on.

    Raises:
        SenetError: some are not in the training images.
    """
    found = {entry.name for entry in class_folders(folder)}
    others = sorted(found - set(names))
    if others:
        raise SenetError(
            f"{folder} and {train_folder} have different classes: {listed(others)} only in {folder}; "
            f"add images of them to {train_folder}, or take them out"
        )
    missing = [name for name in names if name not in found]
    if missing and found:
        warn(f"{folder} has no images of {listed(missing)}, which {train_folder} has; they are not measured")


def held_out(folder: Path, files: Sequence[File], fraction: float, *, take: bool) -> list[File]:
    """Return the images of a folder that are held out for evaluation, or the others.

    Of each class the share `fraction` is held out, at least one image: those whose paths below the folder have the
    smallest SHA-256, so that it is the same ones on every machine and in every run.

    Raises:
        SenetError: a class has one image alone.
    """
    by_label: dict[int, list[str]] = defaultdict(list)
    for file, label in files:
        by_label[label].append(file)
    chosen = set()
    for members in by_label.values():
        if len(members) < 2:
            raise SenetError(f"{members[0]} is alone in its class, which data.val_fraction cannot divide; add images")
        members.sort(key=lambda file: hashlib.sha256(os.fsencode(path_below(folder, file))).digest())
        chosen.update(members[: min(max(1, round(fraction * len(members))), len(members) - 1)])
    return [(file, label) for file, label in files if (file in chosen) == take]
