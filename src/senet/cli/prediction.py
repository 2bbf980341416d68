"""`senet predict`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from senet.cli.parsing import Command
from senet.errors import SenetError
from senet.terminal import console, printable, say

if TYPE_CHECKING:
    from senet.evaluation.prediction import Prediction

AT_ONCE = 16
"""Images of a batch: few, so that results come soon."""


@dataclass(frozen=True, kw_only=True)
class PredictCommand(Command):
    """Classify images: print the likeliest classes with their probabilities.

    Results are printed as they come. Images that cannot be read are listed at the end, on standard error, and the exit
    status is then 1.

    Examples:
        senet predict photo.jpg
        senet predict digit.png --model runs/digits --top 3 --json
    """

    images: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """files of images"""
    model: Annotated[str | None, tyro.conf.arg(metavar="RUN_OR_MODEL")] = None
    """the network, as for `senet evaluate`; None for a small one that knows CIFAR-10's classes"""
    top: int = 5
    """classes printed for each image"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Predict and print."""
        from senet.evaluation.prediction import predict_each
        from senet.weights.folder import PACKAGED_DEFAULT

        if not self.images:
            raise SenetError("no image is given; `senet predict --help` explains all arguments")
        for image in self.images:
            if Path(image).is_dir():
                raise SenetError(f"{image} is a folder; name files of images, and the network by --model")
        network = PACKAGED_DEFAULT if self.model is None else self.model
        found = predict_each(network, self.images, top=self.top, batch_size=AT_ONCE, on_error="keep")
        if self.json:
            errors = print_json(found)
        else:
            errors = print_rows(found, max(len(printable(image)) for image in self.images))
        if len(self.images) == 1 and errors:
            raise errors[0]
        if errors:
            reasons = "".join(f"\n  {printable(str(error))}" for error in errors)
            say(f"senet: {len(errors)} of {len(self.images)} images are left out:{reasons}", console(stderr=True))
            raise SystemExit(1)


def print_rows(predictions: "Iterator[Prediction]", width: int) -> list[SenetError]:
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


def print_json(predictions: "Iterator[Prediction]") -> list[SenetError]:
    """Print predictions as one JSON array as they come, and return the errors; if stopped, close the array."""
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
