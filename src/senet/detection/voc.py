"""Data in the form of Pascal VOC: an xml of boxes for each image, and lists of names for the splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from senet.data.folders import visible
from senet.data.reading import missing_for
from senet.detection.coco import check_present
from senet.detection.records import Cleaning, DetectionSplit, Record
from senet.errors import MissingFileError, SenetError, counted, nearest
from senet.terminal import tracked


@dataclass(frozen=True, kw_only=True)
class Object:
    """An object of an xml: its class, its corners in pixels from 0, and whether it need not be found."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What an xml says: the image's name, its width and height, and its objects."""

    file: Path
    image: str
    size: tuple[int, int]
    objects: tuple[Object, ...]


def annotations_in(files: Sequence[Path]) -> list[Annotation]:
    """Read xml files.

    Raises:
        SenetError: one is missing or cannot be read; the message names it.
    """
    return [read_xml(file) for file in tracked(files, "Reading boxes", len(files))]


def read_xml(file: Path) -> Annotation:
    """Read an xml of boxes.

    Corners are whole numbers from 1, those of the last pixels inside: 1 is taken from the first two.

    Raises:
        SenetError: it is missing or cannot be read.

    Source: detectron2, data/datasets/pascal_voc.py.
    """
    try:
        root = ElementTree.parse(file).getroot()
        size = (int(float(text(root, "size/width"))), int(float(text(root, "size/height"))))
        objects = tuple(object_of(each) for each in root.iter("object"))
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {file}; restore it or take its name out of the list") from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError, OverflowError) as error:
        raise SenetError(f"{file} cannot be read as an xml of Pascal VOC ({error}); correct or remove it") from error
    if min(size) < 1:
        raise SenetError(f"{file} says that its image is {size[0]} x {size[1]} pixels; correct its size")
    return Annotation(file=file, image=root.findtext("filename") or "", size=size, objects=objects)


def object_of(element: ElementTree.Element) -> Object:
    """Return an object of an xml."""
    x1, y1, x2, y2 = (float(text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
    return Object(name=text(element, "name"), box=(x1 - 1, y1 - 1, x2, y2), difficult=difficult)


def text(element: ElementTree.Element, path: str) -> str:
    """Return the text of an element, or raise a ValueError."""
    found = (element.findtext(path) or "").strip()
    if not found:
        raise ValueError(f"it has no {path.replace('/', '.')}")
    return found


def voc_split(
    source: str, annotations: Sequence[Annotation], folder: Path, class_names: Sequence[str], *, difficult_count: bool
) -> DetectionSplit:
    """Return a split of annotations.

    Args:
        source: its name in messages.
        annotations: of its images.
        folder: of its images.
        class_names: of the training images, sorted.
        difficult_count: whether objects marked as difficult are as any other, as in detectron2's training; in the
            evaluation they need not be found.

    Raises:
        SenetError: an image is missing, or an object is of another class.
    """
    label_of = {name: label for label, name in enumerate(class_names, 1)}
    files, cleaning = images_by_stem(folder), Cleaning(source)
    records = []
    for number, each in enumerate(annotations, 1):
        for obj in each.objects:
            if obj.name not in label_of:
                raise SenetError(
                    f"{each.file} has an object {obj.name!r}, a class that no training image has (the nearest are "
                    f"{nearest(obj.name, class_names)}); correct it, or add training images of it"
                )
        records.append(record_of(number, each, files, label_of, cleaning, difficult_count))
    check_present([record.file for record in records], f"{source} lists")
    notes = list(cleaning.notes())
    if folder == annotations[0].file.parent:  # no list says which images are meant
        number = len(set(files.values()) - {record.file for record in records})
        notes += [f"{source}: {counted(number, 'image')} without an xml left out"] if number else []
    return DetectionSplit(
        source=source,
        records=records,
        class_names=tuple(class_names),
        category_ids=tuple(range(1, len(class_names) + 1)),
        notes=tuple(notes),
    )


def record_of(
    number: int,
    annotation: Annotation,
    files: Mapping[str, str],
    label_of: Mapping[str, int],
    cleaning: Cleaning,
    difficult_count: bool,
) -> Record:
    """Return the record of an image: of the xml's name, as detectron2 takes it, or of the name that it says.

    In copied or renamed data the name in the xml may be that of another image.
    """
    named, stem = Path(annotation.image.replace("\\", "/")).name, annotation.file.stem
    names = [*([named] if Path(named).stem == stem else []), stem, named, Path(named).stem]
    file = next((files[name] for name in names if name in files), None)
    if file is None:
        shown = named or f"{annotation.file.stem}.*"
        raise MissingFileError(f"{annotation.file} is of an image {shown}, which is not there; restore it or the list")
    objects = annotation.objects
    return cleaning.record(
        number,
        file,
        annotation.size,
        [obj.box for obj in objects],
        [label_of[obj.name] for obj in objects],
        [f"object {place} ({obj.name}) in {annotation.file.name}" for place, obj in enumerate(objects, 1)],
        iscrowd=[obj.difficult and not difficult_count for obj in objects],
    )


def images_by_stem(folder: Path) -> dict[str, str]:
    """Return the image files of a folder by their names, with extension and without."""
    images = [entry for entry in visible(folder) if missing_for(entry.suffix) is not None]
    return {entry.stem: str(entry) for entry in images} | {entry.name: str(entry) for entry in images}
