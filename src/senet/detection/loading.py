"""Loaders of images with boxes: read, augmented and grouped by shape, a function of seed and epoch."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from senet.data.channels import to_channels
from senet.data.division import Division
from senet.data.images import Split
from senet.data.order import BatchOrder, seed_of
from senet.data.randomness import restored, seed_generators
from senet.data.reading import formats, naming, read_named, read_picture
from senet.data.streaming import Key, Keys, delivered, worker_loader
from senet.detection.augmentation import Augment, as_boxes
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_splits
from senet.detection.records import DetectionSplit, Record
from senet.errors import SenetError
from senet.terminal import tracked

Target = dict[str, Tensor]
"""boxes (n, 4), labels (n,), image_id (1,), area (n,), iscrowd (n,), as torchvision's detectors take them."""
Example = tuple[Tensor, Target]
Batch = tuple[list[Tensor], list[Target]]
GROUP_STREAM = 2**33
"""Keeps the order of the shapes apart from those of the images, which share the seed."""
CHANNELS = 3
"""Of an image: detectors take no others."""
SHARE_OF_MEMORY = 0.6
"""Of the machine's memory that decoded images may take."""


@dataclass(frozen=True, kw_only=True)
class GroupedOrder(BatchOrder):
    """Batches of images of one group, as far as they are filled, in a random order.

    Args:
        groups: (num_images,) int64, of each image; None for batches of any images.
    """

    groups: np.ndarray | None = field(default=None, repr=False, compare=False)

    def indices(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch in their order, (num_images,)."""
        drawn = super().indices(epoch)
        if self.groups is None or not self.shuffle:
            return drawn
        generator = np.random.default_rng(seed_of(self.seed, GROUP_STREAM, epoch))
        queues = [drawn[self.groups[drawn] == group] for group in np.unique(self.groups)]
        parts = []
        for size in np.diff(self.ends):
            lengths = np.array([len(queue) if len(queue) >= size else 0 for queue in queues], dtype=np.float64)
            if lengths.any():
                chosen = int(generator.choice(len(queues), p=lengths / lengths.sum()))
                parts.append(queues[chosen][:size])
                queues[chosen] = queues[chosen][size:]
            else:  # no group fills another batch
                rest = np.concatenate(queues)
                parts.append(rest[:size])
                queues = [rest[size:]]
        return np.concatenate([*parts, *queues])


class BoxedImages(Dataset[Example]):
    """Images with their boxes, whose augmentation is a function of (seed, epoch, index).

    Args:
        split: the images.
        augment: changes them; None for evaluation.
        seed: of the augmentation.
        keep: decode all images once, now.
    """

    def __init__(self, split: DetectionSplit, augment: Augment | None, seed: int, *, keep: bool = False) -> None:
        self.split, self.augment, self.seed = split, augment, seed
        self.kept: list[Tensor] | None = None
        if keep:
            check_memory(split)
            records = tracked(split.records, f"Decoding {split.source}", len(split))
            self.kept = [read_pixels(record) for record in records]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> Example:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Example]:
        """Return the images of a batch; without a worker, reading would change what the training draws."""
        examples = []
        with restored():
            for epoch, index, *_ in keys:
                seed_generators(seed_of(self.seed, epoch, index))
                examples.append(self.example(index))
        return examples

    def example(self, index: int) -> Example:
        """Return an image, uint8 (3, H, W), and its target."""
        record = self.split.records[index]
        image = read_pixels(record) if self.kept is None else self.kept[index]
        boxes, labels = as_boxes(record.boxes), torch.from_numpy(record.labels)
        iscrowd, area = torch.from_numpy(record.iscrowd).long(), torch.from_numpy(record.area).float()
        if self.augment is not None:
            image, boxes, labels = self.augment(image, boxes, labels)
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            iscrowd = torch.zeros(len(boxes), dtype=torch.int64)
        target = {
            "boxes": boxes,
            "labels": labels,
            "image_id": torch.tensor([record.image_id]),
            "area": area,
            "iscrowd": iscrowd,
        }
        return image, target


def read_pixels(record: Record) -> Tensor:
    """Read an image in the orientation to which its boxes refer, uint8 (3, H, W).

    Cameras store photos turned, with a note in their EXIF data. Some tools annotate the upright picture, others the
    stored one: the width and height that come with the boxes tell which. A square picture is taken for upright.

    Raises:
        SenetError: it cannot be read, or is of another size than its boxes say.
    """
    wanted = (record.height, record.width)

    def as_stored() -> Image.Image:
        with Image.open(record.file, formats=formats()) as image:
            image.load()
            return image.copy()

    picture = read_named(record.file, lambda: read_picture(record.file))
    found = shape_of(picture)
    if found != wanted and found == wanted[::-1] and isinstance(picture, Image.Image):
        picture = read_named(record.file, as_stored)
        found = shape_of(picture)
    if found != wanted:
        raise SenetError(
            f"{record.file} is {found[1]} x {found[0]} pixels, but its boxes are of an image of {record.width} x "
            f"{record.height}; correct its size in the file of boxes"
        )
    with naming(record.file):
        return to_tensor(to_channels(picture, CHANNELS))


def shape_of(picture: Any) -> tuple[int, int]:
    """Return the height and width of a picture."""
    if isinstance(picture, Image.Image):
        return picture.size[1], picture.size[0]
    return tuple(picture.shape[:2] if isinstance(picture, np.ndarray) else picture.shape[-2:])


def to_tensor(picture: Any) -> Tensor:
    """Return a picture of the right channels as uint8 (C, H, W)."""
    if isinstance(picture, Tensor):
        return picture
    array = np.array(picture)
    return torch.from_numpy(array[..., None] if array.ndim == 2 else array).movedim(-1, 0).contiguous()


def check_memory(split: DetectionSplit) -> None:
    """Raise a SenetError if the decoded images are too large for the machine's memory."""
    needed = CHANNELS * sum(record.width * record.height for record in split.records)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > SHARE_OF_MEMORY * there:
        raise SenetError(
            f"data.in_memory: the images of {split.source} take {needed / 1e9:.1f} GB decoded, and the machine has "
            f"{there / 1e9:.1f} GB; leave it out"
        )


def collate(examples: Sequence[Example]) -> Batch:
    """Return the images and the targets of a batch as lists."""
    return [image for image, _ in examples], [target for _, target in examples]


class DetectionLoader:
    """Batches of images with boxes, read by workers.

    Args:
        images: the images.
        order: which of them make a batch.
        device: where batches arrive.
        num_workers: processes; 0 reads in this one.
    """

    def __init__(self, images: BoxedImages, order: BatchOrder, device: torch.device, num_workers: int) -> None:
        self.images, self.order, self.device, self.keys = images, order, device, Keys(order)
        self.loader = worker_loader(images, self.keys, collate, device, num_workers)

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield (images, targets) of `epoch` from batch `start` on: float32 (C, H, W) in [0, 1], on the device.

        Raises:
            SenetError: an image cannot be read, or a worker died.
        """
        self.keys.epoch, self.keys.start = epoch, start
        yield from delivered(self.on_device())

    def on_device(self) -> Iterator[Batch]:
        """Yield the batches of the keys that are set."""
        for images, targets in self.loader if len(self.keys) else ():
            yield (
                [image.to(self.device, non_blocking=True).to(torch.float32).div_(255) for image in images],
                [{k: v.to(self.device, non_blocking=True) for k, v in target.items()} for target in targets],
            )


@dataclass(frozen=True, kw_only=True)
class DetectionLoaders:
    """Training and evaluation batches of a data set, and its classes.

    Args:
        train: training batches.
        evaluation: evaluation batches.
        train_split: the training images.
        eval_split: the evaluation images.
        notes: sentences for the log.
    """

    train: DetectionLoader
    evaluation: DetectionLoader
    train_split: DetectionSplit
    eval_split: DetectionSplit
    notes: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of labels 1, 2, ..."""
        return self.train_split.class_names

    @property
    def counts(self) -> np.ndarray:
        """Training boxes of each class, (C,)."""
        return self.train_split.counts

    @property
    def held_out(self) -> tuple[str, ...] | None:
        """Names of the evaluation images, if they were held out of the training images."""
        return self.eval_split.held_out


def load_detection_data(
    config: DetectionDataConfig,
    *,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    division: Division | None = None,
) -> DetectionLoaders:
    """Open both splits of a data set and build their loaders.

    Args:
        config: of the data.
        batch_size: images of a batch in one process of those that a run starts with.
        device: where batches arrive.
        seed: of the order and the augmentation.
        division: of the batches among processes; None for one process.

    Raises:
        SenetError: see `open_detection_split`; or no image has boxes, or there are fewer than processes.
    """
    whole, evaluation = open_detection_splits(config)
    train = whole.for_training()

    def loader(split: DetectionSplit, kind: Split) -> DetectionLoader:
        return build_detection_loader(config, split, kind, batch_size, device, seed=seed, division=division)

    return DetectionLoaders(
        train=loader(train, "train"),
        evaluation=loader(evaluation, "eval"),
        train_split=train,
        eval_split=evaluation,
        notes=(*train.notes, *evaluation.notes),
    )


def build_detection_loader(
    config: DetectionDataConfig,
    split: DetectionSplit,
    kind: Split,
    batch_size: int,
    device: torch.device,
    *,
    seed: int = 0,
    division: Division | None = None,
) -> DetectionLoader:
    """Build the loader of one split; its `kind` says whether it is trained on, and then shared as `division` says.

    Raises:
        SenetError: it has no images, or fewer than processes.
    """
    train, division = kind == "train", division or Division()
    shared = division if train else division.one_share_each()
    groups = np.array([record.width >= record.height for record in split.records], dtype=np.int64)
    order = GroupedOrder(
        num_images=len(split),
        batch_size=batch_size,
        shuffle=train,
        seed=seed,
        num_processes=shared.num_replicas,
        shares=shared.shares,
        groups=groups if train and config.group_by_shape else None,
    )
    if not len(split) or not len(order):
        raise SenetError(
            f"{split.source} has {len(split)} images, too few for {shared.num_replicas} processes; add images or start "
            "fewer"
        )
    augment = Augment(config.augmentation) if train else None
    images = BoxedImages(split, augment, seed, keep=config.in_memory)
    return DetectionLoader(images, order, device, config.num_workers)
