"""`senet evaluate | predict`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn
from tyro.conf import Positional

from senet.cli.data import OnData
from senet.cli.parsing import Command
from senet.errors import SenetError
from senet.evaluation.accuracy import evaluate
from senet.evaluation.prediction import Prediction, predict_each
from senet.nn.precision import Precision
from senet.optimization.inference import Backend, optimize_for_inference
from senet.terminal import console, printable, say
from senet.weights.folder import PACKAGED_DEFAULT

AT_ONCE = 16
"""Images of a batch of `senet predict`: few, so that results come soon."""


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(OnData):
    """Measure top-1 and top-5 accuracy, on one crop or averaged over many.

    RUN_OR_MODEL is a run folder, a model folder, a file of weights that says what network it is of, a hub id, the name
    of a network with weights in the package, or "timm/NAME" or "torchvision/NAME" with that library's own weights. The
    data are those of the run, unless you name others.

    Examples:
        senet evaluate runs/digits
        senet evaluate runs/se50 --crop-size 320
        senet evaluate runs/se50 --ten-crop --resize-sizes 224 256 288
        senet evaluate timm/seresnet50.ra2_in1k --data imagenet --data.root /data/imagenet
    """

    crop_size: int | None = None
    """side of the crops in pixels; None for the network's own"""
    resize_sizes: tuple[int, ...] | None = None
    """lengths the shorter side is resized to; several are averaged; None keeps the network's ratio to the crop"""
    ten_crop: bool = False
    """average ten crops: corners and center, each mirrored too"""
    precision: Precision = "fp32"
    """of the arithmetic; auto is bf16 where the hardware computes it"""
    optimize: Backend | None = None
    """rewrite the network for inference and compute it with this backend, see `senet.optimize_for_inference`"""
    json: bool = False
    """print JSON instead of a sentence"""

    def run(self) -> None:
        """Evaluate and print."""
        model: nn.Module = self.load()
        precision = self.precision
        if self.optimize is not None:
            model, precision = optimize_for_inference(model, backend=self.optimize, precision=precision), "fp32"
        result = evaluate(
            model,
            self.data,
            crop_size=self.crop_size,
            resize_sizes=self.resize_sizes,
            ten_crop=self.ten_crop,
            batch_size=self.batch_size,
            precision=precision,
        )
        if self.json:
            print(json.dumps(asdict(result)))
        else:
            say(
                f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f} "
                f"on {result.num_images:,} images of {self.data.dataset}"
            )


@dataclass(frozen=True, kw_only=True)
class PredictCommand(Command):
    """Say what is in pictures: the likeliest classes with their probabilities.

    Results are printed as they come. Images that cannot be read are listed at the end, on standard error, and the exit
    status is then 1.

    Examples:
        senet predict photo.jpg
        senet predict digit.png --model runs/digits --top 3 --json
    """

    images: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """files of images"""
    model: Annotated[str, tyro.conf.arg(metavar="RUN_OR_MODEL")] = PACKAGED_DEFAULT
    """the network, as for `senet evaluate`; the default is a small one for CIFAR-10's classes"""
    top: int = 5
    """classes printed for each image"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Predict and print."""
        if not self.images:
            raise SenetError("no image is given; `senet predict --help` explains all arguments")
        for image in self.images:
            if Path(image).is_dir():
                raise SenetError(f"{image} is a folder; name files of images, and the network by --model")
        found = predict_each(self.model, self.images, top=self.top, batch_size=AT_ONCE, on_error="keep")
        if self.json:
            errors = print_json(found)
        else:
            errors = print_rows(found, max(len(printable(image)) for image in self.images))
        if len(self.images) == 1 and errors:
            raise errors[0]
        if errors:
            told = "".join(f"\n  {printable(str(error))}" for error in errors)
            say(f"senet: {len(errors)} of {len(self.images)} images are left out:{told}", console(stderr=True))
            raise SystemExit(1)


def print_rows(predictions: Iterator[Prediction], width: int) -> list[SenetError]:
    """Print predictions as rows of a table as they come, and return the errors.

    Args:
        predictions: of images that are files.
        width: of the column of images, in characters.
    """
    errors, started = [], False
    for found in predictions:
        if found.error is not None:
            errors.append(found.error)
            continue
        if not started:
            print(f"{'image':<{width}}  probability  class")
            started = True
        for i, likely in enumerate(found.classes):
            image = "" if i else printable(str(found.image))
            class_name = printable(likely.class_name)
            print(f"{image:<{width}}  {100 * likely.probability:>9.2f} %  {class_name}", flush=True)
    return errors


def print_json(predictions: Iterator[Prediction]) -> list[SenetError]:
    """Print predictions as one JSON array as they come, and return the errors; stopped, it is an array still."""
    errors, separator = [], ""
    print("[", end="")
    try:
        for found in predictions:
            if found.error is not None:
                errors.append(found.error)
                continue
            row = {"image": str(found.image), "classes": [asdict(likely) for likely in found.classes]}
            print(separator + json.dumps(row), end="", flush=True)
            separator = ",\n"
    finally:
        print("]")
    return errors
