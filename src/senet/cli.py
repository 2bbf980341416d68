"""The command line: `senet demo | train | evaluate | predict | models | convert | insert`."""

import contextlib
import inspect
import io
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from torch import nn
from tyro.conf import Positional

from senet.block import Gate, Placement, Squeeze
from senet.data.config import DataConfig
from senet.errors import SenetError
from senet.evaluation import Crops, evaluate, run_data
from senet.insertion import Gated
from senet.models.folder import PACKAGED_DEFAULT, load_model
from senet.optimization import optimize
from senet.optimization.inference import Backend, Precision
from senet.training.config import TrainConfig


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

    RUN_OR_MODEL is a run folder, a model folder, a hub id, or the name of a network with weights in the package. The
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
    """one crop, or ten: corners and centre, each mirrored too"""
    batch_size: int = 64
    """images at once"""
    bf16: bool = False
    """compute in bfloat16"""
    optimize: Backend | None = None
    """rewrite the network for inference and compute it with this backend, see `senet.optimize`"""
    json: bool = False
    """print JSON instead of a sentence"""


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Say what is in pictures: the likeliest classes with their probabilities.

    RUN_OR_MODEL is a run folder, a model folder, a hub id, or the name of a network with weights in the package;
    without it, the CIFAR-10 network of the package answers.

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
class ModelsCommand:
    """List the networks: parameters and multiply-adds beside the paper's figures.

    Examples:
        senet models
        senet models 'se_res*' --json
        senet models --paper
    """

    pattern: Positional[str] = "*"
    """a shell pattern"""
    paper: bool = False
    """only what the paper and its release give figures of, each with the cause of a difference"""
    json: bool = False
    """print JSON instead of a table"""


@dataclass(frozen=True, kw_only=True)
class ConvertCommand:
    """Turn weights from anywhere into a model folder, which `evaluate`, `predict` and `from_pretrained` read.

    SOURCE is a file (.safetensors, .pt, .pth, .bin, .pkl, .caffemodel), a folder or a hub id. The layout is recognised:
    ours, timm's, torchvision's, mmpretrain's, moskomule's, the authors' Caffe.

    Examples:
        senet convert se_resnet50 SE-ResNet-50.caffemodel models/se_resnet50
        senet convert se_resnet50 timm/seresnet50.ra2_in1k models/se_resnet50
        senet convert se_resnet50 resnet50.pth models/start --num-classes 10
    """

    name: Positional[str]
    """the network, see `senet models`"""
    source: Positional[str]
    """the weights"""
    output: Positional[Path]
    """the model folder to write; it must not exist yet"""
    num_classes: int | None = None
    """classes of a new classifier; None keeps that of the weights"""
    in_channels: int = 3
    """channels of the images; another number than the weights' converts the first convolution"""
    layout: str | None = None
    """overrules the layout that the keys say, see `senet.load_weights`"""


@dataclass(frozen=True, kw_only=True)
class InsertCommand:
    """Put SE blocks into a network that has none, its outputs kept bit for bit, and write it as a model folder.

    SOURCE is a run folder, a model folder, the name of a network with weights in the package, or "timm/NAME" or
    "torchvision/NAME" with that library's own weights. Go on with
    `senet train RECIPE --weights FOLDER --output RUN`.

    Examples:
        senet insert timm/resnet50.a1_in1k models/resnet50_with_se
        senet insert runs/plain models/plain_with_se --reduction 8 --stages 3 4
    """

    source: Positional[str]
    """the network"""
    output: Positional[Path]
    """the model folder to write; it must not exist yet"""
    reduction: int = 16
    """the factor by which the hidden layer is narrower"""
    squeeze: Squeeze = "avg"
    """how a channel becomes a number"""
    gate: Gate = "sigmoid"
    """the function that closes the excitation"""
    bias: bool = True
    """biases in the two layers"""
    placement: Placement = "standard"
    """where in a residual unit: standard, pre, post or 3x3"""
    stages: tuple[int, ...] = ()
    """only these, numbered by resolution from 2; none means all"""
    where: tuple[str, ...] = ()
    """only modules whose names match one of these shell patterns; none means all"""
    gated: Gated = "skip"
    """what happens to branches with a gate of their own"""
    preserve_outputs: bool = True
    """start with a gate of exactly 1, or else at random"""
    pretrained: bool = True
    """load timm's or torchvision's weights"""
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


