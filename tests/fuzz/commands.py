"""Command lines with the mistakes of hands, for every subcommand."""

import contextlib
import io
import re
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image

import senet
from fuzz.folders import filled, network
from fuzz.judge import Case
from fuzz.pictures import pixels
from senet.cli import main
from senet.configs import to_dict
from senet.files import write_json
from senet.recipes import get_recipe

CLASSES = ("bar", "loop", "rod")
TRAIN = ("--data", "data", "--epochs", "1", "--batch-size", "8")
SMALL = ("--data.preprocessing.image-size", "8", "--data.preprocessing.resize", "8")
COMMANDS: dict[str, tuple[str, ...]] = {
    "predict": ("x.png", "y.png", "--model", "model", "--top", "2"),
    "evaluate": ("model", "--data", "data", "--batch-size", "4"),
    "runs": ("done", "--by", "top1"),
    "models": ("cifar_se_resnet20",),
    "convert": ("cifar_se_resnet20", "model", "--output", "new"),
    "insert": ("plain", "--output", "new", "--reduction", "8"),
    "record": ("model", "--data", "data", "--output", "gates.safetensors"),
    "explain": ("model", "--data", "data", "--output", "page.html", "--no-knockout"),
    "prune": ("model", "--output", "new", "--data", "data", "--blocks", "SE_4_3"),
    "ablate": ("digits", "--tables", "12", "--seeds", "1", *TRAIN, *SMALL, "--output", "runs"),
    "train": ("digits", *TRAIN, *SMALL, "--output", "run"),
    "demo": ("--epochs", "1", "--output", "demo"),
}
"""A small example of each that works."""
VALUES = (
    *("", "-1", "0", "1.5", "-0.1", "1e400", "nan", "x", "9" * 30, "99999999", "3,4", "None", "True"),
    *("[red]", "ä", "nowhere", "a b", "\\", "x.png", "data", "."),
)
ENDLESS = ("--epochs", "--seeds", "--regularization.freeze-bn-epochs")
"""Options with which a large number is right, and takes forever."""
SLOW = ("--compute.compile",)
PLACES = ("argument", "RECIPE", "recipe", "RUN_OR_MODEL", "MODEL", "NAME", "SOURCE", "IMAGE", "model", "image")
"""What a message calls words that have no flag."""
FLAGS = ("--nope", "-z", "--js", "--output-folder", "--=", "---", "--json=maybe", "--top", "--weigths", "--data.datset")


def with_an_unknown_flag(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """A flag that does not exist."""
    flag = random.choice(FLAGS)
    at = random.randrange(len(words) + 1)
    return [*words[:at], flag, *words[at:]], "either", (flag, flag.split("=")[0], *words, "argument")


def without_a_value(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """A flag whose value is missing, at the end or before another flag."""
    flags = [i for i, word in enumerate(words[:-1]) if word.startswith("--") and not words[i + 1].startswith("--")]
    if not flags:
        return with_an_unknown_flag(words, random)
    at = random.choice(flags)
    return [word for i, word in enumerate(words) if i != at + 1], "either", (words[at], *words)


def with_another_value(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """Another value, of a wrong type or out of range."""
    at = random.choice([i for i, word in enumerate(words) if not word.startswith("--")])
    flag = words[at - 1] if at else words[0]
    value = value_for(flag, random)
    return [*words[:at], value, *words[at + 1 :]], "either", (*called(flag, value), words[at], *PLACES)


def value_for(flag: str, random: Random) -> str:
    """Return a value of any kind, but none that lasts."""
    value = random.choice(VALUES)
    return "1" if flag in ENDLESS and value.startswith("999") else value


def called(flag: str, value: str) -> tuple[str, ...]:
    """Return what a message may call an option."""
    key = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    return flag, key, key.rpartition(".")[2], value or "''"


@cache
def options(command: str, recipe: str = "digits") -> tuple[str, ...]:
    """Return the options that a command's help lists; of some commands, for a recipe."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        main([command, *([recipe] if command in ("train", "ablate") else []), "--help"])
    found = set(re.findall(r"(--[a-z][\w.-]+)", said.getvalue()))
    return tuple(sorted(found - {"--help", *SLOW}))


def with_any_option(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """An option that the command has, with a value of any kind."""
    command = next(name for name, example in COMMANDS.items() if list(example) == words)
    option = random.choice(options(command))
    value = value_for(option, random)
    return [*words, option, value], "either", (*called(option, value), *PLACES)


def in_another_order(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """The words in another order."""
    return random.sample(words, len(words)), "either", (*words, *PLACES)


def twice(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """A word more than once."""
    word = random.choice(words)
    return [*words, word], "either", (word, *words, "argument")


def cut(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """The first words only."""
    return (
        words[: random.randrange(len(words))],
        "either",
        (*words, *PLACES),
    )


def as_it_should_be(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """No mistake."""
    return words, "done", ()


def asking_for_help(words: list[str], random: Random) -> tuple[list[str], str, tuple[str, ...]]:
    """--help among other words."""
    at = random.randrange(len(words) + 1)
    return [*words[:at], random.choice(("--help", "-h")), *words[at:]], "either", (*words, "argument")


MISTAKES = (
    *(with_an_unknown_flag, without_a_value, with_another_value, with_any_option, with_any_option, with_any_option),
    *(in_another_order, twice, cut, as_it_should_be, asking_for_help),
)
LONG = {"demo": (with_an_unknown_flag,), "ablate": (with_an_unknown_flag, with_another_value, as_it_should_be)}
"""Commands that take long where they work, and the mistakes that are made in them."""


def write_run(folder: Path) -> None:
    """Write the folder of a run of one epoch, without its networks."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", to_dict(get_recipe("digits")))
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "top1": 50.0, "loss": 1.0, "train_loss": 2.0, "lr": 0.1}\n')


def make(random: Random, folder: Path) -> Case:
    """Make what the examples need, and call one with a mistake."""
    for name in ("train", "val"):
        filled(folder / "data" / name, CLASSES, random)
    for name in ("x.png", "y.png"):
        Image.fromarray(pixels(random)).save(folder / name)
    senet.save_pretrained(network(CLASSES), folder / "model")
    senet.save_pretrained(senet.create_model("cifar_resnet20"), folder / "plain")
    write_run(folder / "done" / "one")
    command = random.choice(list(COMMANDS))
    mistake = random.choice(LONG.get(command, MISTAKES))
    words, expected, names = mistake(list(COMMANDS[command]), random)
    argv = [command, *words]
    return Case(about=" ".join(argv), argv=argv, names=names, expected=expected)
