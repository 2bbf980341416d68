"""`senet finetune`."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from torch import Tensor
from tyro.conf import Fixed, Positional, Suppress

from senet.cli.names import FINETUNING
from senet.cli.options import by_flag, check_options, flag_of, options
from senet.cli.parsing import Command, parse
from senet.cli.progress import run_shown
from senet.cli.training import ResumeCommand, going_on_later
from senet.configs import settings
from senet.data.config import DataConfig
from senet.errors import SenetError
from senet.evaluation.accuracy import class_counts, evaluation_of
from senet.evaluation.scores import score_share
from senet.finetuning.run import finetune, summary
from senet.launch import is_first
from senet.models.config import ModelConfig
from senet.processes import shared_work
from senet.terminal import Table, console, say
from senet.training.config import TrainConfig
from senet.training.run import RunFolder
from senet.training.sections import Freeze, Metric

ALL_OPTIONS = "--help-all"
MAX_CLASSES = 20
"""Whose figures are shown at the end."""


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every field of the configuration, for `senet finetune FOLDER`: those that you leave out are chosen for your data.

    The defaults that are shown here are those of `TrainConfig`, not what is chosen.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True)
class FinetuneCommand(Command):
    """Train a network that has weights on pictures of your own.

    FOLDER has train/ and val/, each with a folder of pictures for each class; or the classes' folders alone, of which
    a fifth is held out; or it is a CSV file with a row for each picture, its file and its class. What you leave out is
    chosen for your pictures, the network and the machine, and said.

    Examples:
        senet finetune flowers --model timm/resnet50.a1_in1k --output runs/flowers
        senet finetune flowers --model se_resnet50 --output runs/flowers --time 20m
        senet finetune flowers --model runs/plants --output runs/flowers --freeze trunk --optimizer.lr 0.01

    Every field of the configuration can be set, as --optimizer.lr here: `senet finetune --help-all` lists them.
    `senet train --resume RUN` goes on with a run that was stopped, and so does `senet finetune --resume RUN`.
    """

    in_processes: ClassVar[Literal["train"]] = "train"
    folder: Annotated[Positional[str], tyro.conf.arg(metavar="FOLDER")]
    """your pictures, or a CSV file that names them and their classes"""
    model: Annotated[str, tyro.conf.arg(metavar="NAME_OR_ID_OR_RUN")]
    """what to start from: a name of `senet models --weights`, timm/NAME, torchvision/NAME, a run, folder, file or hub
    id"""
    output: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """the run folder to write"""
    epochs: int | None = None
    """passes over the pictures; None for a number that fits theirs"""
    time: str | None = None
    """limit for the whole run, such as 20m or 1h30m"""
    freeze: Freeze | None = None
    """train the classifier alone (trunk), keep BatchNorm's statistics (bn), or train all; None: bn for few pictures"""
    metric: Metric | None = None
    """chooses the best epoch; None: balanced accuracy if the classes differ in size, else top-1; the last for few"""
    image_size: int | None = None
    """side of the network's input in pixels; None for that of the weights"""
    batch_size: int | None = None
    """pictures of a step in each process; None for a number that fits them and the machine"""
    teacher: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    """a trained network to learn from as well"""
    channels: int | None = None
    """of the pictures, such as 4 for RGB and alpha; None for those of the weights wherever pictures can be converted"""
    seed: int = 0
    """of everything random"""
    pretrained: bool = True
    """start from the weights; without them at random, to compare"""
    settings: Annotated[Mapping[str, Any], Suppress, Fixed] = field(default_factory=dict)
    configuration = TrainConfig
    elsewhere: ClassVar[Mapping[str, str]] = FINETUNING

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Command:
        """Read what to train, and the fields of the configuration that are set; or the run to go on with.

        Raises:
            SenetError: the folder is missing, or does not come first.
            SystemExit: `--help` was printed.
        """
        words = [word.partition("=")[0] for word in argv]
        if "--resume" in words:
            if not argv[0].startswith("-"):
                raise SenetError(f"{argv[0]} has no effect with --resume, for a run has its pictures; leave it out")
            return ResumeFinetuning.read(argv, prog)
        if ALL_OPTIONS in words:
            parse(Everything, ["--help"], f"{prog} FOLDER", default=Everything(config=blank()))
        if argv and argv[0].startswith("-") and not {"-h", "--help"} & set(words):
            raise SenetError(f"the folder of pictures is missing; it comes before all options, see `{prog} --help`")
        own, others = divided(cls, argv)
        command = parse(cls, own, prog)
        return replace(command, settings=read_settings(others, prog))

    def run(self) -> None:
        """Train, and say what can be done next."""
        with going_on_later(self.output), run_shown() as progress:
            finetune(
                self.folder,
                self.output,
                model=self.model,
                pretrained=self.pretrained,
                freeze=self.freeze,
                epochs=self.epochs,
                time=self.time,
                metric=self.metric,
                teacher=self.teacher,
                image_size=self.image_size,
                channels=self.channels,
                batch_size=self.batch_size,
                seed=self.seed,
                settings=dict(self.settings),
                progress=progress,
            )
        say_ending(self.output)


