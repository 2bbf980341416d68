"""`senet train | ablate`."""

import inspect
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from senet.cli.ablation import ablation_tables
from senet.cli.names import DETECTING, TRAINING
from senet.cli.options import flag_of, options
from senet.cli.parsing import Command, parse
from senet.cli.processes import launcher
from senet.cli.progress import lines_shown, run_shown
from senet.detection.config import DetectionConfig
from senet.errors import SenetError
from senet.nn.block import SEOptions
from senet.paper.ablation import TABLES, reproduce_ablations
from senet.recipes import RECIPES, get_recipe
from senet.terminal import console, say
from senet.training.config import Config, RunConfig, Tracker, TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.run import RunFolder

RECIPE_TEXT = """\
usage: {usage}

{description}

Recipes:
{recipes}

`{prog} RECIPE --help` lists every field of the configuration{resumed}.
"""


@dataclass(frozen=True, kw_only=True)
class ByRecipe(Command):
    """A command that trains: its first argument names a recipe, which gives the defaults of all other options."""

    in_processes: ClassVar[Literal["train"]] = "train"
    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """the folder of what is trained"""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    purpose: ClassVar[str] = "the ablations classify"
    elsewhere: ClassVar[Mapping[str, str]] = TRAINING

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Command:
        """Read a recipe's name, and the arguments after it.

        Raises:
            SenetError: the recipe is missing or unknown.
            SystemExit: `--help` was printed.
        """
        if argv and argv[0] in ("-h", "--help"):
            recipes = "\n".join(f"  {name:<26} {summary(RECIPES[name])}" for name in RECIPES)
            description, usage = inspect.getdoc(cls), "\n       ".join(cls.usages(prog))
            told = {"prog": prog, "usage": usage, "description": description, "recipes": recipes}
            print(RECIPE_TEXT.format(**told, resumed=cls.help_on_resuming(prog)), end="")
            raise SystemExit(0)
        if not argv or argv[0].startswith("-"):
            raise SenetError(f"the recipe is missing; it comes before all options, and `{prog} --help` lists them")
        name = argv[0]
        config = get_recipe(name)
        kind = cls.form(config, name)
        default = kind(output=tyro.MISSING, config=kind.with_sections(config, argv))
        description = f"{inspect.getdoc(cls)}\n\nThe recipe: {inspect.getdoc(RECIPES[name])}"
        command = parse(kind, argv[1:], f"{prog} {name}", default=default, description=description)
        return replace(command, config=asked_in(command.config, argv))

    @classmethod
    def form(cls, config: RunConfig, name: str) -> "type[ByRecipe]":
        """Return the command with the options of a recipe's configuration.

        Args:
            config: of the recipe.
            name: of the recipe.

        Raises:
            SenetError: the command cannot use it.
        """
        if not isinstance(config, TrainConfig):
            raise SenetError(f"{name} is a recipe of {config.task}, but {cls.purpose} images; take another recipe")
        return cls

    @classmethod
    def with_sections(cls, config: Config, argv: Sequence[str]) -> Config:
        """Return a recipe's configuration with those sections that the command line sets and the recipe has not."""
        return config

    @classmethod
    def usages(cls, prog: str) -> list[str]:
        """Return the forms of the command."""
        return [f"{prog} RECIPE --output FOLDER [...]"]

    @classmethod
    def help_on_resuming(cls, prog: str) -> str:
        """Return where `--help` on going on is, as the end of a sentence; empty where a command does not go on."""
        return ""


@dataclass(frozen=True, kw_only=True)
class TrainCommand(ByRecipe):
    """Train a network by a recipe, or go on with a run that was stopped.

    Examples:
        senet train digits --output runs/digits
        senet train coco_faster_rcnn --output runs/coco --data COCO --model.trunk se_resnet50 --weights FILE
        senet train cifar10 --output runs/cifar10 --model.name cifar_se_preact_resnet164 --optimizer.lr 0.05
        senet train --resume runs/digits
    """

    configuration: ClassVar[type[RunConfig]] = DetectionConfig  # whose options recipes that detect take

    @classmethod
    def form(cls, config: RunConfig, name: str) -> type[ByRecipe]:
        """Return the command with the options of a recipe's configuration."""
        return TrainDetector if isinstance(config, DetectionConfig) else super().form(config, name)

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Command:
        """Read what to train, or what to go on with.

        Raises:
            SenetError: a recipe is named, but a run has its own.
        """
        if not any(word.partition("=")[0] == "--resume" for word in argv):
            return super().read(argv, prog)
        if not argv[0].startswith("-"):
            raise SenetError(f"{argv[0]} has no effect with --resume, for a run has its recipe; leave it out")
        return ResumeCommand.read(argv, prog)

    @classmethod
    def usages(cls, prog: str) -> list[str]:
        """Return the forms of the command."""
        return [*super().usages(prog), f"{prog} --resume RUN [...]"]

    @classmethod
    def help_on_resuming(cls, prog: str) -> str:
        """Return where `--help` on going on is, as the end of a sentence."""
        return f",\n`{prog} --resume RUN --help` what can be changed of a run that goes on"

    def run(self) -> None:
        """Train, and say what can be done next."""
        with going_on_later(self.output), run_shown() as progress:
            say_next(train(self.config, self.output, progress=progress), self.config.task)


@dataclass(frozen=True, kw_only=True)
class TrainDetector(TrainCommand):
    """`senet train` with a recipe that detects."""

    config: Annotated[DetectionConfig, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]  # type: ignore[assignment]
    elsewhere: ClassVar[Mapping[str, str]] = DETECTING

    @classmethod
    def with_sections(cls, config: Config, argv: Sequence[str]) -> Config:
        """Return the configuration with SE options where they are set, or asked for by `--help`."""
        wanted = any(word.startswith("--model.se.") or word in ("-h", "--help") for word in argv)
        if not wanted or not isinstance(config, DetectionConfig) or config.model.se is not None:
            return config
        return replace(config, model=replace(config.model, se=SEOptions()))


