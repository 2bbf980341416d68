"""The settings of fine-tuning that nobody gave, with their reasons: every number is here.

What is called measured is in docs/results.md, on pictures that judge nothing else, mostly in runs shorter than the
defaults' (`benchmarks/finetuning_variants.py`). What is called tried rests on single runs on other pictures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from senet.data.balance import LARGE_RATIO, ratio
from senet.data.config import ON_DISK
from senet.errors import SenetError

VAL_FRACTION = 0.2
"""Share of the images that is held out where there is no val/, as in fastai."""

# ---- length ----------------------------------------------------------------------------------------------------------

EPOCHS_OF_1000_IMAGES = 40
"""Fewer images need more epochs, in proportion to the cube root: 86 for 100, 40 for 1,000, 9 for 100,000."""
EPOCHS = (5, 100)
FROM_SCRATCH = 3
"""Random weights need more epochs by about this factor."""
IN_A_BUDGET = 4
"""With a time limit the run has at most this many times the epochs, for more of them overfit."""
WARM_HEAD = 0.1
"""Share of the epochs in which the classifier, which starts at random, trains alone; fastai's `fine_tune` has one."""
HEAD_EPOCHS = (1, 5)
WARMUP = 0.1
"""Share of the epochs over which the learning rate rises."""
PATIENCE = 0.4
"""Share of the epochs without a better one after which the run stops; the cosine needs its end to be of use."""
MIN_PATIENCE = 10

# ---- batches ---------------------------------------------------------------------------------------------------------

STEPS_OF_AN_EPOCH = 16
"""A small data set needs small batches to take enough steps."""
BATCH_SIZES = (16, 64)
"""On a CPU, where larger batches are no faster; a step of 8 images of 32 pixels takes as long as one of 16."""
BATCH_SIZE_ON_A_GPU = 128
SHARE = 8
"""The least that each of several processes gets of a batch: BatchNorm takes its statistics of that."""

# ---- steps -----------------------------------------------------------------------------------------------------------

OPTIMIZER = "adamw"
"""Sensible at one learning rate for convolutions and transformers alike; SGD needs another for each network."""
LR = 2e-3
"""Of the classifier for batches of 64, as in fastai; with the square root of the batch."""
LR_SMALL = 1e-2
"""The same for networks for small images that have weights, and whose BatchNorm is trained.

Measured beside 0.4 times as much in short runs, two seeds each: 15 points better on drawings of leaves, 2 with 400
images of CIFAR-10, and with 80 of them no different.
"""
LR_SMALL_FROZEN = 4e-3
"""The same where something is frozen: with BatchNorm frozen, 2.5 times as much costs 6 points with 80 images of
CIFAR-10, as one of two runs loses 13. Also for random weights, which were not measured."""
LR_BATCH = 64
LR_OF: Mapping[str, float] = {
    **dict.fromkeys(("adam", "adamp", "nadam", "nadamw", "radam", "radamw"), 1.0),
    **dict.fromkeys(("sgd", "momentum", "sgdw"), 5.0),
    "lion": 0.1,
}
"""Learning rate of other optimizers as a multiple of AdamW's: 0.01 for SGD with momentum, and for Lion a tenth as in
arXiv:2302.06675."""
WEIGHT_DECAY = 0.05
FIRST_LAYERS = 0.1
"""Learning rate of the layers next to the image as a share of the classifier's; those between are in steps."""
LABEL_SMOOTHING = 0.1
EMA_DECAY = 0.999
"""Reached slowly, see `ema_warmup`: short runs average over fewer steps."""
FEW_IMAGES = 64
"""Below this number BatchNorm keeps the statistics of the weights.

Measured: keeping them costs 8 points of balanced accuracy with 80 images of CIFAR-10, 10 with 400 and 6 with
104 drawings of leaves; it gains 2 with 146 blood cells, where both are above 96 %, and with 42 to 57 crops of photos no
difference shows (3 parts, 0 +- 6 points).
"""
ENOUGH_TO_CHOOSE = 100
"""With fewer evaluation images the last epoch is kept, as in fastai, and none ends the run early.

Measured: with 15 to 36 of them the best epoch is on average a point worse on other images than the last, and in single
runs up to 30 points; with 100 it is 0.9 +- 0.5 worse.
"""
IMBALANCED = LARGE_RATIO
"""From this ratio of the largest to the smallest class on, the best epoch is chosen by balanced accuracy."""

# ---- pictures --------------------------------------------------------------------------------------------------------

