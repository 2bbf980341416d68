"""The configuration of detection data: which photos and boxes, and how they are augmented."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import tyro

from senet.errors import SenetError, check_choice, check_ranges

Format = Literal["auto", "coco", "voc", "yolo"]


@dataclass(frozen=True, kw_only=True)
class BoxAugmentation:
    """Random changes of the training images and their boxes, by torchvision's transforms (v2).

    Args:
        flip: mirror left to right, with probability one half.
        scale_jitter: range of factors by which an image is scaled and then cropped, or padded, back to its size, such
            as (0.1, 2.0) (large-scale jitter, arXiv:2012.07177); None for none.
        crop: crop at random, such that a box keeps a share of itself (arXiv:1512.02325).
        zoom_out: probability that an image is put on a canvas one to four times as wide and high (the same).
        photometric: change brightness, contrast, saturation and hue (the same).
    """

    flip: bool = True
    scale_jitter: tuple[float, float] | None = None
    crop: bool = False
    zoom_out: float = 0.0
    photometric: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, "augmentation.", {"zoom_out": (0, 1)})
        if self.scale_jitter is not None and not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise SenetError(f"augmentation.scale_jitter is {self.scale_jitter}; expected 0 < low <= high")


@dataclass(frozen=True, kw_only=True)
class DetectionDataConfig:
    """Which images with boxes, and how they are read.

    Args:
        dataset: a folder: of COCO (annotations/instances_train2017.json, train2017/ ...), with train.json, val.json and
            images/, or as Roboflow exports it (train/_annotations.coco.json); of Pascal VOC (Annotations/,
            JPEGImages/, ImageSets/Main/); or of YOLO (data.yaml, images/train, labels/train).
        format: "coco", "voc" or "yolo"; "auto" for what the folder shows.
        train: what to train on where it is not found by itself: a json of COCO's form, relative to the folder; for VOC
            the name of a list in ImageSets/Main; for YOLO a split of data.yaml. None for what is found.
        val: what to evaluate on, likewise, such as test.json.
        val_fraction: share of the training images that is held out for evaluation, for data without others; which ones
            depends on the names of their files and on `split_seed`. None where there are evaluation images.
        split_seed: chooses which images are held out; 0 or more.
        augmentation: random changes of the training images.
        in_memory: decode all images once and keep them as they are; False reads them in every epoch.
        num_workers: processes that read and augment; 0 reads in the main process.
        group_by_shape: batches of images that are all upright or all oblong, so that little is padded.
    """

    dataset: Annotated[str, tyro.conf.arg(name="", metavar="FOLDER")] = ""  # on a command line `--data`
    format: Format = "auto"
    train: str | None = None
    val: str | None = None
    val_fraction: float | None = None
    split_seed: int = 0
    augmentation: BoxAugmentation = field(default_factory=BoxAugmentation)
    in_memory: bool = False
    num_workers: int = 2
    group_by_shape: bool = True

    def __post_init__(self) -> None:
        check_choice("data.format", self.format, get_args(Format))
        check_ranges(self, "data.", {"split_seed": (0, 2**63 - 1), "num_workers": (0, 1000)})
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise SenetError(f"data.val_fraction is {self.val_fraction}; expected between 0 and 1, such as 0.2")
        if self.val_fraction is not None and self.val is not None:
            raise SenetError(
                f"data.val_fraction has no effect with data.val, which is {self.val}; leave one of them out"
            )
        if self.split_seed and self.val_fraction is None:
            raise SenetError("data.split_seed has no effect without data.val_fraction; set that too")