@dataclass(frozen=True, kw_only=True)
class ResumeCommand(Command):
    """Go on with a run that was stopped. Everything else is as the run started.

    Examples:
        senet train --resume runs/digits
        senet train --resume runs/digits --epochs 20
    """

    in_processes: ClassVar[Literal["train"]] = "train"
    resume: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """the run folder"""
    epochs: int | None = None
    """another number of epochs for the whole run"""
    max_seconds: float | None = None
    """another time for the whole run, with what it has taken so far"""
    patience: Annotated[int | None, tyro.conf.arg(name="selection.patience")] = None
    """to go on with a run that ended early"""
    max_drops: Annotated[int | None, tyro.conf.arg(name="schedule.max-drops")] = None
    """to go on with a run that ended early"""
    checkpoint_every: int | None = None
    """batches between saves within an epoch"""
    log_every: int | None = None
    """steps from line to line of steps.jsonl"""
    stall_minutes: float | None = None
    """minutes without a step after which stacks are written"""
    lost_minutes: float | None = None
    """minutes of silence on another machine after which the run ends"""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATASET")] = None
    """where the same data are now, if their folder was moved"""
    root: Annotated[Path | None, tyro.conf.arg(name="data.root")] = None
    """where the torchvision data sets are now"""
    num_workers: Annotated[int | None, tyro.conf.arg(name="data.num-workers")] = None
    """processes that read the data"""
    trackers: tuple[Tracker, ...] | None = None
    """other places for the metrics, which get those of all epochs"""

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Command:
        """Read which run goes on, and what changes.

        Raises:
            SenetError: an option that a run keeps.
        """
        kept = {option.flag for kind in (TrainConfig, DetectionConfig) for _, option in options(kind)}
        kept -= {option.flag for _, option in options(cls)}
        for word in argv:
            if flag_of(word) in kept:
                typed = word.partition("=")[0]
                raise SenetError(f"{typed} has no effect with --resume, for a run keeps its own; leave it out")
        return super().read(argv, prog)

    def run(self) -> None:
        """Train on, and say what can be done next."""
        with going_on_later(self.resume), run_shown() as progress:
            folder = resume(
                self.resume,
                epochs=self.epochs,
                max_seconds=self.max_seconds,
                patience=self.patience,
                max_drops=self.max_drops,
                checkpoint_every=self.checkpoint_every,
                log_every=self.log_every,
                stall_minutes=self.stall_minutes,
                lost_minutes=self.lost_minutes,
                dataset=self.data,
                root=self.root,
                num_workers=self.num_workers,
                trackers=self.trackers,
                progress=progress,
            )
            self.say_ending(folder)

    def say_ending(self, run: Path) -> None:
        """Say what can be done next."""
        say_next(run, RunFolder(run).read_config().task)


@contextmanager
def going_on_later(run: Path) -> Iterator[None]:
    """If a signal stops the run, print the command that resumes it and exit."""
    try:
        yield
    except TrainingInterrupted as interrupted:
        command = f"{launcher()}senet train --resume {shlex.quote(str(run))}"
        say(f"\nsenet: {interrupted}\n  {command}", console(stderr=True))
        raise SystemExit(128 + interrupted.signum) from None


def say_next(run: Path, task: str) -> None:
    """Say what can be done with a run that does a task."""
    quoted = shlex.quote(str(run))
    following = f"senet evaluate {quoted}\n  senet predict IMAGE --model {quoted}"
    if task == "detection":
        following = f"senet evaluate {quoted} --report page.html\n  senet predict {quoted} IMAGE --output drawn"
    say(f"The run is in {run}. Next:\n  {following}")


@dataclass(frozen=True, kw_only=True)
class AblateCommand(ByRecipe):
    """Train the variants of the paper's ablations, Tables 10 to 16, on any recipe, beside the paper's figures.

    What has been trained is not trained again: repeat the command to go on. Every field of the recipe can be set. Under
    torchrun each process trains whole runs, whoever is free the next one, so results do not depend on their number.

    Examples:
        senet ablate digits --tables 10 12 --seeds 5 --output runs/ablation
        senet ablate cifar10_short --epochs 10 --data FOLDER --output runs/ablation_cifar10
    """

    tables: tuple[int, ...] = tuple(TABLES)
    """numbers of tables"""
    seeds: int = 3
    """runs of each variant"""
    json: bool = False
    """print JSON instead of tables"""

    def run(self) -> None:
        """Train what is missing, and print all tables."""
        try:
            with run_shown(), lines_shown("senet.paper.ablation"):
                rows = reproduce_ablations(self.tables, self.config, self.output, seeds=self.seeds)
        except TrainingInterrupted as interrupted:
            say(f"\nsenet: {interrupted}; the same command goes on from here", console(stderr=True))
            raise SystemExit(128 + interrupted.signum) from None
        if self.json:
            print(json.dumps([asdict(row) for row in rows]))
            return
        for table in ablation_tables(rows):
            console().print(table)
            say()
        say(f"{self.output} holds the runs; the same command again prints this without training.")


def asked_in(config: Config, argv: Sequence[str]) -> Config:
    """Return the configuration with the command line's options marked as chosen, even if they equal the recipe's."""
    words = (word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--"))
    return config.asking({re.sub(r"\.no_(\w+)$", r".\1", word) for word in words})


def summary(described: object) -> str:
    """Return the first line of a docstring; nothing where there is none."""
    return (inspect.getdoc(described) or "").partition("\n")[0]
