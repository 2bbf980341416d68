"""`senet train | evaluate | predict | demo`."""

import inspect
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from torch import nn
from tyro.conf import Positional

from senet.cli.parsing import parse, say_slow_bf16, summary
from senet.cli.processes import launcher
from senet.data.config import DataConfig
from senet.data.views import Crops
from senet.errors import SenetError
from senet.evaluation.accuracy import evaluate
from senet.evaluation.batches import run_data
from senet.factory import load_model, names_a_network
from senet.models.catalog import model_card
from senet.nn.modes import default_device
from senet.nn.precision import Precision
from senet.optimization.inference import Backend, optimize_for_inference
from senet.terminal import console, printable, say
from senet.training.config import TrainConfig
from senet.weights.folder import PACKAGED_DEFAULT

if TYPE_CHECKING:
    from senet.evaluation.prediction import Prediction

AT_ONCE = 16
"""Images of a batch of `senet predict`: few, so that results come soon."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """One run."""

    output: Path
    """the run folder; it must not exist yet, unless you resume"""
    resume: bool = False
    """go on where the run in --output was stopped"""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Measure top-1 and top-5 accuracy, on one crop or averaged over many.

    RUN_OR_MODEL is a run folder, a model folder, a file of weights that says what network it is of, a hub id, the name
    of a network with weights in the package, or "timm/NAME" or "torchvision/NAME" with that library's own weights. The
    data are those of the run, unless you name others.

    Examples:
        senet evaluate runs/digits
        senet evaluate runs/se50 --crop 320
        senet evaluate runs/se50 --crops ten --scales 224 256 288
    """

    data: DataConfig
    """the data; all but the training augmentation counts"""
    crop: int | None = None
    """side of the crops in pixels; None for the network's own"""
    scales: tuple[int, ...] = ()
    """lengths the shorter side is scaled to; several are averaged; none keeps the network's ratio of scale to crop"""
    crops: Crops = "center"
    """one crop, or ten: corners and center, each mirrored too"""
    batch_size: int = 64
    """images at once"""
    bf16: bool = False
    """compute in bfloat16"""
    optimize: Backend | None = None
    """rewrite the network for inference and compute it with this backend, see `senet.optimize_for_inference`"""
    json: bool = False
    """print JSON instead of a sentence"""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Say what is in pictures: the likeliest classes with their probabilities.

    RUN_OR_MODEL is as for `senet evaluate`; without it, the CIFAR-10 network of the package answers. Results are
    printed as they come. Images that cannot be read are listed at the end, on standard error, and the exit status is
    then 1.

    Examples:
        senet predict photo.jpg
        senet predict runs/digits digit.png --top 3 --json
    """

    inputs: Positional[tuple[str, ...]]
    """[RUN_OR_MODEL] IMAGE [IMAGE ...]"""
    top: int = 5
    """classes printed for each image"""
    json: bool = False
    """print JSON instead of a table"""


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Train a small plain network and its SE twin on handwritten digits, side by side.

    Takes about a minute on two CPU cores and downloads nothing.
    """

    output: Path = Path("runs/demo")
    """the folder of both runs; a number is added if it is taken"""
    epochs: int = 8
    """passes over the 1437 training images"""
    seed: int = 0
    """of everything random"""


def run_train(argv: Sequence[str]) -> None:
    """Train a network by a recipe: `senet train RECIPE --output DIR`."""
    from senet.recipes import RECIPES, get_recipe
    from senet.training.interrupt import TrainingInterrupted
    from senet.training.loop import train

    if not argv or argv[0] in ("-h", "--help"):
        print("usage: senet train RECIPE --output DIR [--resume] [--seed N] [--epochs N] [...]\n\nRecipes:")
        for name, recipe in RECIPES.items():
            print(f"  {name:<20} {summary(recipe)}")
        print("\n`senet train RECIPE --help` lists every field of the configuration.")
        if not argv:
            raise SenetError("the recipe is missing")
        return
    config = get_recipe(argv[0])
    described = type("TrainCommand", (TrainCommand,), {"__doc__": inspect.getdoc(RECIPES[argv[0]])})
    default = described(output=tyro.MISSING, config=config)
    command = parse(described, argv[1:], f"senet train {argv[0]}", default)
    try:
        folder = train(asked_in(command.config, argv), command.output, resume=command.resume)
    except TrainingInterrupted as interrupted:
        again = f"{launcher()}senet train {shlex.join(word for word in argv if word != '--resume')} --resume"
        say(f"\nsenet: {interrupted}\n  {again}", console(stderr=True))
        raise SystemExit(128 + interrupted.signum) from None
    quoted = shlex.quote(str(folder))
    say(f"The run is in {folder}. Next:\n  senet evaluate {quoted}\n  senet predict {quoted} IMAGE ...")