def parse(command: Any, argv: Sequence[str], prog: str, default: Any = None) -> Any:
    """Parse arguments with tyro; what it would say in a box about a mistake becomes one sentence.

    Raises:
        SenetError: unknown, missing or malformed arguments.
        SystemExit: `--help` was asked for and printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                command,
                args=list(argv),
                prog=prog,
                default=default,
                description=inspect.getdoc(command),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SenetError(f"{one_sentence(said.getvalue())}; `{prog} --help` explains all arguments") from None


def one_sentence(box: str) -> str:
    """Return the mistake that a box of tyro's describes: what follows its first rule, without help texts."""
    lines = [re.sub(r"^(│ |  )|[│ ]+$", "", line) for line in box.splitlines()]
    rules = [i for i, line in enumerate(lines) if re.search(r"^[╭╰]|──|--- *$|^---", line)] + [len(lines)] * 2
    told = " ".join(line.strip() for line in lines[rules[0] + 1 : rules[1]] if not line.startswith("     "))
    near = re.search(r"Perhaps you meant:.*?(--[\w.-]+)", box, re.DOTALL)
    sentence = told[:1].lower() + told[1:].strip().rstrip(".")
    return f"{sentence}; perhaps you meant {near[1]}" if near else sentence


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
        folder = train(command.config, command.output, resume=command.resume)
    except TrainingInterrupted as interrupted:
        again = [word for word in argv if word != "--resume"]
        print(f"\nsenet: {interrupted}\n  senet train {shlex.join(again)} --resume", file=sys.stderr)
        raise SystemExit(128 + interrupted.signum) from None
    print(f"The run is in {folder}. Next:\n  senet evaluate {folder}\n  senet predict {folder} IMAGE ...")


def run_evaluate(argv: Sequence[str]) -> None:
    """Measure the accuracy of a run or a network."""
    prog = "senet evaluate RUN_OR_MODEL"
    unknown = EvaluateCommand(data=DataConfig(dataset=tyro.MISSING))
    if {"-h", "--help"} & set(argv):
        parse(EvaluateCommand, ["--help"], prog, unknown)
    if not argv or argv[0].startswith("-"):
        raise SenetError("RUN_OR_MODEL is missing; `senet evaluate --help` explains all arguments")
    model: nn.Module = load_model(argv[0])
    data = run_data(argv[0])
    command = parse(EvaluateCommand, argv[1:], prog, EvaluateCommand(data=data) if data else unknown)
    if command.optimize is not None:
        precision: Precision = "bf16" if command.bf16 else "fp32"
        model = optimize(model, for_="inference", backend=command.optimize, precision=precision)
    result = evaluate(
        model,
        command.data,
        crop=command.crop,
        scales=command.scales,
        crops=command.crops,
        batch_size=command.batch_size,
        bf16=command.bf16 and command.optimize is None,
    )
    if command.json:
        print(json.dumps(asdict(result)))
    else:
        print(
            f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f} "
            f"on {result.num_images:,} images of {command.data.dataset}"
        )


def run_predict(argv: Sequence[str]) -> None:
    """Say what is in pictures."""
    from senet.models.hub import is_hub_id
    from senet.models.registry import CARDS
    from senet.prediction import predict

    command = parse(PredictCommand, argv, "senet predict")
    inputs = command.inputs
    model, images = PACKAGED_DEFAULT, inputs
    on_hub = len(inputs) > 1 and not Path(inputs[0]).exists() and is_hub_id(inputs[0])
    if inputs and (Path(inputs[0]).is_dir() or inputs[0] in CARDS or on_hub):
        model, images = inputs[0], inputs[1:]
    if not images:
        raise SenetError("no image is given; `senet predict --help` explains all arguments")
    predictions = predict(model, images, top=command.top)
    if command.json:
        rows = zip(images, predictions, strict=True)
        print(json.dumps([{"image": image, "classes": [asdict(c) for c in classes]} for image, classes in rows]))
        return
    table = Table("image", "class", "probability", box=None, header_style="bold")
    for image, classes in zip(images, predictions, strict=True):
        for i, likely in enumerate(classes):
            table.add_row("" if i else image, likely.class_name, f"{100 * likely.probability:.2f} %")
    Console(soft_wrap=True).print(table)


