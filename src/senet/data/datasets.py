"""Labeled images from scikit-learn, torchvision, folders, parquet files and the Hugging Face hub."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np

from senet.data.config import DataConfig
from senet.data.folders import (
    File,
    check_same_classes,
    class_folders,
    images_in,
    is_number,
    listed,
    path_below,
    read_classes,
    visible,
    visible_folders,
)
from senet.data.images import ImageSplit, Split
from senet.data.readers import Arrays, Files, Rows
from senet.data.reading import missing_for
from senet.data.splitting import held_out, key_of, keys_of_files, same_contents
from senet.errors import HubError, MissingFileError, SenetError, needed_for, warn
from senet.terminal import tracked

EVAL_SPLITS = ("validation", "val", "valid", "test")


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
    is_folder = folder.is_dir()
    if is_folder and not any(folder.glob("[!.]*.parquet")) and not any(folder.glob("[!.]*/[!.]*.parquet")):
        return open_folder
    if is_folder or config.dataset.startswith("hf:"):
        return open_huggingface
    known = ", ".join(OPENERS)
    kind = MissingFileError if "/" in config.dataset else SenetError  # a folder, or a name
    raise kind(f"data.dataset is {config.dataset!r}; expected {known}, an existing folder, or hf:OWNER/NAME")


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


def kind_of(error: BaseException | None) -> type[SenetError]:
    """Return the class of errors for a failure to open a data set: missing file, unreachable server, or another."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError
    return HubError if isinstance(error, ConnectionError | URLError | TimeoutError) else SenetError


def open_folder(config: DataConfig, split: Split) -> ImageSplit:
    """Open a folder with a folder of images per class, under train/ and under val/ (or validation/, valid/, test/).

    For evaluation it may hold the classes' folders itself, or images without classes. With `val_fraction`, train/ or
    the folder itself holds the classes' folders and is divided.
    """
    root = Path(config.dataset)
    train_folder, eval_folder = folders_of_splits(root)
    if config.val_fraction is not None:
        if eval_folder is not None:
            raise SenetError(f"data.val_fraction has no effect on {root}, which has {eval_folder.name}/; leave it out")
        folder = train_folder or root
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
        return split_of_files(str(folder), *read_classes(folder))
    if eval_folder is None and train_folder is None:
        if class_folders(root):
            return split_of_files(str(root), *read_classes(root))
        if files := images_in(root):
            return split_of_files(str(root), files, ())
    folder = check_folder(root, eval_folder, "val")
    train_names = [] if train_folder is None else [entry.name for entry in class_folders(train_folder)]
    if train_folder is not None and train_names:
        check_same_classes(folder, train_folder, train_names)
    return split_of_files(str(folder), *read_classes(folder, train_names or None))


def folders_of_splits(root: Path) -> tuple[Path | None, Path | None]:
    """Return the folders of a data set for training and for evaluation; None where there is none.

    A folder train/ of pictures alone, beside other folders of pictures, is a class of that name, as in COCO.
    """
    evaluation = next((root / name for name in EVAL_SPLITS if (root / name).is_dir()), None)
    train = root / "train"
    if not train.is_dir():
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


