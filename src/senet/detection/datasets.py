"""Finding a data set of images with boxes in a folder: its form, its splits, and where its images are."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from senet.data.classes import missing_from, order_of
from senet.data.folders import listed, visible
from senet.data.images import Split
from senet.data.splitting import held_out, key_of
from senet.detection.coco import kind_in_words, read_coco
from senet.detection.data_config import DetectionDataConfig
from senet.detection.records import DetectionSplit, Record, read_lines
from senet.detection.voc import annotations_in, voc_split
from senet.detection.yolo import images_of, names_of, read_yaml, yolo_split
from senet.errors import MissingFileError, SenetError

EVAL_NAMES = ("val", "valid", "validation", "test")
SPLIT_NAMES = {"train": ("train",), "eval": EVAL_NAMES}


def open_detection_split(
    config: DetectionDataConfig, split: Split, class_names: tuple[str, ...] | None = None
) -> DetectionSplit:
    """Open the training or the evaluation images of a data set, without reading their pixels.

    Training images without boxes, and crowds, are still there: see `DetectionSplit.for_training`.

    Args:
        config: of the data.
        split: which images.
        class_names: of the labels; None for the order of the training images' own, which are read for it.

    Raises:
        SenetError: it is not there, not of a known form, or holds what cannot be meant; or it has other classes.
    """
    read, root = reader_of(config)
    if config.val_fraction is not None:
        found = divided(read(config, root, "train"), config, split)
    else:
        found = read(config, root, split)
        if split == "eval" and class_names is None:
            class_names = read(config, root, "train").class_names
    return found if class_names is None else in_order_of(class_names, found)


def open_detection_splits(config: DetectionDataConfig) -> tuple[DetectionSplit, DetectionSplit]:
    """Open the training and the evaluation images, each file once.

    Raises:
        SenetError: see `open_detection_split`.
    """
    read, root = reader_of(config)
    train = read(config, root, "train")
    if config.val_fraction is not None:
        return divided(train, config, "train"), divided(train, config, "eval")
    return train, in_order_of(train.class_names, read(config, root, "eval"))


Reader = Callable[[DetectionDataConfig, Path, Split], DetectionSplit]


def reader_of(config: DetectionDataConfig) -> tuple[Reader, Path]:
    """Return the function that reads a data set, and its folder.

    Raises:
        SenetError: it is not there, or not of a known form.
    """
    root = Path(config.dataset)
    if not config.dataset or not root.is_dir():
        kind = "is a file" if root.is_file() else "is not there"
        raise MissingFileError(
            f"data.dataset, {config.dataset or 'empty'}, {kind}; expected a folder in the form of COCO, VOC or YOLO"
        )
    return READERS[form_of(config, root)], root


def form_of(config: DetectionDataConfig, root: Path) -> str:
    """Return in which form the boxes of a folder are."""
    if config.format != "auto":
        return config.format
    if yaml_in(root) is not None:
        return "yolo"
    if (root / "Annotations").is_dir() or any(root.glob("train/*.xml")):
        return "voc"
    if (config.train or "").endswith(".json") or jsons_in(root):
        return "coco"
    found = [entry.name for entry in visible(root)]
    raise MissingFileError(
        f"{root} has no boxes (found: {listed(found) or 'nothing'}); expected a json of COCO's form, Annotations/ of "
        "Pascal VOC, or data.yaml of YOLO"
    )


def divided(whole: DetectionSplit, config: DetectionDataConfig, split: Split) -> DetectionSplit:
    """Return the images that are held out of the training images, or those that are not."""
    assert config.val_fraction is not None
    records = whole.records
    keys = [key_of(Path(record.file).name.encode(), config.split_seed) for record in records]
    one_class, each_by_itself = np.zeros(len(records), np.int64), np.arange(len(records))
    take = held_out(keys, each_by_itself, one_class, config.val_fraction, lambda index: records[index].file)
    chosen: list[Record] = [r for r, held in zip(records, take.tolist(), strict=True) if held == (split == "eval")]
    if split == "train":
        return replace(whole, records=chosen)
    names = tuple(Path(record.file).name for record in chosen)
    return replace(whole, records=chosen, source=f"{whole.source} (held out)", held_out=names)


def in_order_of(class_names: tuple[str, ...], found: DetectionSplit) -> DetectionSplit:
    """Return images with the labels of other ones, matched by the names of the classes.

    Raises:
        SenetError: the classes differ.
    """
    if found.class_names == class_names:
        return found
    found = with_kinds(class_names, found)
    order = order_of(class_names, found.class_names)
    if order is None:
        unknown = missing_from(class_names, found.class_names)
        if unknown:
            raise SenetError(
                f"{found.source} has the category {unknown[0]!r}, which is not among those of the training images "
                f"({listed(class_names)}); both need the same categories"
            )
        lacking = missing_from(found.class_names, class_names)
        raise SenetError(
            f"{found.source} lacks the category {lacking[0]!r} of the training images ({listed(class_names)}); add it "
            "to its categories, which need no boxes"
        )
    label_of = np.empty(len(order) + 1, np.int64)
    label_of[np.array(order) + 1] = np.arange(1, len(order) + 1)
    return replace(
        found,
        records=[record.relabeled(label_of) for record in found.records],
        class_names=class_names,
        category_ids=tuple(found.category_ids[place] for place in order),
    )


def with_kinds(class_names: tuple[str, ...], found: DetectionSplit) -> DetectionSplit:
    """Return images with those categories that were taken for the kind of the others, and are classes elsewhere."""
    also = {name: number for name, number in found.kinds.items() if name in class_names}
    also = {name: number for name, number in also.items() if name not in found.class_names}
    untrue = [kind_in_words(number, name) for name, number in also.items()]
    return replace(
        found,
        class_names=(*found.class_names, *also),
        category_ids=(*found.category_ids, *also.values()),
        notes=tuple(note for note in found.notes if not any(note.endswith(part) for part in untrue)),
    )


# ---- COCO ------------------------------------------------------------------------------------------------------------


def jsons_in(root: Path) -> list[Path]:
    """Return the json files where those of COCO's form may be."""
    found = [*root.glob("annotations/*.json"), *root.glob("*.json"), *root.glob("*/_annotations.coco.json")]
    return sorted(path for path in found if not path.name.startswith("."))


