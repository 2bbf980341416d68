"""Data in the form of YOLO: a yaml of names and folders, and a text file of boxes beside each image."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senet.data.folders import is_hidden, walk
from senet.data.reading import ORIENTATION, formats, missing_for, read_named
from senet.detection.records import Cleaning, DetectionSplit, boxes_in_words, read_lines
from senet.errors import MissingFileError, SenetError, first_line
from senet.terminal import tracked

MOST_VALUES = 100_000
"""Of a yaml, those counted again that are there by an alias."""
TURNED = (5, 6, 7, 8)
"""The orientations in EXIF data that exchange width and height."""


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a data.yaml.

    Raises:
        SenetError: it cannot be read, or names no classes.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
        check_aliases(content)
    except Exception as error:  # yaml's own, and whatever numbers, dates and nesting without end make of them
        raise SenetError(f"{file} cannot be read as yaml ({first_line(error)}); correct it") from error
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise SenetError(f"{file} has no names; expected those of the classes")
    return content


def check_aliases(content: Any) -> None:
    """Raise a ValueError if few lines stand for values without end, by names for values that hold such names again."""
    left, found = [content], 0
    while left:
        each = left.pop()
        found += 1
        if found > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list | tuple | set):
            left += each


def names_of(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        SenetError: their numbers are not 0, 1, ..., one is no name or there twice, or `nc` says another number.
    """
    names = content["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise SenetError(f"{file} numbers its names {', '.join(map(repr, names))}; expected 0, 1, ...")
        names = [names[number] for number in range(len(names))]
    if not names:
        raise SenetError(f"{file} has no names; expected those of the classes")
    for number, name in enumerate(names):
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise SenetError(f"{file} has {name!r} as the name of class {number}; expected a name, in quotation marks")
    if twice := [name for name, count in Counter(map(str, names)).items() if count > 1]:
        raise SenetError(f"{file} has several classes named {twice[0]!r}; give each a name of its own")
    if content.get("nc", len(names)) != len(names):
        raise SenetError(f"{file} has {len(names)} names, but nc is {content['nc']}; correct one of them")
    return tuple(map(str, names))


def images_of(content: Mapping[str, Any], split: str, file: Path) -> list[Path]:
    """Return the image files of a split of a data.yaml: of one folder or several, at any depth, or of a list of files.

    Raises:
        SenetError: there are none.
    """
    given = content.get(split)
    if given is None:
        raise SenetError(f"{file} has no split {split!r}; add it, or name another by data.train or data.val")
    base = file.parent
    if (path := content.get("path")) and os.path.isdir(base / str(path)):  # noqa: PTH112  # of a name of any length
        base = base / str(path)
    found: list[Path] = []
    for each in given if isinstance(given, list) else [given]:
        place = resolved(base, str(each), file)
        if place.is_dir():
            files = [Path(folder, name) for folder, names in walk(place) for name in sorted(names)]
            found += [each for each in files if missing_for(each.suffix) is not None and not is_hidden(each.name)]
        else:
            found += [place.parent / line.strip() for line in read_lines(place) if line.strip()]
    if not found:
        raise SenetError(f"{file}: the split {split} has no images; correct its folder")
    return found


def resolved(base: Path, given: str, file: Path) -> Path:
    """Return a folder or list that a data.yaml names; Roboflow's start with "../" without meaning it.

    Raises:
        SenetError: it is not there.
    """
    places = [base / given, file.parent / given, file.parent / given.removeprefix("../")]
    for place in places:
        if os.path.exists(place):  # noqa: PTH110  # of a name of any length
            return place
    raise MissingFileError(f"{file} names {given}, which is neither in {base} nor in {file.parent}; correct the yaml")


def labels_file(image: Path) -> Path:
    """Return the text file of an image's boxes: in labels/ instead of the last images/ of its path, or beside it.

    Source: Ultralytics, data/utils.py, `img2label_paths`.
    """
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def size_of(image: Path) -> tuple[int, int]:
    """Return the width and height of an image file as it is seen, upright, without decoding it."""

    def read() -> tuple[int, int]:
        with Image.open(image, formats=formats()) as opened:
            width, height = opened.size
            return (height, width) if opened.getexif().get(ORIENTATION) in TURNED else (width, height)

    return read_named(str(image), read)


def yolo_split(
    source: str, images: Sequence[Path], class_names: tuple[str, ...], *, has_points: bool = False
) -> DetectionSplit:
    """Read the boxes of images; an image without a text file has none.

    Args:
        source: its name in messages.
        images: the files.
        class_names: of the yaml.
        has_points: whether points follow the box of a line, as in data for poses.

    Raises:
        SenetError: an image or a line cannot be read; the message names file and line.
    """
    cleaning, records, copies = Cleaning(source), [], 0
    for number, image in enumerate(tracked(images, "Reading boxes", len(images)), 1):
        width, height = size_of(image)
        file = labels_file(image)
        lines = boxes_of(file, class_names, has_points=has_points)
        unique = list(dict.fromkeys(lines))
        copies += len(lines) - len(unique)
        scale = np.array([width, height, width, height])
        records.append(
            cleaning.record(
                number,
                str(image),
                (width, height),
                [(np.array(box) * scale).tolist() for _, box in unique],
                [label for label, _ in unique],
                [f"box {place} of {file.name}" for place in range(1, len(unique) + 1)],
            )
        )
    notes = (f"{source}: {boxes_in_words(copies)} that stand twice left out",) if copies else ()
    return DetectionSplit(
        source=source,
        records=records,
        class_names=class_names,
        category_ids=tuple(range(len(class_names))),
        notes=(*notes, *cleaning.notes()),
    )


def boxes_of(file: Path, class_names: Sequence[str], *, has_points: bool) -> list[tuple[int, tuple[float, ...]]]:
    """Return the label, from 1, and the corners, as shares of width and height, of each line of a text file.

    Raises:
        SenetError: a line is not of this form.
    """
    if not file.exists():
        return []
    found = []
    for number, line in enumerate(read_lines(file), 1):
        if words := line.split():
            try:
                found.append(corners_of(words[:5] if has_points else words, len(class_names)))
            except ValueError as error:
                raise SenetError(f"{file}, line {number}: {error}; correct or remove the line") from error
    return found


def corners_of(words: Sequence[str], num_classes: int) -> tuple[int, tuple[float, ...]]:
    """Return the label, from 1, and the corners of a line: of a box by its center and sides, or around a polygon.

    Raises:
        ValueError: it is not of this form.

    Source: Ultralytics, data/utils.py, `verify_image_label`, which takes the box of a polygon too.
    """
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"expected numbers, not {' '.join(words)[:60]!r}") from None
    if not all(map(math.isfinite, values)) or values[0] != int(values[0]):
        raise ValueError("expected the number of a class, then shares of width and height")
    if not 0 <= values[0] < num_classes:
        raise ValueError(f"class {values[0]:g} is not among the {num_classes} names of the yaml")
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise ValueError(f"expected a class and 4 numbers, or a polygon, not {len(values)} numbers")
    if not all(-0.01 <= value <= 1.01 for value in values[1:]):
        raise ValueError("expected shares of width and height from 0 to 1, not pixels")
    if len(values) == 5:
        x, y, w, h = values[1:]
        return int(values[0]) + 1, (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    xs, ys = values[1::2], values[2::2]
    return int(values[0]) + 1, (min(xs), min(ys), max(xs), max(ys))
