"""Labeled images from scikit-learn, torchvision, folders, CSV files, shards, and Hugging Face's `datasets`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from senet.data.config import DataConfig
from senet.data.folders import (
    EVAL_SPLITS,
    TRAIN_SPLITS,
    File,
    check_same_classes,
    class_folders,
    folder_called,
    images_in,
    is_number,
    listed,
    path_below,
    read_classes,
    visible,
    visible_folders,
)
from senet.data.huggingface import HUB, has_evaluation_split, is_huggingface, kind_of, open_huggingface
from senet.data.images import ImageSplit, Split
from senet.data.readers import Arrays, Files
from senet.data.reading import missing_for
from senet.data.shards import has_own_evaluation, is_sharded, open_shards
from senet.data.splitting import held_out, keys_of_files, same_contents
from senet.data.tables import csv_files, names_split, open_table, tables_of
from senet.errors import MissingFileError, SenetError, needed_for


def open_split(config: DataConfig, split: Split) -> ImageSplit:
    """Open one split of the configured data set, and read one image of each of some classes.

    Raises:
        SenetError: the data set is unknown, absent, not of the expected form, or its images have other channels than
            the preprocessing.
    """
    images = open_unread(config, split)
    images.probe(config.preprocessing.in_channels)
    return images


def open_unread(config: DataConfig, split: Split) -> ImageSplit:
    """Open one split of the configured data set, of which no image is read.

    Raises:
        SenetError: as `open_split`.
    """
    images = opener_of(config)(config, split)
    if len(images) == 0:
        raise SenetError(f"{images.source} has no images")
    if config.class_names is None:
        return images
    if len(config.class_names) != len(images.class_names):
        raise SenetError(
            f"data.class_names has {len(config.class_names)} names, "
            f"but {images.source} has {len(images.class_names)} classes; give as many or none"
        )
    has_names = not all(is_number(name) for name in images.class_names)
    if has_names and images.class_names != config.class_names:
        raise SenetError(f"data.class_names differs from the classes of {images.source}, which has names; leave it out")
    return replace(images, class_names=config.class_names)


def opener_of(config: DataConfig) -> Callable[[DataConfig, Split], ImageSplit]:
    """Return the function that opens a data set."""
    folder = Path(config.dataset)
    if config.dataset in OPENERS:
        if config.val_fraction is not None:
            raise SenetError(f"data.val_fraction has no effect on {config.dataset}, which has its own; leave it out")
        return OPENERS[config.dataset]
    if config.dataset.startswith(HUB):
        return open_huggingface
    if is_sharded(config.dataset):
        return open_shards
    if is_huggingface(config.dataset):
        return open_huggingface
    if tables_of(config.dataset):
        return open_table
    if folder.is_dir():
        return open_folder
    known = ", ".join(OPENERS)
    kind = MissingFileError if "/" in config.dataset else SenetError  # a folder, or a name
    raise kind(
        f"data.dataset is {config.dataset!r}; expected {known}, an existing folder or CSV file, shards, or "
        "hf:OWNER/NAME"
    )


def has_evaluation_images(config: DataConfig) -> bool:
    """Return whether a data set says which images to evaluate on, so that none need to be held out.

    Raises:
        SenetError: there is no such data set, or it cannot be read.
    """
    opener = opener_of(replace(config, val_fraction=None))
    if opener is open_folder:
        return folders_of_splits(Path(config.dataset))[1] is not None
    if opener is open_table:
        return names_split(config)
    if opener is open_shards:
        return has_own_evaluation(config)
    return opener is not open_huggingface or has_evaluation_split(config.dataset)


def open_digits(config: DataConfig, split: Split) -> ImageSplit:
    """Open scikit-learn's digits: 1797 grayscale images of 8x8, a stratified fifth of them for evaluation."""
    with needed_for("the data set 'digits'"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    parts = train_test_split(images, digits.target, test_size=0.2, random_state=0, stratify=digits.target)
    pixels, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    return ImageSplit(
        source=f"digits ({split})",
        size=len(labels),
        class_names=tuple(str(name) for name in digits.target_names),
        read_image=Arrays(pixels, labels),
    )


def open_torchvision(config: DataConfig, split: Split) -> ImageSplit:
    """Open CIFAR-10/100 (downloaded if absent), ImageNet or Places365 (which must be there) through torchvision."""
    from torchvision import datasets

    root, train = config.root, split == "train"
    try:
        if config.dataset in ("cifar10", "cifar100"):
            kind = datasets.CIFAR10 if config.dataset == "cifar10" else datasets.CIFAR100
            dataset: Any = kind(root, train=train, download=True)
            names: Sequence[str] = dataset.classes
        elif config.dataset == "imagenet":
            dataset = datasets.ImageNet(root, split="train" if train else "val")
            names = [synonyms[0] for synonyms in dataset.classes]
        else:
            dataset = datasets.Places365(root, split="train-standard" if train else "val", small=True)
            names = dataset.classes
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]  # a second sentence advises on torchvision's arguments
        raise kind_of(error)(
            f"{config.dataset} could not be opened in {root} ({reason}); set data.root to its folder"
        ) from error
    files = getattr(dataset, "imgs", None)
    return ImageSplit(
        source=f"{config.dataset} ({split})",
        size=len(dataset),
        class_names=tuple(names),
        read_image=Arrays(dataset.data, np.array(dataset.targets)) if files is None else Files(files),
        files=files,
    )


