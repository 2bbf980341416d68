"""The configuration of data: which images, and how they are augmented."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from senet.data.policies import check_policy
from senet.data.preprocessing import CIFAR, Preprocessing
from senet.errors import SenetError, check_ranges

ASPECT_RATIO = (3 / 4, 4 / 3)
ON_DISK = ("train_size", "crop_scale", "rotation", "pixel_shift", "auto_augment", "random_erasing")
"""Fields of `Augmentation` that have no effect on data in memory."""
DATASET_SPECIFIC = ("class_names", "val_fraction", "split_seed")
"""Settings that belong to one data set and are wrong for another."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of the training images.

    Data in memory is augmented a batch at a time on the device (flip, padding, cutout); data on disk an image at a time
    in the loader's workers (all but cutout).

    Args:
        flip: mirror left to right, with probability one half.
        padding: pad with this many pixels of the mean color on each side, then crop back at a random place.
        cutout: side in pixels of a square of the mean color, centered anywhere in the image (arXiv:1708.04552).
        train_size: side of the training images in pixels, if it is not that of the preprocessing, in which the network
            is evaluated: smaller ones save time, and suit random crops, whose objects come out larger
            (arXiv:1906.06423); None for the same.
        crop_scale: range of the share of the image's area that a crop has, in (0, 1]; None for the center crop.
        crop_ratio: range of the crop's aspect ratio before it is scaled to the square.
        rotation: largest angle in degrees, either way.
        pixel_shift: largest number, of 255, that is added to or subtracted from all pixels of an image.
        auto_augment: "trivial" for TrivialAugment (arXiv:2103.10158); or a policy in timm's notation, such as
            "rand-m7-mstd0.5-inc1" (RandAugment), "augmix-m5-w4-d2" or "original"; None for none.
        random_erasing: probability that a rectangle of an image is replaced by noise (arXiv:1708.04896).
        repeats: how often an image is in an epoch, each time changed in another way, while the epoch stays as long:
            it has the fewer images (repeated augmentation, arXiv:1901.09335).
    """

    flip: bool = False
    padding: int = 0
    cutout: int = 0
    train_size: int | None = None
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = ASPECT_RATIO
    rotation: float = 0.0
    pixel_shift: int = 0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("padding", "cutout", "rotation", "pixel_shift"):
            if not getattr(self, name) >= 0:
                raise SenetError(f"augmentation.{name} is {getattr(self, name)}; expected at least 0")
        check_ranges(self, "augmentation.", {"random_erasing": (0, 1), "repeats": (1, 100)})
        if self.train_size is not None and self.train_size < 1:
            raise SenetError(f"augmentation.train_size is {self.train_size}; expected at least 1 pixel")
        if self.auto_augment is not None:
            check_policy(self.auto_augment)
        changing = ("flip", "padding", "cutout", "crop_scale", "rotation", "pixel_shift", "auto_augment")
        if self.repeats > 1 and not (self.random_erasing or any(getattr(self, name) for name in changing)):
            raise SenetError(
                f"augmentation.repeats is {self.repeats}, but nothing changes the images, so that all copies are "
                "the same; set augmentation.flip or another change, or leave it out"
            )
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise SenetError(f"augmentation.crop_scale is {self.crop_scale}; expected 0 < low <= high <= 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise SenetError(f"augmentation.crop_ratio is {self.crop_ratio}; expected 0 < low <= high")
        if self.crop_scale is None and self.crop_ratio != ASPECT_RATIO:
            raise SenetError("augmentation.crop_ratio has no effect without augmentation.crop_scale; set that too")

    def check(self, in_memory: bool) -> None:
        """Raise a SenetError if an option is set that has no effect on this kind of data."""
        for name in ON_DISK if in_memory else ("cutout",):
            if getattr(self, name):
                off = None if name in ("train_size", "crop_scale", "auto_augment") else 0
                raise SenetError(
                    f"data.augmentation.{name} has no effect on data {'in memory' if in_memory else 'on disk'}; "
                    f"set data.augmentation.{name}={off} or data.in_memory={not in_memory}"
                )


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """How data sets in shards are read.

    An epoch reads `streams` rows of shards side by side and mixes the images of `mixed` shards of each: the order is a
    function of the seed and the epoch, whatever the number of processes, and a number of processes that divides
    `streams` shares the shards without any being read twice.

    Args:
        cache: folder for copies of shards from servers and of packed ones, which several processes and machines may
            share; None for `shards` in the library's own cache folder.
        cache_gb: most gigabytes (10**9 bytes) that the copies take; those not used for the longest time make room.
        streams: rows of shards that are read side by side.
        mixed: shards of a row whose images are mixed.
    """

    cache: Path | None = None
    cache_gb: float = 32.0
    streams: int = 8
    mixed: int = 4

    def __post_init__(self) -> None:
        check_ranges(self, "data.shards.", {"cache_gb": (1e-6, 1e9), "streams": (1, 65536), "mixed": (1, 65536)})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are read.

    Args:
        dataset: "digits", "cifar10", "cifar100", "imagenet", "places365"; a folder with train/ and val/ (class folders
            of images), with class folders alone (see `val_fraction`), or that Hugging Face's `datasets` reads (parquet
            files, what `save_to_disk` wrote, metadata.csv); a CSV file that names images and their classes, or a folder
            with train.csv and val.csv; shards, which are a folder or address of tar or parquet files, or a pattern such
            as "https://HOST/train-{000..099}.tar"; or "hf:OWNER/NAME" from the Hugging Face hub.
        root: folder of the torchvision data sets (CIFAR is downloaded there).
        preprocessing: size, crop and normalization, which the trained network keeps.
        augmentation: random changes of the training images.
        in_memory: decode all images once and keep them; False reads them from disk in every epoch.
        num_workers: processes that read and augment data on disk; 0 reads in the main process.
        image_column: of a table, a data set of Hugging Face or parquet files; in a table without it, the first. In tar
            files the extension of the image, where a sample has several.
        label_column: of a table, a data set of Hugging Face or parquet files; in a table of two columns without it, the
            other one. In tar files the extension of the class, or its key in the JSON of a sample.
        class_names: names of the classes where the data set has only numbers; None for its own.
        val_fraction: share of each class's images that is held out for evaluation, for a folder of classes without
            val/, or a table or data set of Hugging Face with training images alone; which ones depends on the names of
            the files (the contents in a data set of Hugging Face) and on `split_seed`. None where the data set has
            evaluation images.
        split_seed: chooses which images are held out; 0 or more.
        shards: how data sets in shards are read.
    """

    dataset: Annotated[str, tyro.conf.arg(name="", metavar="DATASET")] = "cifar10"  # on a command line `--data`
    root: Path = Path("data")
    preprocessing: Preprocessing = CIFAR
    augmentation: Augmentation = field(default_factory=Augmentation)
    in_memory: bool = True
    num_workers: int = 2
    image_column: str = "image"
    label_column: str = "label"
    class_names: tuple[str, ...] | None = None
    val_fraction: float | None = None
    split_seed: int = 0
    shards: ShardConfig = field(default_factory=ShardConfig)

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise SenetError(f"data.num_workers is {self.num_workers}; expected at least 0")
        self.augmentation.check(self.in_memory)
        check_ranges(self, "data.", {"split_seed": (0, 2**63 - 1)})
        if self.split_seed and self.val_fraction is None:
            raise SenetError("data.split_seed has no effect without data.val_fraction; set that too")
        if self.class_names == ():
            raise SenetError("data.class_names is empty; give the names in the order of the labels, or leave it out")
        if self.class_names is not None and len(set(self.class_names)) < len(self.class_names):
            twice = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise SenetError(f"data.class_names has {twice!r} twice; give each class a name of its own")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise SenetError(f"data.val_fraction is {self.val_fraction}; expected between 0 and 1, such as 0.2")

    @property
    def train_preprocessing(self) -> Preprocessing:
        """The preprocessing of the training images: the same, or in proportion to their own size."""
        own, size = self.preprocessing, self.augmentation.train_size
        if size is None:
            return own
        return replace(own, image_size=size, resize=max(size, own.resize_for(size)))

    def after(self, earlier: "DataConfig | None") -> "DataConfig":
        """Return this without the class names and held-out share that it inherited from another data set's settings."""
        if earlier is None or self.dataset == earlier.dataset:
            return self
        defaults: dict[str, Any] = {part.name: part.default for part in fields(DataConfig)}
        taken_over = {name for name in DATASET_SPECIFIC if getattr(self, name) == getattr(earlier, name)}
        return replace(self, **{name: defaults[name] for name in taken_over})
