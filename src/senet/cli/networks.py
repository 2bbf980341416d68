"""`senet models | convert | insert`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tyro.conf import Positional

from senet.cli.parsing import check_new, parse, print_report
from senet.errors import SenetError
from senet.factory import load_model
from senet.nn.block import Placement, SEOptions, Squeeze
from senet.surgery.selection import Existing
from senet.terminal import console, say


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

    SOURCE is a file (.safetensors, .pt, .pth, .bin, .pkl, .caffemodel), a folder or a hub id. The layout is recognized:
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
    in_channels: int | None = None
    """channels of the images; another number than the weights' converts the first convolution; None keeps it"""
    layout: str | None = None
    """overrules the layout that the keys say, see `senet.load_weights`"""
    key: str | None = None
    """which of several networks in a file, such as model_ema"""
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """options of the network that the weights do not show, such as stem_pool pad; with --layout senet"""
    se: SEOptions = field(default_factory=SEOptions)
    """SE options of the network that the weights do not show, such as the gate"""


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
    gate: str = "sigmoid"
    """the function that closes the excitation"""
    bias: bool = True
    """biases in the two layers"""
    placement: Placement = "standard"
    """where in a residual unit: standard, pre, post or 3x3"""
    stages: tuple[int, ...] = ()
    """only these, numbered by resolution from 2; none means all"""
    where: tuple[str, ...] = ()
    """only modules whose names match one of these shell patterns; none means all"""
    existing: Existing = "skip"
    """branches with a gate of their own: skip them, or add a second gate"""
    preserve_outputs: bool = True
    """start with a gate of exactly 1, or else at random"""
    pretrained: bool = True
    """load timm's or torchvision's weights"""
    json: bool = False
    """print JSON instead of a table"""


def run_models(argv: Sequence[str]) -> None:
    """List the networks with their costs and the paper's figures."""
    from senet.cli.tables import model_rows, print_models

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


def print_paper(command: ModelsCommand) -> None:
    """Print the comparison with the paper's parameters and multiply-adds."""
    from senet.paper.costs import LEGEND, compare_costs, paper_table

    rows = [row for row in compare_costs() if fnmatchcase(row.printed.name, command.pattern)]
    if not rows:
        raise SenetError(f"the paper gives no costs of networks that match {command.pattern!r}; leave the pattern out")
    if command.json:
        print(json.dumps([asdict(row) | {"agrees": row.agrees, "counting": row.counting} for row in rows]))
        return
    console().print(paper_table(rows))
    say(LEGEND)


def run_convert(argv: Sequence[str]) -> None:
    """Turn weights from anywhere into a model folder."""
    from senet.factory import assemble, read_weights
    from senet.models.catalog import model_card
    from senet.weights.folder import save_pretrained
    from senet.weights.matching import Asked

    command = parse(ConvertCommand, argv, "senet convert")
    card = model_card(command.name)
    check_new(command.output)
    se = None if command.se == SEOptions() else command.se
    if se is not None and not card.has_se:
        raise SenetError(f"--se has no effect: {command.name} is a plain network")
    asked = Asked(
        name=command.name,
        num_classes=command.num_classes,
        in_channels=command.in_channels,
        se=se,
        options=command.options,
    )
    checkpoint = read_weights(command.name, command.source, layout=command.layout, key=command.key)
    model = assemble(checkpoint, asked)
    save_pretrained(model, command.output)
    say(f"{command.output} holds {command.name} with {model.num_classes} classes (layout {checkpoint.layout.name})")


def run_insert(argv: Sequence[str]) -> None:
    """Put SE blocks into a network that has none."""
    from senet.surgery.insertion import insert_se
    from senet.weights.folder import save_pretrained

    command = parse(InsertCommand, argv, "senet insert")
    check_new(command.output)
    model = load_model(command.source, pretrained=command.pretrained)
    report = insert_se(
        model,
        SEOptions(
            reduction=command.reduction,
            squeeze=command.squeeze,
            gate=command.gate,
            bias=command.bias,
            placement=command.placement,
            stages=command.stages or None,
        ),
        where=command.where or None,
        existing=command.existing,
        preserve_outputs=command.preserve_outputs,
    )
    save_pretrained(model, command.output)
    quoted = shlex.quote(str(command.output))
    ending = f"{command.output} holds the model. Next:\n  senet train RECIPE --weights {quoted} --output RUN"
    print_report(report, command.json, ending)
