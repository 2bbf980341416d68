"""Folders of images, one for each class: listing them, and their labels."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from senet.data.reading import missing_for
from senet.errors import SenetError, warn

File = tuple[str, int]
"""A file and its label."""
JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"})
TRAIN_SPLITS = ("train", "training")
EVAL_SPLITS = ("validation", "val", "valid", "test", "testing")
"""The names of the images to evaluate on, the better ones first."""
SHOWN = 5
"""Largest number of names that a message lists."""


def listed(names: Sequence[str]) -> str:
    """Return the first few names, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_hidden(name: str) -> bool:
    """Return whether an entry belongs to the system or a program, so that it is neither class nor image."""
    return name.startswith(".") or name.lower() in JUNK


def refuse(error: OSError) -> NoReturn:
    """Raise the error for a folder that cannot be listed."""
    raise SenetError(f"{error.filename} cannot be listed ({error.strerror}); change its permissions") from error


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder without hidden ones, sorted by name."""
    try:
        return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    except OSError as error:
        refuse(error)


def visible_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder in the order of their labels.

    Names that are all numbers are sorted by value, as in timm; torchvision sorts "10" before "2".
    """
    found = [entry for entry in visible(folder) if entry.is_dir() and not leads_back(str(entry), str(folder))]
    numbers = all(is_number(entry.name) for entry in found)
    return sorted(found, key=lambda entry: int(entry.name)) if numbers else found


def leads_back(path: str, top: str) -> bool:
    """Return whether a path is a link to a folder that it is in, also by way of other links; warn if it is.

    Args:
        path: a folder below `top`.
        top: where the walk that has come to it began.
    """
    if not os.path.islink(path):  # noqa: PTH114  # as in `Skipped.take`
        return False
    way = [os.path.dirname(path)]  # noqa: PTH120
    while len(way[-1]) > len(top):
        way.append(os.path.dirname(way[-1]))  # noqa: PTH120
    target = os.path.join(os.path.realpath(path), "")  # noqa: PTH118
    if not any(os.path.join(os.path.realpath(folder), "").startswith(target) for folder in way):  # noqa: PTH118
        return False
    warn(f"{path}: left out, for it is a link to a folder that it is in")
    return True


def folder_called(root: Path, names: Sequence[str]) -> Path | None:
    """Return the folder in a folder that has the first of some names, in upper or lower case; None if there is none."""
    found = {entry.name.lower(): entry for entry in visible_folders(root)}
    return next((found[name] for name in names if name in found), None)


def is_number(name: str) -> bool:
    """Return whether a name is a non-negative integer in ASCII digits, not so long that Python refuses to read it."""
    return name.isascii() and name.isdigit() and len(name) <= 1000


class Skipped(Counter[str]):
    """The files of a folder that were left out, counted by reason."""

    def take(self, name: str) -> bool:
        """Return whether a file is an image, by its name; count it if not."""
        extension = os.path.splitext(name)[1].lower()  # noqa: PTH122  # for a million files much faster than Path
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

    def warn(self, folder: Path) -> None:
        """Warn about the files of a folder that were left out, if any."""
        if self:
            number = sum(self.values())
            are = "file that is not read as an image" if number == 1 else "files that are not read as images"
            warn(f"{folder}: left out {number:,} {are}: {self}")


