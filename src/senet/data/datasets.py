"""Labelled images from scikit-learn, torchvision, folders, parquet files and the Hugging Face hub."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from senet.data.config import DataConfig
from senet.errors import SenetError

Split = Literal["train", "eval"]
EVAL_SPLITS = ("validation", "val", "valid", "test")
# What PIL raises on damaged files, found by damaging files of six formats; AttributeError is an image that is None.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class ImageSplit:
    """The training or evaluation images of a data set.

    Args:
        source: what to call it in messages.
        size: number of images.
        class_names: of the labels 0, 1, ...; empty for images without labels.
        read_image: index -> (PIL image, label); may raise what PIL raises. Picklable, for workers that are not forked.
        files: index -> (file, label), to name an image in messages; None where an image is not a file.
    """

    source: str
    size: int
    class_names: tuple[str, ...]
    read_image: Callable[[int], tuple[Image.Image, int]]
    files: Sequence[tuple[str, int]] | None = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """Return image and label.

        Raises:
            SenetError: the image cannot be read.
        """
        try:
            image, label = self.read_image(index)
            image.load()
        except UNREADABLE as error:
            name = self.files[index][0] if self.files else f"image {index} of {self.source}"
            raise SenetError(f"{name} cannot be read ({error}); replace or remove it") from error
        return image, int(label)


def open_split(config: DataConfig, split: Split) -> ImageSplit:
    """Open one split of the configured data set.

    Raises:
        SenetError: the data set is unknown, absent, or not of the expected form.
    """
    opener = OPENERS.get(config.dataset)
    if opener is not None:
        images = opener(config, split)
    elif config.dataset.startswith("hf:"):
        images = open_huggingface(config, split)
    elif Path(config.dataset).is_dir():
        folder = Path(config.dataset)
        has_parquet = any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet"))
        images = open_huggingface(config, split) if has_parquet else open_folder(config, split)
    else:
        known = ", ".join(OPENERS)
        raise SenetError(f"data.dataset is {config.dataset!r}; expected {known}, an existing folder, or hf:OWNER/NAME")
    if len(images) == 0:
        raise SenetError(f"{images.source} has no images")
    if config.class_names is None:
        return images
    if len(config.class_names) != len(images.class_names):
        raise SenetError(
            f"data.class_names has {len(config.class_names)} names, "
            f"but {images.source} has {len(images.class_names)} classes; give as many or none"
        )
    has_names = not all(name.isdigit() for name in images.class_names)
    if has_names and images.class_names != config.class_names:
        raise SenetError(f"data.class_names differs from the classes of {images.source}, which has names; leave it out")
    return replace(images, class_names=config.class_names)


def open_digits(config: DataConfig, split: Split) -> ImageSplit:
    """Open scikit-learn's digits: 1797 greyscale images of 8x8, a stratified fifth of them for evaluation."""
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
        read_image=partial(read_array, pixels, labels),
    )


def read_array(pixels: np.ndarray, labels: np.ndarray, index: int) -> tuple[Image.Image, int]:
    """Return image and label of arrays (N, H, W) and (N,)."""
    return Image.fromarray(pixels[index]), int(labels[index])


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
        raise SenetError(
            f"{config.dataset} could not be opened in {root} ({reason}); set data.root to its folder"
        ) from error
    return ImageSplit(
        source=f"{config.dataset} ({split})",
        size=len(dataset),
        class_names=tuple(names),
        read_image=dataset.__getitem__,
        files=getattr(dataset, "imgs", None),
    )


