"""`senet record | explain | prune | ablate`."""

import atexit
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import tyro
from torch import nn
from tyro.conf import Positional

from senet.cli.parsing import check_new, parse, print_report, say_slow_bf16
from senet.cli.processes import is_first, num_started
from senet.data.config import DataConfig
from senet.errors import SenetError
from senet.evaluation.batches import run_data
from senet.factory import load_model
from senet.files import check_writable
from senet.nn.modes import default_device
from senet.terminal import console, say
from senet.training.config import TrainConfig

if TYPE_CHECKING:
    from senet.analysis.recording import Recording


@dataclass(frozen=True, kw_only=True)
class RecordCommand:
    """Record what the gates of a network do on a data set: for each block, class and channel, in one file.

    MODEL is a run folder, a model folder, the name of a network with weights in the package, a hub id, or "timm/NAME"
    or "torchvision/NAME" with that library's own weights.

    Examples:
        senet record runs/digits --output runs/digits/gates.safetensors
        senet record timm/seresnet50.ra2_in1k --data imagenet --output gates.safetensors
        torchrun --nproc-per-node 2 -m senet record runs/se50 --output gates.safetensors
    """

    model: Positional[str]
    """the network"""
    output: Path
    """the file to write, .safetensors"""
    data: str | None = None
    """a data set's name or folder; None for what the run was trained on"""
    batch_size: int = 64
    """images at once"""
    bf16: bool = False
    """compute in bfloat16"""
    json: bool = False
    """print JSON instead of a table"""


@dataclass(frozen=True, kw_only=True)
class ExplainCommand:
    """Write a page about what the gates of a network do: figures, numbers, what each gate is worth, examples.

    The page is one file that needs no network. MODEL is as for `senet record`.

    Examples:
        senet explain runs/digits --output report.html
        senet explain runs/se50 --data imagenet --recording gates.safetensors --no-knockout --output report.html
    """

    model: Positional[str]
    """the network"""
    output: Path = Path("report.html")
    """the page to write"""
    data: str | None = None
    """a data set's name or folder; None for what the run was trained on"""
    recording: Path | None = None
    """a file of `senet record`, instead of recording now"""
    knockout: bool = True
    """measure what each gate is worth: as many evaluations as there are blocks, and one"""
    examples: int = 10
    """classes of which an image is shown"""
    batch_size: int = 64
    """images at once"""


@dataclass(frozen=True, kw_only=True)
class PruneCommand:
    """Take SE blocks out of a network: each one's mean gate becomes part of the layer in front of it or behind it.

    MODEL is as for `senet record`. The mean gates are those on the data.

    Examples:
        senet prune runs/digits models/digits_pruned --blocks SE_4_2 SE_4_3
    """

    model: Positional[str]
    """the network"""
    output: Positional[Path]
    """the model folder to write; it must not exist yet"""
    blocks: tuple[str, ...] = ()
    """names of blocks; none means those whose gate is constant"""
    data: str | None = None
    """a data set's name or folder; None for what the run was trained on"""
    recording: Path | None = None
    """a file of `senet record`, instead of recording now"""
    batch_size: int = 64
    """images at once"""
    json: bool = False
    """print JSON instead of a table"""


@dataclass(frozen=True, kw_only=True)
class AblateCommand:
    """Train the variants of the paper's ablations, Tables 10 to 16, on any recipe, beside the paper's figures.

    What has been trained is not trained again: repeat the command to go on. Every field of the recipe can be set.

    Examples:
        senet ablate 10 12 --recipe digits --seeds 5 --output runs/ablation
        senet ablate --recipe cifar10_short --epochs 10 --data.dataset FOLDER --output runs/ablation_cifar10
    """

    tables: Positional[tuple[int, ...]] = ()
    """numbers of tables; none means all"""
    recipe: str = "digits"
    """what every variant is trained by, see `senet train`"""
    seeds: int = 3
    """runs of each variant"""
    output: Path
    """the folder of the runs"""
    json: bool = False
    """print JSON instead of tables"""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]


def data_of(source: str, data: str | None) -> DataConfig:
    """Return the data of a run, or another data set read in the same way.

    Raises:
        SenetError: the source is not a run, and no data are named.
    """
    trained_on = run_data(source)
    if data is not None:
        return replace(trained_on or DataConfig(), dataset=data).after(trained_on)
    if trained_on is None:
        raise SenetError("data is missing: say what to look at, such as --data digits or a folder")
    return trained_on