def walk(folder: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield a folder and the folders below it, also by links unless these lead back, with the names of their files."""
    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        seen = (name for name in folders if not is_hidden(name))
        folders[:] = sorted(name for name in seen if not leads_back(os.path.join(root, name), str(folder)))  # noqa: PTH118
        yield root, names


def images_below(folder: Path, skipped: Skipped) -> Iterator[str]:
    """Yield the image files in a folder and the folders below it, sorted by name."""
    for root, names in walk(folder):
        others = no_files_in(root)
        for name in sorted(names):
            if name in others:
                skipped["that are no files but pipes or devices"] += 1
            elif skipped.take(name):
                yield f"{root}{os.sep}{name}"


def no_files_in(folder: str) -> set[str]:
    """Return what in a folder is no file, folder or link: to read a pipe is to wait for somebody who writes."""
    with os.scandir(folder) as entries:
        return {
            entry.name
            for entry in entries
            if not (entry.is_symlink() or entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
        }


def skipped_below(folder: Path) -> Skipped:
    """Return the files in a folder and the folders below it that are not read as images."""
    skipped = Skipped()
    for _ in images_below(folder, skipped):
        pass
    return skipped


def left_out(skipped: Skipped) -> str:
    """Return which files are no images, to be put into a sentence; empty if there are none."""
    return f" (left out: {skipped})" if skipped else ""


def images_in(folder: Path) -> list[File]:
    """Return the image files directly in a folder, each with the label 0."""
    skipped = Skipped()
    found = [(str(path), 0) for path in sorted(folder.iterdir()) if path.is_file() and skipped.take(path.name)]
    if found:
        skipped.warn(folder)
    return found


def class_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that contain images at any depth."""
    return [entry for entry in visible_folders(folder) if next(images_below(entry, Skipped()), None)]


def read_classes(folder: Path, names: Sequence[str] | None = None) -> tuple[list[File], tuple[str, ...]]:
    """Return the images of a folder of class folders, and the names of the classes.

    Args:
        folder: has one folder for each class.
        names: the allowed class names; None for the names of all folders, each of which must then have images.

    Raises:
        SenetError: there are no classes, or empty ones.
    """
    skipped = Skipped()
    by_class = {entry.name: list(images_below(entry, skipped)) for entry in visible_folders(folder)}
    loose = sum(entry.is_file() and missing_for(entry.suffix) == "" for entry in visible(folder))
    if loose:
        skipped["images outside the folders of classes"] += loose
    expected = f"each class needs a folder with images: {folder}/CLASS/IMAGE"
    if not any(by_class.values()):
        raise SenetError(f"{folder} has no folders of images{left_out(skipped)}; {expected}")
    empty = [name for name, files in by_class.items() if not files]
    if names is None and empty:
        inside, theirs = listed([f"{name}/" for name in empty]), Skipped()
        for name in empty:
            theirs.update(skipped_below(folder / name))
        raise SenetError(f"{folder} has no images in {inside}{left_out(theirs)}; {expected}, so fill or remove those")
    skipped.warn(folder)
    warn_of_groups(folder, by_class)
    names = tuple(by_class) if names is None else names
    numbers = {name: number for number, name in enumerate(names)}
    return [(file, numbers[name]) for name, files in by_class.items() for file in files], tuple(names)


def path_below(folder: Path, file: str) -> str:
    """Return the path of a file relative to a folder, with slashes; for a million files much faster than Path."""
    return file[len(str(folder)) + 1 :].replace(os.sep, "/")


def warn_of_groups(folder: Path, by_class: dict[str, list[str]]) -> None:
    """Warn of folders that contain only folders of images: they may be groups of classes, or each have the splits."""
    groups = {}
    for name, files in by_class.items():
        below = [path_below(folder / name, file) for file in files]
        parents = {path.split("/")[0] for path in below}
        if len(parents) > 1 and all("/" in path for path in below):
            groups[name] = sorted(parents)
    if groups:
        name, inside = next(iter(groups.items()))
        if not {each.lower() for each in inside} <= {*TRAIN_SPLITS, *EVAL_SPLITS}:
            remedy = f"If those are the classes, move their folders up into {folder}"
        elif len(by_class) == 1:
            remedy = f"If those are the images to train and to evaluate on, name {folder / name} in place of {folder}"
        else:
            remedy = (
                "If those are the images to train and to evaluate on, put them above the classes, as in "
                f"{folder / inside[0] / name}"
            )
        warn(
            f"{folder}: {listed(list(groups))} contain no images but folders of images; {name} "
            f"({listed(inside)}) counts as one class. {remedy}"
        )


def check_same_classes(folder: Path, train_folder: Path, names: Sequence[str]) -> None:
    """Check the classes to evaluate on against those to train on, and warn of missing ones.

    Raises:
        SenetError: a class is not in the training images.
    """
    found = {entry.name for entry in class_folders(folder)}
    others = sorted(found - set(names))
    spelled = {name.lower(): name for name in names}
    for other in others:
        if other.lower() in spelled:
            raise SenetError(
                f"{folder / other} is called {spelled[other.lower()]} in {train_folder}; give a class one name"
            )
    if others:
        raise SenetError(
            f"{folder} and {train_folder} have different classes: {listed(others)} only in {folder}; "
            f"add images of them to {train_folder}, or take them out"
        )
    missing = [name for name in names if name not in found]
    if missing and found:
        warn(f"{folder} has no images of {listed(missing)}, which {train_folder} has; they are not measured")
