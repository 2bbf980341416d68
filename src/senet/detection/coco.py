"""Data in COCO's form: a json of images, annotations and categories, and a folder of images."""

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senet.detection.records import ROUNDING, Cleaning, DetectionSplit, Record, boxes_in_words
from senet.errors import MissingFileError, SenetError
from senet.files import parse_json

KEYS = ("images", "annotations", "categories")


def read_coco(file: Path, folders: Sequence[Path]) -> DetectionSplit:
    """Read a json of COCO's form.

    Args:
        file: the json.
        folders: where its images may be; the first that has one of them is taken.

    Raises:
        SenetError: what is in it cannot be meant; the message names the file and the id.
    """
    content = read_json(file)
    names, numbers, kinds = categories_of(content, file)
    notes = [f"{file}: {kind_in_words(number, name)}" for name, number in kinds.items()]
    images = by_id(content["images"], file, "image")
    folder = folder_of([name_of(each, file) for each in images.values()], file, folders)
    annotations = annotations_of(content, images, numbers, file)
    check_form(annotations, images, file)
    cleaning = Cleaning(str(file), keep_given=True)
    label_of = {number: label for label, number in enumerate(numbers, 1)}
    records = []
    for number, image in images.items():
        records.append(record_of(image, annotations[number], folder, label_of, cleaning, file))
    check_present([record.file for record in records], f"{file} lists")
    return DetectionSplit(
        source=str(file),
        records=records,
        class_names=names,
        category_ids=numbers,
        notes=(*notes, *cleaning.notes()),
        kinds=kinds,
    )


def read_json(file: Path) -> dict[str, Any]:
    """Read a json of COCO's form.

    Raises:
        SenetError: it is none.
    """
    try:
        content: Any = parse_json(file.read_bytes())  # in UTF-8, also with a byte order mark
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {file}; name the json of boxes by data.train or data.val") from None
    except (OSError, ValueError) as error:
        raise SenetError(f"{file} cannot be read as json ({error}); replace it") from error
    for key in KEYS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise SenetError(f"{file} has no list {key!r}; expected COCO's form: images, annotations, categories")
    found: dict[str, Any] = content
    return found


def value_of(entry: Any, key: str, file: Path, kind: str) -> Any:
    """Return a value of an entry, or raise a SenetError that names the entry."""
    if not isinstance(entry, Mapping) or key not in entry:
        number = entry.get("id", "without id") if isinstance(entry, Mapping) else repr(entry)
        raise SenetError(f"{file}: {kind} {number} has no {key!r}; add it or remove the {kind}")
    return entry[key]


def by_id(entries: Sequence[Any], file: Path, kind: str) -> dict[int, Mapping[str, Any]]:
    """Return entries by their id.

    Raises:
        SenetError: an id is missing, no integer or there twice.
    """
    found: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        number = value_of(entry, "id", file, kind)
        if not isinstance(number, int) or isinstance(number, bool) or not -(2**63) <= number < 2**63:
            raise SenetError(f"{file}: {kind} has the id {number!r}; expected an integer of at most 64 bits")
        if number in found:
            raise SenetError(f"{file} has two entries of {kind} {number}; remove one or give it another id")
        found[number] = entry
    return found


def categories_of(content: Mapping[str, Any], file: Path) -> tuple[tuple[str, ...], tuple[int, ...], dict[str, int]]:
    """Return the names and ids of the categories in the order of their ids, and of those left out.

    Roboflow's first category is the kind of the others, which no box has.

    Raises:
        SenetError: there are none, or two of a name.
    """
    categories = by_id(content["categories"], file, "category")
    used = {str(each.get("category_id")) for each in content["annotations"] if isinstance(each, Mapping)}
    parents = {str(each.get("supercategory")) for each in categories.values()}
    names, numbers, kinds = [], [], {}
    for number in sorted(categories):
        name = str(value_of(categories[number], "name", file, "category"))
        if str(number) not in used and name in parents and name != categories[number].get("supercategory"):
            kinds[name] = number
            continue
        names.append(name)
        numbers.append(number)
    if not names:
        raise SenetError(f"{file} has no categories; expected those of its boxes")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SenetError(f"{file} has several categories named {twice[0]!r}; give each a name of its own")
    return tuple(names), tuple(numbers), kinds


def kind_in_words(number: int, name: str) -> str:
    """Return what is noted of a category that is left out as the kind of the others."""
    return f"category {number}, {name}, is the kind of the others and has no boxes: left out"