SMALL_IMAGE = 64
"""Smaller images are shifted; random crops of another scale, tried on CIFAR-10 at 32 pixels, cost 3 points."""
SHIFT = 1 / 8
"""Of the side: 4 pixels of 32, as the networks for CIFAR-10 were trained with."""
CROP_SCALE = (0.35, 1.0)
"""Photos show more than the object; ImageNet's 0.08 is for a million of them."""
AUTO_AUGMENT = "trivial"
"""One random change of an image, of random strength: nothing to tune, and as good as tuned RandAugment. Measured:
in short runs leaving it out changes the accuracy by about a point with 80 and 400 images of CIFAR-10, and by 4 +- 2
for the better on drawings of leaves; longer runs, for which it is meant, were not measured."""
MANY_SMALL_IMAGES = 1000
"""From this number on small images are only mirrored and shifted, and kept in memory: TrivialAugment, tried with 2000
of CIFAR-10, costs a point in 13 epochs, and reading them from disk a fifth of the time."""
IN_MEMORY = 1 << 30
"""The most bytes that are kept in memory."""
RANDOM_ERASING = 0.1


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the settings depend on.

    Args:
        counts: training images of each class, (C,).
        image_size: of the network, in pixels.
        pretrained: whether it starts from weights.
        new_head: whether its classifier starts at random.
        num_eval_images: on which an epoch is judged.
        num_groups: groups of layers of the network, see `senet.training.groups`.
        on_gpu: whether it trains on a GPU.
        seconds: time limit; None for none.
        epochs: asked for; None for what fits the data.
        freeze: what stays as it is; None for what fits the data.
        batch_size: of each process, asked for; None for what fits the data.
        num_processes: that train together.
    """

    counts: np.ndarray
    image_size: int
    pretrained: bool = True
    new_head: bool = True
    num_eval_images: int = 1000
    num_groups: int = 5
    on_gpu: bool = False
    seconds: float | None = None
    epochs: int | None = None
    freeze: str | None = None
    batch_size: int | None = None
    num_processes: int = 1

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return int(self.counts.sum())


def clamp(value: float, limits: tuple[float, float]) -> int:
    """Return the nearest integer within limits."""
    return round(min(max(value, limits[0]), limits[1]))


def choose_epochs(situation: Situation) -> int:
    """Return the number of epochs."""
    if situation.epochs is not None:
        return situation.epochs
    epochs = clamp(EPOCHS_OF_1000_IMAGES * (1000 / situation.num_images) ** (1 / 3), EPOCHS)
    epochs *= 1 if situation.pretrained else FROM_SCRATCH
    return epochs * (1 if situation.seconds is None else IN_A_BUDGET)


def choose_batch_size(situation: Situation) -> int:
    """Return the number of images of a batch in each process; of all together a power of two."""
    if situation.batch_size is not None:
        return situation.batch_size
    largest = BATCH_SIZE_ON_A_GPU if situation.on_gpu else BATCH_SIZES[1]
    wanted = 2 ** math.floor(math.log2(max(1, situation.num_images / STEPS_OF_AN_EPOCH)))
    whole = clamp(wanted, (BATCH_SIZES[0], largest))
    return whole if situation.num_processes == 1 else max(SHARE, -(-whole // situation.num_processes))


def choose(situation: Situation) -> dict[str, Any]:
    """Return the settings of a run by dotted name."""
    epochs, batch_size = choose_epochs(situation), choose_batch_size(situation)
    warm = situation.pretrained and situation.freeze != "trunk"
    few = situation.num_images < FEW_IMAGES and situation.pretrained
    freeze = situation.freeze or ("bn" if few else "none")
    metric = "balanced_accuracy" if ratio(situation.counts) >= IMBALANCED else "top1"
    blind = situation.num_eval_images < ENOUGH_TO_CHOOSE
    small = situation.image_size < SMALL_IMAGE
    small_rate = LR_SMALL if situation.pretrained and freeze == "none" else LR_SMALL_FROZEN
    rate = small_rate if small else LR
    plain = small and situation.num_images >= MANY_SMALL_IMAGES
    return {
        "epochs": epochs,
        "max_seconds": situation.seconds,
        "batch_size": batch_size,
        "freeze": freeze,
        "head_epochs": min(clamp(WARM_HEAD * epochs, HEAD_EPOCHS), epochs - 1) if warm and situation.new_head else 0,
        "optimizer.name": OPTIMIZER,
        "optimizer.lr": rate * math.sqrt(batch_size * situation.num_processes / LR_BATCH),
        "optimizer.weight_decay": WEIGHT_DECAY,
        "optimizer.decay_norm_and_bias": False,
        "optimizer.layer_decay": FIRST_LAYERS ** (1 / max(1, situation.num_groups - 1)) if warm else None,
        "schedule.name": "cosine",
        "schedule.warmup_epochs": WARMUP * epochs,
        "objective.balance": "auto",
        "regularization.label_smoothing": LABEL_SMOOTHING,
        "regularization.ema_decay": EMA_DECAY,
        "regularization.ema_warmup": True,
        "selection.metric": "epoch" if blind else metric,
        "selection.patience": None if blind else max(MIN_PATIENCE, round(PATIENCE * epochs)),
        "compute.precision": "auto",
        "data.augmentation.flip": True,
        "data.augmentation.crop_scale": None if small else CROP_SCALE,
        "data.augmentation.padding": max(1, round(SHIFT * situation.image_size)) if small else 0,
        "data.in_memory": plain and 3 * situation.num_images * situation.image_size**2 <= IN_MEMORY,
        "data.augmentation.auto_augment": None if plain else AUTO_AUGMENT,
        "data.augmentation.random_erasing": 0.0 if plain else RANDOM_ERASING,
    }


def without_conflicts(chosen: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chosen settings without those that what was asked for makes useless or takes the place of.

    Raises:
        SenetError: an optimizer for which no learning rate is known.
    """
    left = {name: value for name, value in chosen.items() if name not in asked}
    optimizer = asked.get("optimizer.name", OPTIMIZER)
    if optimizer != OPTIMIZER:
        left.pop("optimizer.weight_decay", None)  # of AdamW, as the learning rate
        if "optimizer.lr" in left:
            if optimizer not in LR_OF:
                known = ", ".join((OPTIMIZER, *LR_OF))
                raise SenetError(
                    f"optimizer.lr is missing: it is chosen for {known} alone, not for {optimizer}; set it too"
                )
            left["optimizer.lr"] *= LR_OF[optimizer]
    if asked.get("schedule.name") == "one_cycle":
        left.pop("schedule.warmup_epochs", None)
    if asked.get("regularization.ema_decay", EMA_DECAY) is None:
        left.pop("regularization.ema_warmup", None)
    on_disk = [f"data.augmentation.{name}" for name in ON_DISK]
    if any(asked.get(name) for name in on_disk):
        left.pop("data.in_memory", None)
    if asked.get("data.in_memory"):
        for name in on_disk:
            left.pop(name, None)
    return left