@dataclass(frozen=True, kw_only=True)
class ResumeFinetuning(ResumeCommand):
    """Go on with a fine-tuning that was stopped. Everything else is as the run started.

    Examples:
        senet finetune --resume runs/flowers
        senet finetune --resume runs/flowers --epochs 20
    """

    def say_ending(self, run: Path) -> None:
        """Say what came of the run, how well each class is known, and what can be done next."""
        say_ending(run, summed_up=False)


def say_ending(run: Path, *, summed_up: bool = True) -> None:
    """Say how well the best network of a run knows each class, and what can be done next.

    Args:
        run: its folder.
        summed_up: whether it has been said what came of the run.
    """
    compute = RunFolder(run).read_config().compute  # in the run's precision, as its metrics are
    with shared_work():
        device = "cpu" if compute.cpu else None
        scores = score_share(run, None, name=str(run), device=device, precision=compute.precision)
        sums = scores.sums
    if not is_first():
        return
    if not summed_up:
        found = evaluation_of(sums)
        say(summary(run, (found.largest_class, 100 / found.num_classes)))
    console().print(class_table(scores.class_names, sums))
    quoted = shlex.quote(str(run))
    say(
        f"The run is in {run}. Next:\n  senet evaluate {quoted} --report report.html\n"
        f"  senet predict PICTURES --model {quoted}"
    )


def class_table(class_names: Sequence[str], sums: Tensor) -> Table:
    """Return how many images of each class are recognized; of many classes those that are recognized least."""
    images_C, predictions_C, right_C = class_counts(sums)
    places = images_C.nonzero()[:, 0].tolist()
    places.sort(key=lambda place: right_C[place] / images_C[place])
    which = "" if len(places) <= MAX_CLASSES else f", the {MAX_CLASSES} worst of {len(places)}"
    table = Table("class", title=f"Evaluation images of each class{which}")
    for heading in ("images", "recall, %", "precision, %"):
        table.add_column(heading, justify="right")
    for place in places[:MAX_CLASSES]:
        images, predictions, right = (int(counts[place]) for counts in (images_C, predictions_C, right_C))
        shares = [f"{100 * right / total:.1f}" if total else "-" for total in (images, predictions)]
        table.add_row(class_names[place], str(images), *shares)
    return table


def blank() -> TrainConfig:
    """Return the configuration that stands for all that is not set."""
    return TrainConfig(model=ModelConfig(name=""), data=DataConfig(dataset="", in_memory=False), weights="")


def divided(kind: type[Command], argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide words into those of a command and those that set fields of the configuration, each with its values.

    Raises:
        SenetError: an option is none of the two.
    """
    known = by_flag(kind, TrainConfig)
    del known["--data"]  # is the folder
    check_options(known, argv, FINETUNING)
    fields = known.keys() - by_flag(kind)
    own: list[str] = []
    others: list[str] = []
    taking = own
    for word in argv:
        if word.startswith("--"):
            taking = others if flag_of(word) in fields else own
        taking.append(word)
    return own, others


def read_settings(argv: Sequence[str], prog: str) -> dict[str, Any]:
    """Return the fields of the configuration that words set, by dotted name.

    Raises:
        SystemExit: tyro refused a value, and said why.
    """
    if not argv:
        return {}
    config = parse(Everything, argv, prog, default=Everything(config=blank())).config
    flags = {flag_of(word) for word in argv}
    names = [name for name, option in options(TrainConfig) if option.flag in flags]
    return {
        name: value
        for name, value in settings(config, "")
        if any(name == asked or name.startswith(f"{asked}.") for asked in names)
    }
