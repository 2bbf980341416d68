"""`senet train | ablate`."""

import inspect
import json
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Self

import tyro

from senet.cli.parsing import Command, parse
from senet.cli.processes import launcher
from senet.errors import SenetError
from senet.paper.ablation import TABLES, ablate, tables_of
from senet.recipes import RECIPES, get_recipe
from senet.terminal import console, say
from senet.training.config import TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import train

RECIPE_TEXT = """\
usage: {prog} RECIPE --output DIR [...]

{description}

Recipes:
{recipes}

`{prog} RECIPE --help` lists every field of the configuration.
"""


@dataclass(frozen=True, kw_only=True)
class ByRecipe(Command):
    """A command that trains: its first word names a recipe, whose values are those of the options left out."""

    output: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """the folder of what is trained"""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")]

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Read a recipe's name, and the arguments after it.

        Raises:
            SenetError: the recipe is missing or unknown.
            SystemExit: `--help` was printed.
        """
        if argv and argv[0] in ("-h", "--help"):
            recipes = "\n".join(f"  {name:<26} {summary(RECIPES[name])}" for name in RECIPES)
            print(RECIPE_TEXT.format(prog=prog, description=inspect.getdoc(cls), recipes=recipes), end="")
            raise SystemExit(0)
        if not argv or argv[0].startswith("-"):
            raise SenetError(f"the recipe is missing; `{prog} --help` lists them")
        name = argv[0]
        default = cls(output=tyro.MISSING, config=get_recipe(name))
        command = parse(
            cls, argv[1:], f"{prog} {name}", default=default, description=cls.described(inspect.getdoc(RECIPES[name]))
        )
        return replace(command, config=asked_in(command.config, argv))

    @classmethod
    def described(cls, recipe: str | None) -> str:
        """Return what `--help` says first, given the recipe's docstring."""
        return recipe or ""


@dataclass(frozen=True, kw_only=True)
class TrainCommand(ByRecipe):
    """Train a network by a recipe."""

    resume: bool = False
    """go on where the run in --output was stopped"""

    def run(self) -> None:
        """Train, and say what can be done next."""
        try:
            folder = train(self.config, self.output, resume=self.resume)
        except TrainingInterrupted as interrupted:
            again = shlex.join(word for word in sys.argv[1:] if word != "--resume")
            say(f"\nsenet: {interrupted}\n  {launcher()}senet {again} --resume", console(stderr=True))
            raise SystemExit(128 + interrupted.signum) from None
        quoted = shlex.quote(str(folder))
        say(f"The run is in {folder}. Next:\n  senet evaluate {quoted}\n  senet predict IMAGE --model {quoted}")


@dataclass(frozen=True, kw_only=True)
class AblateCommand(ByRecipe):
    """Train the variants of the paper's ablations, Tables 10 to 16, on any recipe, beside the paper's figures.

    What has been trained is not trained again: repeat the command to go on. Every field of the recipe can be set.

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

    @classmethod
    def described(cls, recipe: str | None) -> str:
        """Return this command's own docstring, then the recipe's."""
        return f"{inspect.getdoc(cls)}\n\nThe recipe: {recipe}"

    def run(self) -> None:
        """Train what is missing, and print all tables."""
        try:
            rows = ablate(self.tables, self.config, self.output, seeds=self.seeds)
        except TrainingInterrupted as interrupted:
            say(f"\nsenet: {interrupted}; the same command goes on from here", console(stderr=True))
            raise SystemExit(128 + interrupted.signum) from None
        if self.json:
            print(json.dumps([asdict(row) for row in rows]))
            return
        for table in tables_of(rows):
            console().print(table)
            say()
        say(f"{self.output} holds the runs; the same command again prints this without training.")


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


def summary(described: object) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(described) or "").splitlines()[0]