def open_coco(config: DetectionDataConfig, root: Path, split: Split) -> DetectionSplit:
    """Open a split in COCO's form."""
    file = json_of(config, root, split)
    name = file.stem.removeprefix("instances_")  # train2017, train, _annotations.coco
    folders = [root / name, root / "images" / name, file.parent / name, root / "images", file.parent]
    folders += [root / each for each in (*SPLIT_NAMES[split], *(("train",) if config.val_fraction else ()))]
    return read_coco(file, [*folders, root])


def json_of(config: DetectionDataConfig, root: Path, split: Split) -> Path:
    """Return the json of a split.

    Raises:
        SenetError: there is none, or there are several.
    """
    given, option = (config.train, "train") if split == "train" else (config.val, "val")
    if given is not None:
        file = root / given
        return file if file.is_file() or not (root / "annotations" / given).is_file() else root / "annotations" / given
    files = jsons_in(root)
    for name in SPLIT_NAMES[split]:
        if found := [file for file in files if is_of(file, name)]:
            if len(found) > 1:
                names = ", ".join(str(file.relative_to(root)) for file in found)
                raise SenetError(f"{root} has several files for {name}: {names}; name one by data.{option}")
            return found[0]
    if split == "train" and len(files) == 1:
        return files[0]
    shown = listed([str(file.relative_to(root)) for file in files]) or "none"
    remedy = (
        "name it by data.val, or set data.val_fraction, such as 0.2, to hold out a share of the training images"
        if split == "eval"
        else "name it by data.train"
    )
    raise MissingFileError(f"{root} has no json for {split_in_words(split)} (found: {shown}); {remedy}")


