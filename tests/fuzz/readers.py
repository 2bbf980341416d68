"""What reads files of strangers: from a folder, as commands do, and as far as it takes to use what was read."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import senet
from fuzz import crafted, crafted_data, crafted_exports, crafted_weights, seeds
from fuzz.mutations import Files
from senet.analysis.recording import Recording
from senet.analysis.runs import differing, grouped, read_runs
from senet.data.config import DataConfig, ShardConfig
from senet.data.datasets import open_split
from senet.data.grouping import read_mapping
from senet.data.inspection import inspect
from senet.data.reading import read_named, read_picture
from senet.data.shards import index_once
from senet.deployment.loading import load_exported
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_splits
from senet.errors import SenetError
from senet.evaluation.batches import run_data
from senet.training.run import RunFolder
from senet.training.state import STATE_KEYS, up_to_date
from senet.weights.reading import read

OUT = "out"
"""The folder that a reader may write into, beside that of its input."""


def weights(folder: Path, out: Path) -> None:
    """Load a file of weights into a network."""
    for file in sorted(folder.iterdir()):
        senet.load_weights(seeds.network(), file)


def caffemodel(folder: Path, out: Path) -> None:
    """Read a Caffe model."""
    read(folder / "net.caffemodel")


def model_folder(folder: Path, out: Path) -> None:
    """Open a model folder."""
    senet.from_pretrained(folder)


def training_state(folder: Path, out: Path) -> None:
    """Read the training state of a run."""
    run = RunFolder(folder)
    for lazily in (True, False):
        state = run.load_state(STATE_KEYS, lazily=lazily)
        assert state is not None
        up_to_date(state, 2, [])


def run_folder(folder: Path, out: Path) -> None:
    """List a run, and read what resuming it reads."""
    runs = read_runs([folder])
    grouped(runs)
    differing(runs)
    run = RunFolder(folder)
    refused: list[SenetError] = []
    about = {"train_size": 10, "eval_size": 5, "class_names": ["a", "b"]}
    for part in (
        run.read_config,
        run.surgery,
        run.metrics,
        lambda: run_data(folder),
        lambda: run.check_same_data(about),
    ):
        try:
            part()
        except SenetError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def recording(folder: Path, out: Path) -> None:
    """Read a recording of gates."""
    found = Recording.load(folder / "gates.safetensors")
    for block in found.blocks:
        block.overall_variance.sum()


def image(folder: Path, out: Path) -> None:
    """Look at an image, and decode it."""
    path = folder / "image"
    seen = [inspect(str(path), str(path), 3, decode=decode) for decode in (False, True)]
    read_named(str(path), lambda: read_picture(path))
    problems = [each.problem for each in seen if each.problem]
    if problems:
        raise SenetError(problems[0])


def pictures(dataset: Path, out: Path, **options: Any) -> None:
    """Open a data set and read all its images, as a data loader does."""
    index_once.cache_clear()  # the inputs before had the same name
    shards = ShardConfig(cache=out / "cache", cache_gb=0.1)
    config = DataConfig(dataset=str(dataset), preprocessing=seeds.small(), shards=shards, **options)
    for split in ("train", "eval"):
        images = open_split(config, split)
        for number in range(min(len(images), 20)):
            read_named(images.name(number), partial(images.read_image, number))


def boxes(folder: Path, out: Path) -> None:
    """Open pictures with boxes."""
    for split in open_detection_splits(DetectionDataConfig(dataset=str(folder))):
        split.ground_truth()
        with suppress(SenetError):
            split.for_training()


def exported(name: str) -> Callable[[Path, Path], None]:
    """Return what opens an exported file and computes an image."""

    def compute(folder: Path, out: Path) -> None:
        found = load_exported(folder / name)
        if isinstance(getattr(found, "preprocessing", None), senet.Preprocessing):
            found(torch.zeros(1, 3, seeds.SIDE, seeds.SIDE))
        else:
            found([torch.zeros(3, seeds.SIDE, seeds.SIDE)])

    return compute


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One way of reading files.

    Args:
        main: the file that most damage is done to.
        seeds: valid inputs.
        read: (folder of the input, folder that may be written into) -> nothing; raises a SenetError for a bad input.
        bad: a path that must not come to be -> inputs that would make it, or are bad on purpose, by what they are.
    """

    main: str
    seeds: Callable[[], Sequence[Files]]
    read: Callable[[Path, Path], None]
    bad: Callable[[Path], crafted.Crafted] = crafted.nothing


READERS = MappingProxyType(
    {
        "checkpoint": Reader(main="weights.pth", seeds=seeds.weights, read=weights, bad=crafted_weights.weights),
        "safetensors": Reader(
            main="weights.safetensors", seeds=seeds.safetensors, read=weights, bad=crafted_weights.safetensors
        ),
        "model folder": Reader(
            main="config.json", seeds=seeds.model_folder, read=model_folder, bad=crafted_weights.model_folder
        ),
        "caffemodel": Reader(
            main="net.caffemodel", seeds=seeds.caffemodel, read=caffemodel, bad=crafted_weights.caffemodel
        ),
        "training state": Reader(
            main="last/training_state.pt", seeds=seeds.training_state, read=training_state, bad=crafted_weights.state
        ),
        "run folder": Reader(
            main="config.json", seeds=seeds.run_folder, read=run_folder, bad=crafted_weights.run_folder
        ),
        "recording": Reader(
            main="gates.safetensors", seeds=seeds.recording, read=recording, bad=crafted_weights.recording
        ),
        "index of shards": Reader(main="senet-shards.json", seeds=seeds.index, read=pictures, bad=crafted_data.index),
        "tar file": Reader(
            main="train-0.tar",
            seeds=seeds.tar,
            read=lambda folder, out: pictures(folder / "train-0.tar", out, val_fraction=0.5),
            bad=crafted_data.tar,
        ),
        "parquet file": Reader(
            main="train.parquet",
            seeds=seeds.parquet,
            read=lambda folder, out: pictures(folder / "train*.parquet", out, val_fraction=0.5),
            bad=crafted_data.parquet,
        ),
        "CSV file": Reader(
            main="table.csv",
            seeds=seeds.table,
            read=lambda folder, out: pictures(folder / "table.csv", out),
            bad=crafted_data.table,
        ),
        "mapping of classes": Reader(
            main="classes.json", seeds=seeds.mapping, read=lambda folder, out: read_mapping(folder / "classes.json")
        ),
        "boxes of COCO": Reader(main="train.json", seeds=seeds.coco, read=boxes, bad=crafted_data.coco),
        "boxes of VOC": Reader(main="Annotations/train_1.xml", seeds=seeds.voc, read=boxes, bad=crafted_data.voc),
        "boxes of YOLO": Reader(main="data.yaml", seeds=seeds.yolo, read=boxes, bad=crafted_data.yolo),
        "image": Reader(main="image", seeds=seeds.images, read=image, bad=crafted_data.images),
        "ONNX": Reader(main="net.onnx", seeds=seeds.onnx, read=exported("net.onnx"), bad=crafted_exports.onnx),
        "OpenVINO": Reader(
            main="net.xml", seeds=seeds.openvino, read=exported("net.xml"), bad=crafted_exports.openvino
        ),
        "torch.export": Reader(
            main="net.pt2", seeds=seeds.torch_export, read=exported("net.pt2"), bad=crafted_exports.torch_export
        ),
    }
)
"""By the name of what is read."""