def recorded(model: nn.Module, data: DataConfig, command: ExplainCommand | PruneCommand) -> "Recording":
    """Return the recording that was named, or record now."""
    from senet.analysis.recording import Recording

    if command.recording is not None:
        return Recording.load(command.recording)
    return recorded_now(model, data, command)


def recorded_now(
    model: nn.Module, data: DataConfig, command: RecordCommand | ExplainCommand | PruneCommand
) -> "Recording":
    """Record, and note what the network was opened from."""
    from senet.analysis.recording import record_excitations

    bf16 = isinstance(command, RecordCommand) and command.bf16
    found = record_excitations(model, data, batch_size=command.batch_size, precision="bf16" if bf16 else "fp32")
    return replace(found, provenance={**found.provenance, "weights": command.model})


def joined() -> bool:
    """Join the other processes that torchrun started, if it did; return whether this one speaks for all."""
    if num_started() > 1:
        from accelerate import PartialState

        from senet.training.processes import leave_process_group

        atexit.register(leave_process_group)
        PartialState(cpu=not torch.accelerator.is_available())
    return is_first()


def run_record(argv: Sequence[str]) -> None:
    """Record what the gates of a network do on a data set."""
    from senet.analysis.measures import block_statistics, statistics_table

    command = parse(RecordCommand, argv, "senet record")
    check_writable(command.output)
    data = data_of(command.model, command.data)
    model = load_model(command.model)
    say_slow_bf16(command.bf16)
    speaks = joined()
    found = recorded_now(model.to(default_device()), data, command)
    if not speaks:
        return
    found.save(command.output)
    if command.json:
        print(json.dumps([asdict(row) for row in block_statistics(found)]))
    else:
        console().print(statistics_table(found))
        say(f"{command.output} holds the gates of {found.num_images:,} images")


def run_explain(argv: Sequence[str]) -> None:
    """Write a page about what the gates of a network do."""
    from senet.analysis.report import explain

    command = parse(ExplainCommand, argv, "senet explain")
    check_writable(command.output)
    data = data_of(command.model, command.data)
    model = load_model(command.model).to(default_device())
    page = explain(
        model,
        data,
        command.output,
        recording=recorded(model, data, command),
        knockout=command.knockout,
        num_examples=command.examples,
        run=command.model,
        batch_size=command.batch_size,
    )
    say(f"{page} is the report; open it in a browser")


def run_prune(argv: Sequence[str]) -> None:
    """Take SE blocks out of a network."""
    from senet.analysis.pruning import prune_se
    from senet.weights.folder import save_pretrained

    command = parse(PruneCommand, argv, "senet prune")
    check_new(command.output)
    data = data_of(command.model, command.data)
    model = load_model(command.model).to(default_device())
    recording = recorded(model, data, command)
    report = prune_se(model, recording, command.blocks or "constant", data=data, batch_size=command.batch_size)
    save_pretrained(model, command.output)
    print_report(report, command.json, f"{command.output} holds the model")


def run_ablate(argv: Sequence[str]) -> None:
    """Train the variants of the paper's ablations: `senet ablate TABLE ... --recipe RECIPE --output DIR`."""
    from senet.paper.ablation import TABLES, ablate, tables_of
    from senet.recipes import get_recipe
    from senet.training.interrupt import TrainingInterrupted

    given = [following for word, following in pairwise(argv) if word == "--recipe"]
    given += [word.partition("=")[2] for word in argv if word.startswith("--recipe=")]
    default = AblateCommand(output=tyro.MISSING, config=get_recipe(given[0] if given else "digits"))
    command = parse(AblateCommand, argv, "senet ablate", default)
    try:
        rows = ablate(command.tables or TABLES, command.config, command.output, seeds=command.seeds)
    except TrainingInterrupted as interrupted:
        say(f"\nsenet: {interrupted}\n  senet ablate {shlex.join(argv)}", console(stderr=True))
        raise SystemExit(128 + interrupted.signum) from None
    if command.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for table in tables_of(rows):
        console().print(table)
        say()
    say(f"{command.output} holds the runs; the same command again prints this without training.")