def open_huggingface(config: DataConfig, split: Split) -> ImageSplit:
    """Open a data set of the Hugging Face hub ("hf:OWNER/NAME") or a local folder of parquet files."""
    with needed_for(f"the data set {config.dataset!r}"):
        import datasets

    name = config.dataset.removeprefix("hf:")
    try:
        splits: Any = datasets.load_dataset(name)
    except Exception as error:  # the hub, pyarrow and fsspec raise kinds without a common parent
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise kind_of(error)(
            f"{config.dataset} could not be loaded ({reason}); check the id or folder and the network"
        ) from error
    divided, own = config.val_fraction is not None, next((s for s in EVAL_SPLITS if s in splits), None)
    if divided and own is not None:
        raise SenetError(f"data.val_fraction has no effect on {name}, which has the split {own}; leave it out")
    wanted = ("train",) if split == "train" or divided else EVAL_SPLITS
    found = next((s for s in wanted if s in splits), None)
    if found is None:
        remedy = "; set data.val_fraction, such as 0.2, to hold out a share of train" if "train" in splits else ""
        raise SenetError(f"{name} has the splits {', '.join(splits)}; expected one of {', '.join(wanted)}{remedy}")
    source = f"{name} ({found})"
    dataset = splits[found]
    if len(dataset) == 0:  # before its columns are cast, which fails on no rows
        raise SenetError(f"{source} has no images")
    for option, column in (("image_column", config.image_column), ("label_column", config.label_column)):
        if column not in dataset.column_names:
            raise SenetError(
                f"{source} has the columns {', '.join(dataset.column_names)}; set data.{option}, which is {column!r}"
            )
    labels = read_labels(dataset, config.label_column, source)
    names = getattr(dataset.features[config.label_column], "names", None)
    if names is None:  # counted in the training images: others need not have images of the last classes
        counted = read_labels(splits.get("train", dataset), config.label_column, f"{name} (train)")
        names = [str(i) for i in range(int(counted.max(initial=-1)) + 1)]
    check_labels(labels, tuple(names), source, every_class=split == "train")
    try:
        dataset = dataset.cast_column(config.image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # the last two: pyarrow's
        raise SenetError(f"column {config.image_column!r} of {source} does not hold images") from error
    rows = Rows(dataset.select_columns([config.image_column]), labels)
    images = ImageSplit(source=source, size=len(dataset), class_names=tuple(names), read_image=rows)
    if config.val_fraction is None:
        return images
    take = held_out_rows(images, rows, config.val_fraction, config.split_seed)
    chosen = np.flatnonzero(take == (split == "eval"))
    kept = Rows(rows.images.select(chosen), labels[chosen])
    part = replace(images, size=len(chosen), read_image=kept, rows=chosen.tolist())
    if split == "train":
        return part
    return replace(part, source=f"{source}, held out", held_out=tuple(map(str, chosen.tolist())))


def held_out_rows(images: ImageSplit, rows: Rows, fraction: float, seed: int) -> np.ndarray:
    """Return which rows of a table are held out, (N,) bool, by the contents of their images, see `held_out`."""
    keys, step = [], 1000
    for first in tracked(range(0, len(images), step), f"Dividing {images.source}", -(-len(images) // step)):
        chunk = range(first, min(first + step, len(images)))
        contents = (content for content, _ in rows.contents(chunk))
        keys += [key_of(content or b"row %d" % row, seed) for row, content in zip(chunk, contents, strict=True)]
    groups = np.unique(np.array(keys), return_inverse=True)[1]
    return held_out(keys, groups, rows.labels, fraction, images.name)


def read_labels(dataset: Any, column: str, source: str) -> np.ndarray:
    """Return the labels (N,) of a Hugging Face data set, or raise a SenetError if they are not integers."""
    labels: np.ndarray = dataset.with_format("numpy")[column][:]
    if len(labels) and not np.issubdtype(labels.dtype, np.integer):
        raise SenetError(f"column {column!r} of {source} holds {labels.dtype}; expected class numbers from 0")
    return labels.astype(np.int64)


def check_labels(labels: np.ndarray, names: tuple[str, ...], source: str, every_class: bool) -> None:
    """Raise a SenetError for a label out of range or, with `every_class`, a class without images; else warn."""
    num_classes = len(names)
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise SenetError(f"{source} has labels from {labels.min()} to {labels.max()}; expected 0 to {num_classes - 1}")
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if every_class and len(missing):
        raise SenetError(f"{source} has no image of class {missing[0]}; add some or renumber the labels")
    if len(missing):
        warn(f"{source} has no images of {listed([names[k] for k in missing])}; they are not measured")


OPENERS: dict[str, Callable[[DataConfig, Split], ImageSplit]] = {
    "digits": open_digits,
    "cifar10": open_torchvision,
    "cifar100": open_torchvision,
    "imagenet": open_torchvision,
    "places365": open_torchvision,
}