def asked_in(config: TrainConfig, argv: Sequence[str]) -> TrainConfig:
    """Return the configuration with the options of a command line asked for, those that are the recipe's, too."""
    words = (word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--"))
    asked = {re.sub(r"\.no_(\w+)$", r".\1", word) for word in words}
    suggested = {
        name: value
        for name, value in config.suggested.items()
        if not any(name == option or name.startswith(f"{option}.") for option in asked)
    }
    return replace(config, suggested=suggested)


def run_evaluate(argv: Sequence[str]) -> None:
    """Measure the accuracy of a run or a network."""
    prog = "senet evaluate RUN_OR_MODEL"
    unknown = EvaluateCommand(data=DataConfig(dataset=tyro.MISSING))
    if {"-h", "--help"} & set(argv):
        parse(EvaluateCommand, ["--help"], prog, unknown)
    if not argv or argv[0].startswith("-"):
        raise SenetError("RUN_OR_MODEL is missing; `senet evaluate --help` explains all arguments")
    if not (Path(argv[0]).exists() or names_a_network(argv[0])):
        model_card(argv[0])  # a misspelt name is told before its missing data
    data = run_data(argv[0])
    command = parse(EvaluateCommand, argv[1:], prog, EvaluateCommand(data=data) if data else unknown)
    model: nn.Module = load_model(argv[0])
    say_slow_bf16(command.bf16)
    if command.optimize is not None:
        precision: Precision = "bf16" if command.bf16 else "fp32"
        model = optimize_for_inference(model, backend=command.optimize, precision=precision)
    result = evaluate(
        model,
        command.data.after(data),
        crop=command.crop,
        scales=command.scales,
        crops=command.crops,
        batch_size=command.batch_size,
        bf16=command.bf16 and command.optimize is None,
        device=default_device(),
    )
    if command.json:
        print(json.dumps(asdict(result)))
    else:
        say(
            f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f} "
            f"on {result.num_images:,} images of {command.data.dataset}"
        )


def run_predict(argv: Sequence[str]) -> None:
    """Say what is in pictures."""
    from senet.evaluation.prediction import predict_each

    command = parse(PredictCommand, argv, "senet predict")
    inputs = command.inputs
    model, images = PACKAGED_DEFAULT, inputs
    if inputs and names_a_network(inputs[0]):
        model, images = inputs[0], inputs[1:]
    if not images:
        raise SenetError("no image is given; `senet predict --help` explains all arguments")
    found = predict_each(model, images, top=command.top, batch_size=AT_ONCE, on_error="keep")
    errors = (print_json if command.json else print_rows)(found, max(len(printable(image)) for image in images))
    if len(images) == 1 and errors:
        raise errors[0]
    if errors:
        told = "".join(f"\n  {printable(str(error))}" for error in errors)
        say(f"senet: {len(errors)} of {len(images)} images are left out:{told}", console(stderr=True))
        raise SystemExit(1)


def print_rows(predictions: Iterator["Prediction"], width: int) -> list[SenetError]:
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


def print_json(predictions: Iterator["Prediction"], _width: int = 0) -> list[SenetError]:
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


def run_demo(argv: Sequence[str]) -> None:
    """Train a small plain network and its SE twin, side by side."""
    from senet.cli.demo import demo

    command = parse(DemoCommand, argv, "senet demo")
    demo(command.output, epochs=command.epochs, seed=command.seed)