def open_folder(config: DataConfig, split: Split) -> ImageSplit:
    """Open a folder with a folder of images per class, under train/ and under val/ (or validation/, valid/, test/).

    For evaluation it may hold the classes' folders itself, or images without classes.
    """
    from torchvision.datasets import ImageFolder

    root = Path(config.dataset)
    train_folder = root / "train"
    folder = train_folder
    if split == "eval":
        folder = next((root / name for name in EVAL_SPLITS if (root / name).is_dir()), root / "val")
        if not folder.is_dir() and not train_folder.is_dir():
            if any(images_in(entry) for entry in root.iterdir() if entry.is_dir()):
                folder = root
            elif files := images_in(root):
                return ImageSplit(
                    source=str(root), size=len(files), class_names=(), read_image=partial(read_file, files), files=files
                )
    if not folder.is_dir():
        raise SenetError(
            f"{root} has no folder {folder.name}/; expected {root}/train/CLASS/IMAGE and {root}/val/CLASS/IMAGE"
        )
    try:
        dataset = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise SenetError(
            f"{folder}: {str(error).splitlines()[0].rstrip('.')}; each class needs a folder with images"
        ) from error
    if split == "eval" and train_folder.is_dir():
        expected = sorted(entry.name for entry in train_folder.iterdir() if entry.is_dir())
        if expected != dataset.classes:
            differing = sorted(set(expected) ^ set(dataset.classes))
            raise SenetError(f"{folder} and {train_folder} have different classes: {', '.join(differing[:5])}")
    return ImageSplit(
        source=str(folder),
        size=len(dataset),
        class_names=tuple(dataset.classes),
        read_image=dataset.__getitem__,
        files=dataset.imgs,
    )


def images_in(folder: Path) -> list[tuple[str, int]]:
    """Return the image files that lie in a folder itself, each with the label 0."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return sorted((str(path), 0) for path in folder.iterdir() if path.suffix.lower() in IMG_EXTENSIONS)


def read_file(files: Sequence[tuple[str, int]], index: int) -> tuple[Image.Image, int]:
    """Return an image file and its label."""
    path, label = files[index]
    return Image.open(path), label


def open_huggingface(config: DataConfig, split: Split) -> ImageSplit:
    """Open a data set of the Hugging Face hub ("hf:OWNER/NAME") or a local folder of parquet files."""
    import datasets

    name = config.dataset.removeprefix("hf:")
    try:
        splits: Any = datasets.load_dataset(name)
    except Exception as error:  # the hub, pyarrow and fsspec raise kinds without a common parent
        cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetGenerationError) else error
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise SenetError(
            f"{config.dataset} could not be loaded ({reason}); check the id or folder and the network"
        ) from error
    wanted = ("train",) if split == "train" else EVAL_SPLITS
    found = next((s for s in wanted if s in splits), None)
    if found is None:
        raise SenetError(f"{name} has the splits {', '.join(splits)}; expected one of {', '.join(wanted)}")
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
    check_labels(labels, len(names), source, every_class=split == "train")
    try:
        dataset = dataset.cast_column(config.image_column, datasets.Image())
    except (TypeError, ValueError, NotImplementedError) as error:  # the last two: pyarrow's
        raise SenetError(f"column {config.image_column!r} of {source} does not hold images") from error
    return ImageSplit(
        source=source,
        size=len(dataset),
        class_names=tuple(names),
        read_image=partial(read_row, dataset.select_columns([config.image_column]), labels),
    )


def read_row(images: Any, labels: np.ndarray, index: int) -> tuple[Image.Image, int]:
    """Return image and label of a Hugging Face data set, whose one column is the images, and of labels (N,)."""
    (image,) = images[index].values()
    return image, int(labels[index])


def read_labels(dataset: Any, column: str, source: str) -> np.ndarray:
    """Return the labels (N,) of a Hugging Face data set, or raise a SenetError if they are not integers."""
    labels: np.ndarray = dataset.with_format("numpy")[column][:]
    if len(labels) and not np.issubdtype(labels.dtype, np.integer):
        raise SenetError(f"column {column!r} of {source} holds {labels.dtype}; expected class numbers from 0")
    return labels.astype(np.int64)


def check_labels(labels: np.ndarray, num_classes: int, source: str, every_class: bool) -> None:
    """Raise a SenetError if a label is out of range or, on request, a class has no image."""
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise SenetError(f"{source} has labels from {labels.min()} to {labels.max()}; expected 0 to {num_classes - 1}")
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if every_class and len(missing):
        raise SenetError(f"{source} has no image of class {missing[0]}; add some or renumber the labels")


OPENERS: dict[str, Callable[[DataConfig, Split], ImageSplit]] = {
    "digits": open_digits,
    "cifar10": open_torchvision,
    "cifar100": open_torchvision,
    "imagenet": open_torchvision,
    "places365": open_torchvision,
}