def open_folder(config: DataConfig, split: Split) -> ImageSplit:
    """Open a folder with a folder of images per class, under train/ and under val/ (see `TRAIN_SPLITS`).

    For evaluation it may hold the classes' folders itself, or images without classes. With `val_fraction`, train/ or
    the folder itself holds the classes' folders and is divided.
    """
    root = Path(config.dataset)
    train_folder, eval_folder = folders_of_splits(root)
    if config.val_fraction is not None:
        if eval_folder is not None:
            raise SenetError(f"data.val_fraction has no effect on {root}, which has {eval_folder.name}/; leave it out")
        folder = train_folder or root
        check_no_table(root, folder)
        files, names = read_classes(folder)
        take = held_out_files(folder, files, config.val_fraction, config.split_seed)
        if split == "train":
            return split_of_files(
                str(folder), [file for file, held in zip(files, take, strict=True) if not held], names
            )
        files = [file for file, held in zip(files, take, strict=True) if held]
        below = tuple(path_below(folder, file) for file, _ in files)
        return replace(split_of_files(f"{folder} (held out)", files, names), held_out=below)
    if split == "train":
        folder = check_folder(root, train_folder, "train")
        if not class_folders(folder):
            check_no_table(root, folder)
        return split_of_files(str(folder), *read_classes(folder))
    if eval_folder is None and train_folder is None:
        if class_folders(root):
            return split_of_files(str(root), *read_classes(root))
        if files := images_in(root):
            return split_of_files(str(root), files, ())
    folder = check_folder(root, eval_folder, "val")
    if not class_folders(folder):
        check_no_table(root, folder)
    train_names = [] if train_folder is None else [entry.name for entry in class_folders(train_folder)]
    if train_folder is not None and train_names:
        check_same_classes(folder, train_folder, train_names)
    return split_of_files(str(folder), *read_classes(folder, train_names or None))


def folders_of_splits(root: Path) -> tuple[Path | None, Path | None]:
    """Return the folders of a data set for training and for evaluation; None where there is none.

    A folder train/ of pictures alone, beside other folders of pictures, is a class of that name, as in COCO.
    """
    train, evaluation = folder_called(root, TRAIN_SPLITS), folder_called(root, EVAL_SPLITS)
    if train is None:
        return None, evaluation
    is_class = (
        evaluation is None
        and any(entry.is_file() and missing_for(entry.suffix) == "" for entry in visible(train))
        and not class_folders(train)
        and len(class_folders(root)) > 1
    )
    return None if is_class else train, evaluation


def held_out_files(folder: Path, files: Sequence[File], fraction: float, seed: int) -> np.ndarray:
    """Return which image files of a folder are held out, (N,) bool, see `held_out`."""
    paths, labels = [file for file, _ in files], np.array([label for _, label in files])
    return held_out(keys_of_files(folder, paths, seed), same_contents(paths), labels, fraction, paths.__getitem__)


def check_no_table(root: Path, folder: Path) -> None:
    """Raise a SenetError for a folder with fewer than two classes beside a CSV file, which names them then."""
    tables = csv_files(root)
    if tables and len(class_folders(folder)) < 2:
        raise SenetError(
            f"{folder} has no folders of classes; if {tables[0]} says the classes of its pictures, name that file in "
            "place of the folder"
        )


def check_folder(root: Path, folder: Path | None, name: str) -> Path:
    """Return the folder of a split, or raise a SenetError that says what was found in place of one called `name`."""
    if folder is not None:
        return folder
    train_folder, eval_folder = folders_of_splits(root)
    base = train_folder or root
    classes = [entry.name for entry in class_folders(base)]
    found = [entry.name for entry in visible_folders(root)]
    remedy = (
        f"set data.val_fraction, such as 0.2, to hold out a share of the {len(classes)} classes in {base}, or make one"
        if len(classes) > 1 and eval_folder is None
        else f"expected {root}/train/CLASS/IMAGE and {root}/val/CLASS/IMAGE"
    )
    raise MissingFileError(f"{root} has no folder {name}/ (found: {listed(found) or 'no folders'}); {remedy}")


def split_of_files(source: str, files: Sequence[File], class_names: tuple[str, ...]) -> ImageSplit:
    """Describe image files with their labels."""
    return ImageSplit(
        source=source,
        size=len(files),
        class_names=class_names,
        read_image=Files(files),
        files=files,
        names_of_folders=bool(class_names),
    )


OPENERS: dict[str, Callable[[DataConfig, Split], ImageSplit]] = {
    "digits": open_digits,
    "cifar10": open_torchvision,
    "cifar100": open_torchvision,
    "imagenet": open_torchvision,
    "places365": open_torchvision,
}