def annotations_of(
    content: Mapping[str, Any], images: Mapping[int, Any], numbers: Sequence[int], file: Path
) -> dict[int, list[Mapping[str, Any]]]:
    """Return the annotations by image, in their order.

    Raises:
        SenetError: one is of an image or a category that is not there, or has no box.
    """
    found: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    known = set(numbers)
    for each in content["annotations"]:
        image, category, box = (value_of(each, key, file, "annotation") for key in ("image_id", "category_id", "bbox"))
        name = f"{file}: annotation {each.get('id', 'without id')}"
        if not is_number(image) or image not in images:
            raise SenetError(f"{name} is of image {image!r}, which is not among its images; add that or remove it")
        if not is_number(category) or category not in known:
            raise SenetError(f"{name} has category_id {category!r}, which is not among its categories; correct it")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise SenetError(f"{name} has the bbox {box}; expected four numbers: x, y, width, height")
        area, crowd = each.get("area"), each.get("iscrowd")
        if area is not None and not (is_number(area) and area >= 0):
            raise SenetError(f"{name} has the area {area!r}; expected square pixels, or none for the area of its box")
        if crowd not in (None, 0, 1):
            raise SenetError(f"{name} has iscrowd {crowd!r}; expected 0 or 1")
        found[image].append(each)
    return found


def check_form(annotations: Mapping[int, list[Mapping[str, Any]]], images: Mapping[int, Any], file: Path) -> None:
    """Raise a SenetError if boxes are in shares of the image instead of pixels, or have corners instead of sides.

    Corners are what is meant if three boxes or more, and a fifth of all, stick out of their images as they are, and
    all of them lie inside if their last two numbers are a corner.
    """
    sizes = {
        number: tuple(value_of(image, side, file, "image") for side in ("width", "height"))
        for number, image in images.items()
    }
    if not all(is_number(side) for size in sizes.values() for side in size):
        return  # which is said of the image
    boxes = np.array([each["bbox"] for found in annotations.values() for each in found], np.float64).reshape(-1, 4)
    ends = np.array([sizes[number] for number, found in annotations.items() for _ in found], np.float64).reshape(-1, 2)
    if not len(boxes):
        return
    if (np.abs(boxes) <= 1).all() and (ends > 2).all():
        raise SenetError(
            f"{file} has no bbox with a number above 1, as if they were shares of width and height; expected pixels"
        )
    outside = (boxes[:, :2] + boxes[:, 2:] > ends + ROUNDING).any(1)
    corners = (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= ends + ROUNDING).all()
    if corners and outside.sum() >= max(3, 0.2 * len(boxes)):
        raise SenetError(
            f"{file}: {boxes_in_words(int(outside.sum()))} of {len(boxes):,} stick out of their images, and every bbox "
            "could be x1, y1, x2, y2; COCO's form has x, y, width, height: correct them"
        )


def is_number(value: Any) -> bool:
    """Whether a value of a json is a number that can be meant."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def record_of(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    folder: Path,
    label_of: Mapping[int, int],
    cleaning: Cleaning,
    file: Path,
) -> Record:
    """Return the record of an image."""
    size = tuple(value_of(image, side, file, "image") for side in ("width", "height"))
    if not all(is_number(side) and side >= 1 for side in size):
        raise SenetError(f"{file}: image {image['id']} is {size[0]} x {size[1]} pixels; expected positive numbers")
    boxes = [each["bbox"] for each in annotations]
    return cleaning.record(
        image["id"],
        str(folder / name_of(image, file)),
        (int(size[0]), int(size[1])),
        [(x, y, x + w, y + h) for x, y, w, h in boxes],
        [label_of[each["category_id"]] for each in annotations],
        [f"annotation {each.get('id', 'without id')}" for each in annotations],
        iscrowd=[bool(each.get("iscrowd")) for each in annotations],
        area=[each.get("area") for each in annotations],
    )


def name_of(image: Mapping[str, Any], file: Path) -> str:
    """Return the path of an image as the json has it; tools on Windows write it with backslashes.

    Raises:
        SenetError: there is none.
    """
    name = value_of(image, "file_name", file, "image")
    if not isinstance(name, str) or not name:
        raise SenetError(f"{file}: image {image['id']} has the file_name {name!r}; expected the name of a file")
    return name.replace("\\", "/")


def folder_of(names: Sequence[str], file: Path, folders: Sequence[Path]) -> Path:
    """Return the first folder that has one of the images.

    Raises:
        SenetError: none has.
    """
    if not names:
        raise SenetError(f"{file} lists no images")
    some = names[:: -(-len(names) // 20)]
    for folder in folders:
        if any(os.path.isfile(folder / name) for name in some):  # noqa: PTH113  # of names of any length
            return folder
    tried = ", ".join(dict.fromkeys(str(folder) for folder in folders))
    raise MissingFileError(f"the images of {file}, such as {names[0]}, are in none of {tried}; put them into one")


def check_present(files: Sequence[str], who: str) -> None:
    """Raise a SenetError if an image is missing; each folder is listed once."""
    present: dict[Path, set[str]] = {}
    missing = []
    for file in files:
        path = Path(file)
        if path.parent not in present:
            is_there = os.path.isdir(path.parent)  # noqa: PTH112  # of a name of any length
            present[path.parent] = {each.name for each in path.parent.iterdir()} if is_there else set()
        if path.name not in present[path.parent]:
            missing.append(file)
    if missing:
        more = f", one of {len(missing):,} that are missing" if len(missing) > 1 else ""
        raise MissingFileError(f"{who} {missing[0]}{more}, which is not there; restore the image or remove its entry")