def is_of(file: Path, name: str) -> bool:
    """Whether a json is of a split: val.json, instances_val2017.json, val/_annotations.coco.json."""
    stem = file.stem.removeprefix("instances_")
    return stem.rstrip("0123456789_") == name or (stem == "_annotations.coco" and file.parent.name == name)


def split_in_words(split: Split) -> str:
    """Return what a split is for."""
    return "training" if split == "train" else "evaluation"


# ---- Pascal VOC ------------------------------------------------------------------------------------------------------


def open_voc(config: DetectionDataConfig, root: Path, split: Split) -> DetectionSplit:
    """Open a split in the form of Pascal VOC; the classes are those of the training images, sorted."""
    train = annotations_in(xmls_of(config, root, "train"))
    names = sorted({obj.name for each in train for obj in each.objects})
    if not names:
        raise SenetError(f"{root} has no boxes among its training images; name another list by data.train")
    if split == "train":
        return voc_split(f"{root} (train)", train, images_folder(root, train[0].file), names, difficult_count=True)
    found = annotations_in(xmls_of(config, root, "eval"))
    return voc_split(f"{root} (eval)", found, images_folder(root, found[0].file), names, difficult_count=False)


def images_folder(root: Path, xml: Path) -> Path:
    """Return the folder of the images of an xml."""
    return next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), xml.parent)


def xmls_of(config: DetectionDataConfig, root: Path, split: Split) -> list[Path]:
    """Return the xml files of a split: of a list in ImageSets/Main, or of a folder train/, val/ ... of images and xml.

    Raises:
        SenetError: there are none.
    """
    given = config.train if split == "train" else config.val
    names: Sequence[str] = SPLIT_NAMES[split] if given is None else (Path(given).stem,)
    if split == "train" and given is None:
        names = ("train", "trainval")
    for name in names:
        if (list_file := root / "ImageSets" / "Main" / f"{name}.txt").is_file():
            lines = [line.strip() for line in read_lines(list_file)]
            files = [xml_of(root / "Annotations", line) for line in lines if line]
        else:
            files = sorted((root / name).glob("*.xml"))
        if files:
            return files
    if split == "train" and config.val_fraction is not None and (files := sorted((root / "Annotations").glob("*.xml"))):
        return files
    option = "train" if split == "train" else "val"
    raise MissingFileError(
        f"{root} has no list for {split_in_words(split)}: expected ImageSets/Main/{names[0]}.txt or {names[0]}/ with "
        f"xml files; name another by data.{option}, or set data.val_fraction, such as 0.2"
    )


def xml_of(folder: Path, line: str) -> Path:
    """Return the xml that a line of a list names; in lists of one class a number follows the name."""
    name, *number = line.rsplit(maxsplit=1)
    whole = folder / f"{line}.xml"
    is_there = not number or number[0] not in ("-1", "0", "1") or os.path.isfile(whole)  # noqa: PTH113  # of any length
    return folder / f"{line if is_there else name}.xml"


# ---- YOLO ------------------------------------------------------------------------------------------------------------


def yaml_in(root: Path) -> Path | None:
    """Return the yaml of YOLO's form in a folder; None if there is none or there are several."""
    found = [*root.glob("data.yaml"), *root.glob("data.yml")] or [*root.glob("*.yaml"), *root.glob("*.yml")]
    return found[0] if len(found) == 1 else None


def open_yolo(config: DetectionDataConfig, root: Path, split: Split) -> DetectionSplit:
    """Open a split in the form of YOLO."""
    file = yaml_in(root)
    if file is None:
        raise MissingFileError(
            f"{root} has no data.yaml, or several yaml files; expected one with names, train and val"
        )
    content = read_yaml(file)
    given = config.train if split == "train" else config.val
    splits = SPLIT_NAMES[split] if given is None else (given,)
    name = next((each for each in splits if content.get(each)), splits[0])
    images, names = images_of(content, name, file), names_of(content, file)
    return yolo_split(f"{file} ({name})", images, names, has_points="kpt_shape" in content)


READERS: dict[str, Reader] = {"coco": open_coco, "voc": open_voc, "yolo": open_yolo}
