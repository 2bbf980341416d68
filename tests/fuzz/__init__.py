"""Inputs that people's disks and hands produce, made at random, and what must hold of the commands that take them.

A case is made from (seed, number) alone, so a finding is repeated by these two:

    PYTHONPATH=tests python -m fuzz --count 1000 --seed 0
    PYTHONPATH=tests python -m fuzz --seed 0 --only 17
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType

from fuzz import checkpoints, commands, folders, images
from fuzz.judge import Case, judge

MAKERS: Mapping[str, Callable[[Random, Path], Case]] = MappingProxyType(
    {"image": images.make, "checkpoint": checkpoints.make, "folder": folders.make, "command": commands.make}
)


def finding(seed: int, number: int) -> str:
    """Make one case in a folder of its own and run it.

    Returns:
        One line that says what is wrong, empty if nothing is.
    """
    kind = list(MAKERS)[number % len(MAKERS)]
    random = Random(f"{seed}/{number}")
    with TemporaryDirectory(prefix="fuzz") as folder:
        case = MAKERS[kind](random, Path(folder))
        wrong = judge(case, Path(folder), in_process=random.random() > 0.01)
    return f"seed {seed}, case {number}, {kind}: {case.about}: {wrong}" if wrong else ""
