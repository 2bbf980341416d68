"""Runs, or their going on, in however many processes torchrun starts, for tests/training/test_elastic.py.

Arguments: the folder, the kind of the runs, and for each its name and where it is stopped: EPOCH.BATCH from 0, or
EPOCH.evaluation, after whose signal nothing else is done; or "end". Each process writes a line for each of its shares
of each batch: epoch, batch, replica, a number for each image.
"""

import hashlib
import json
import os
import signal
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from senet.data import loading
from senet.data.config import Augmentation
from senet.models.catalog import Card, register_model
from senet.nn.drop_path import DropPath
from senet.recipes.digits import DIGITS, digits
from senet.training import loop
from senet.training.config import TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.sections import ComputeConfig, ObjectiveConfig, OptimizerConfig, RegularizationConfig
from tiny_family import TinyNet

NUM_TRAIN, NUM_EVAL, SHARE = 112, 37, 8
"""Images, and those of a batch in each process that a run starts with: with one or two, epochs of even batches."""


class DroppingNet(TinyNet):
    """BatchNorm, dropout, drop path and SE, all small; at a rate of 0 nothing is dropped."""

    def __init__(self, rate=0.3, **options):
        super().__init__(width=8, dropout=rate, **options)
        drops = {"drop": DropPath(rate / 2), "dropout": nn.Dropout2d(rate / 2)}
        self.entry = nn.Sequential(OrderedDict(conv=self.entry, norm=nn.BatchNorm2d(8), **drops))


def register():
    """Make the network known."""
    options = {"family": "dropping", "source": "made up", "preprocessing": DIGITS, "num_classes": 10}
    options["options"] = ("rate",)
    for name, twin, has_se in (("dropping", "se_dropping", False), ("se_dropping", "dropping", True)):
        register_model(Card(name=name, build=DroppingNet, has_se=has_se, twin=twin, **options))


def configured(kind: str, folder: Path) -> TrainConfig:
    """Return the configuration of a kind of run; that of shards has its data in the folder."""
    config, in_memory = digits(), kind in ("plain", "mixed")
    config = replace(
        config,
        model=replace(config.model, name="se_dropping"),
        data=replace(
            config.data, augmentation=Augmentation(padding=1, cutout=2 if in_memory else 0), in_memory=in_memory
        ),
        optimizer=OptimizerConfig(lr=0.05, clip_norm=1.0),
        compute=ComputeConfig(compile="off", accumulate=2, cpu=True),
        regularization=RegularizationConfig(ema_decay=0.5, label_smoothing=0.1),
        epochs=2,
        batch_size=SHARE,
        checkpoint_every=2,
    )
    if kind == "shards":
        config = replace(config, data=replace(config.data, dataset=str(folder / "shards"), in_memory=False))
    if kind in ("synchronized", "whole"):  # the same batches, without what is drawn for a replica
        config = replace(
            config,
            model=replace(config.model, options={"rate": 0.0}),
            compute=replace(config.compute, sync_batch_norm=kind == "synchronized"),
            batch_size=SHARE if kind == "synchronized" else 2 * SHARE,
        )
    if kind == "mixed":
        config = replace(
            config,
            regularization=RegularizationConfig(mixup=0.4, cutmix=1.0, label_smoothing=0.1),
            objective=ObjectiveConfig(balance="weights"),
        )
    return config


def few_images(open_split):
    """Return what opens a split with few images."""
    sizes = {"train": NUM_TRAIN, "eval": NUM_EVAL}
    return lambda data, split: replace(open_split(data, split), size=sizes[split])


def run(folder: Path, kind: str, name: str, stop: str) -> None:
    """Train, or go on."""
    rank, now = int(os.environ.get("RANK", "0")), {}
    originals = {name: getattr(loop.Trainer, name) for name in ("gradient", "add_gradient", "evaluate", "end_epoch")}

    def stopping(trainer, place):
        is_there = stop == f"{trainer.position.epoch}.{place}"
        # An evaluation is saved by the first process at a signal of its own.
        if is_there and (place == "evaluation" or rank == trainer.division.num_processes - 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return is_there

    def add_gradient(trainer, batch, pieces, *rest):
        stopping(trainer, batch)
        now.update(batch=batch, shares=list(reversed(trainer.division.shares)))
        return originals["add_gradient"](trainer, batch, pieces, *rest)

    def evaluate(trainer):
        now["stopped"] = stopping(trainer, "evaluation")
        return originals["evaluate"](trainer)

    def end_epoch(trainer, *rest):
        if now["stopped"]:
            raise TrainingInterrupted(signal.SIGKILL, "as if it were killed")
        originals["end_epoch"](trainer, *rest)

    def gradient(trainer, images, targets, *rest):
        numbers = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:8] for image in images.contiguous()]
        row = [trainer.position.epoch, now["batch"], now["shares"].pop(0).replica, numbers]
        with (folder / f"{name}.images.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        return originals["gradient"](trainer, images, targets, *rest)

    path = folder / name
    with patch.multiple(
        loop.Trainer, gradient=gradient, add_gradient=add_gradient, evaluate=evaluate, end_epoch=end_epoch
    ):
        try:
            loop.resume(path) if path.exists() else loop.train(configured(kind, folder), path)
        except TrainingInterrupted:
            assert stop != "end"
        else:
            assert stop == "end"


if __name__ == "__main__":
    # A run that the test's own process has started names this module, which is the main program here.
    sys.modules["drivers.any_number_of_processes"] = sys.modules["__main__"]
    torch.set_num_threads(1)
    register()
    loading.open_split = few_images(loading.open_split)
    for name, stop in zip(sys.argv[3::2], sys.argv[4::2], strict=True):
        run(Path(sys.argv[1]), sys.argv[2], name, stop)
