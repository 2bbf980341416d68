"""Building the loaders of a run from its data configuration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from senet.data.balance import Balance, Balanced, balance_note, resolve_balance
from senet.data.config import DataConfig
from senet.data.datasets import folders_of_splits, open_split
from senet.data.decoding import decode
from senet.data.division import Division
from senet.data.images import ImageSplit, Split
from senet.data.memory import MemoryLoader
from senet.data.order import BatchOrder
from senet.data.streaming import StreamingLoader
from senet.data.transforms import eval_transform, train_transform
from senet.errors import SenetError


class Loader(Protocol):
    """Yields batches of normalized images on the device, for any epoch, starting at any batch."""

    order: BatchOrder

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images (N, C, H, W), labels (N,))."""
        ...


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Training and evaluation batches of a data set, and its classes.

    Args:
        train: training batches.
        evaluation: evaluation batches.
        class_names: of the labels 0, 1, ...
        counts: training images of each class, (C,).
        balance: what is done about classes of different size; the training batches do what "sampler" says.
        notes: sentences for the log.
        held_out: names of the evaluation images, if they were held out of the training images: paths in the folder, or
            rows of the table.
    """

    train: Loader
    evaluation: Loader
    class_names: tuple[str, ...]
    counts: np.ndarray
    balance: Balanced = "off"
    notes: tuple[str, ...] = ()
    held_out: tuple[str, ...] | None = None


def build_loader(
    config: DataConfig,
    images: ImageSplit,
    split: Split,
    *,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    division: Division | None = None,
    even: bool = False,
    balanced: bool = False,
) -> Loader:
    """Build the loader of one split, in memory or from disk; with `balanced`, its classes come equally often.

    Only what is trained on is shared as `division` says; the evaluation's images by the processes that there are.
    """
    train, division = split == "train", division or Division()
    shared = division if train else division.one_share_each()
    order = BatchOrder(
        num_images=len(images),
        batch_size=batch_size,
        shuffle=train,
        seed=seed,
        num_processes=shared.num_replicas,
        shares=shared.shares,
        even=even,
        labels=images.labels if balanced else None,
        repeats=config.augmentation.repeats if train else 1,
        shards=None if config.in_memory else images.shards,
        streams=config.shards.streams,
        mixed=config.shards.mixed,
    )
    if not len(order):
        raise SenetError(
            f"{images.source} has {len(images)} images, too few for {shared.num_replicas} processes"
            f"{' with mixup or CutMix' if even else ''}; add images or start fewer processes"
        )
    if train:
        shared.check_images(min(map(order.num_of_replica, range(len(order)))))
    if config.in_memory:
        pixels, labels = decode(images, config.preprocessing)
        augmentation = config.augmentation if train else None
        return MemoryLoader(pixels, labels, order, config.preprocessing, augmentation, device, images.name)
    preprocessing = config.train_preprocessing if train else config.preprocessing
    to_pixels = train_transform(preprocessing, config.augmentation) if train else eval_transform(preprocessing)
    return StreamingLoader(images, to_pixels, order, preprocessing, device, config.num_workers)


def check_classes(train: ImageSplit, evaluation: ImageSplit) -> None:
    """Raise a SenetError if the two splits of a data set have different classes, or only one."""
    if train.class_names != evaluation.class_names:
        raise SenetError(
            f"{train.source} has {len(train.class_names)} classes and {evaluation.source} "
            f"{len(evaluation.class_names)}, or under other names; both need the same"
        )
    if len(train.class_names) < 2:
        inner = Path(train.source, *train.class_names)
        remedy = "give each a folder of its own, or name the folder above"
        if train.files is not None and folders_of_splits(inner)[0] is not None:
            remedy = f"name {inner}, which has them"
        raise SenetError(
            f"{train.source} has only one class ({', '.join(train.class_names)}, {len(train):,} images); a classifier "
            f"needs two or more: {remedy}"
        )


def load_data(
    config: DataConfig,
    *,
    batch_size: int,
    device: torch.device,
    seed: int = 0,
    division: Division | None = None,
    even: bool = False,
    balance: Balance = "off",
    softmax: bool = True,
) -> Loaders:
    """Open both splits of a data set and build their loaders.

    Args:
        config: of the data.
        batch_size: images of a batch in one process of those that a run starts with.
        device: where batches arrive.
        seed: of the order and the augmentation.
        division: of the batches among processes; None for one process.
        even: give each process an even number of images to train on, which mixup needs.
        balance: what is done about classes of different size.
        softmax: whether the loss has classes compete, see `resolve_balance`.

    Raises:
        SenetError: see `open_split`; or splits with different classes, or with one; or balancing without effect.
    """
    train_images, eval_images = open_split(config, "train"), open_split(config, "eval")
    check_classes(train_images, eval_images)
    assert train_images.labels is not None  # every data set that can be opened for training has labels
    counts = train_images.counts
    chosen = resolve_balance(balance, counts, softmax=softmax)
    note = balance_note(balance, counts, softmax=softmax)

    def loader(images: ImageSplit, split: Split) -> Loader:
        return build_loader(
            config,
            images,
            split,
            batch_size=batch_size,
            device=device,
            seed=seed,
            division=division,
            even=even and split == "train",
            balanced=chosen == "sampler" and split == "train",
        )

    return Loaders(
        train=loader(train_images, "train"),
        evaluation=loader(eval_images, "eval"),
        class_names=train_images.class_names,
        counts=counts,
        balance=chosen,
        notes=(note,) if note else (),
        held_out=eval_images.held_out,
    )