def run_models(argv: Sequence[str]) -> None:
    """List the networks with their costs and the paper's figures."""
    from senet.models.table import model_rows, print_models

    command = parse(ModelsCommand, argv, "senet models")
    if command.paper:
        print_paper(command)
        return
    rows = model_rows(command.pattern)
    if not rows:
        raise SenetError(f"no network matches {command.pattern!r}; `senet models` lists them all")
    if command.json:
        print(json.dumps(rows))
    else:
        print_models(rows)


def run_convert(argv: Sequence[str]) -> None:
    """Turn weights from anywhere into a model folder."""
    from senet.models.cards import ModelConfig
    from senet.models.folder import find_weights, save_pretrained
    from senet.models.layouts import find_layout
    from senet.models.registry import model_card
    from senet.models.weights import create_from_weights

    command = parse(ConvertCommand, argv, "senet convert")
    model_card(command.name)
    if command.output.exists():
        raise SenetError(f"{command.output} exists already; name another folder")
    config = ModelConfig(name=command.name, num_classes=command.num_classes, in_channels=command.in_channels)
    checkpoint = find_weights(command.name, command.source)
    if command.layout is not None:
        checkpoint = checkpoint.with_layout(find_layout(command.layout))
    model = create_from_weights(config, checkpoint, se=None, convert_input=command.in_channels != 3)
    save_pretrained(model, command.output)
    print(f"{command.output} holds {command.name} with {model.num_classes} classes (layout {checkpoint.layout.name})")


def run_insert(argv: Sequence[str]) -> None:
    """Put SE blocks into a network that has none."""
    from senet.insertion import insert_se
    from senet.models.cards import ModelConfig
    from senet.models.folder import save_pretrained
    from senet.models.foreign import build_foreign, is_foreign

    command = parse(InsertCommand, argv, "senet insert")
    if command.output.exists():
        raise SenetError(f"{command.output} exists already; name another folder")
    model: nn.Module
    if is_foreign(command.source) and not Path(command.source).exists():
        model = build_foreign(ModelConfig(name=command.source), pretrained=command.pretrained)
    else:
        model = load_model(command.source)
    report = insert_se(
        model,
        reduction=command.reduction,
        squeeze=command.squeeze,
        gate=command.gate,
        bias=command.bias,
        placement=command.placement,
        stages=command.stages or None,
        where=command.where or None,
        gated=command.gated,
        preserve_outputs=command.preserve_outputs,
    )
    save_pretrained(model, command.output)
    if command.json:
        print(json.dumps(asdict(report)))
    else:
        print(report)
        print(f"{command.output} holds the model. Next:\n  senet train RECIPE --weights {command.output} --output RUN")


def print_paper(command: ModelsCommand) -> None:
    """Print the comparison with the paper's parameters and multiply-adds."""
    from senet.models.paper_costs import LEGEND, compare_costs, paper_table

    rows = [row for row in compare_costs() if fnmatchcase(row.printed.name, command.pattern)]
    if not rows:
        raise SenetError(f"the paper gives no costs of networks that match {command.pattern!r}; leave the pattern out")
    if command.json:
        print(json.dumps([asdict(row) | {"agrees": row.agrees, "counting": row.counting} for row in rows]))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(paper_table(rows))
    console.print(LEGEND, soft_wrap=True)


def run_demo(argv: Sequence[str]) -> None:
    """Train a small plain network and its SE twin, side by side."""
    from senet.demo import demo

    command = parse(DemoCommand, argv, "senet demo")
    demo(command.output, epochs=command.epochs, seed=command.seed)


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = MappingProxyType(
    {
        "demo": run_demo,
        "train": run_train,
        "evaluate": run_evaluate,
        "predict": run_predict,
        "models": run_models,
        "convert": run_convert,
        "insert": run_insert,
    }
)


def summary(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(function) or "").splitlines()[0]


def usage() -> str:
    """Return what `senet --help` prints."""
    commands = "\n".join(f"  {name:<10} {summary(function)}" for name, function in COMMANDS.items())
    return (
        f"usage: senet COMMAND [...]\n\nSqueeze-and-Excitation networks in PyTorch.\n\n{commands}\n\n"
        "`senet COMMAND --help` explains a command."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for bad input, or 128 + the signal that stopped a run."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    try:
        if not argv or argv[0] not in COMMANDS:
            given = f"{argv[0]!r} is no command" if argv else "the command is missing"
            raise SenetError(f"{given}; expected {', '.join(COMMANDS)}")
        COMMANDS[argv[0]](argv[1:])
    except SenetError as error:
        print(f"senet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("senet: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return 0
