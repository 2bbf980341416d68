"""The results of `reliability.py`: each trial is in the file as soon as it is over, and is not made again."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from reliability_commands import Command, Reference, commands, reference, write_pictures
from report import about

Found = TypeVar("Found")
PACKAGES = ("torch", "safetensors", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Trial:
    """What came of one trial.

    Args:
        kind: of what, such as a command.
        number: of the trials of this kind, from 0.
        found: for JSON; "problems" lists what is wrong.
    """

    kind: str
    number: int
    found: dict[str, Any]


class Results:
    """What is known so far, and the file that always holds all of it.

    Args:
        path: of the JSON file; trials in it that the same machine, versions and seed have made are kept.
        seed: of all that is random.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.about = {**about(PACKAGES), "command": "python benchmarks/reliability.py", "seed": seed}
        self.parts: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.facts: dict[str, Any] = {}
        before = json.loads(path.read_text()) if path.exists() else {}
        if all(before.get(key) == json.loads(json.dumps(self.about[key])) for key in ("machine", "versions", "seed")):
            self.parts, self.facts = before["parts"], before["facts"]

    def of(self, part: str, kind: str) -> list[dict[str, Any]]:
        """Return the trials of a kind."""
        return self.parts.setdefault(part, {}).setdefault(kind, [])

    def write(self) -> None:
        """Replace the file by what is known now, a line for each trial."""
        parts = [
            f' "{part}": {{\n'
            + ",\n".join(
                f"  {json.dumps(kind)}: [\n   " + ",\n   ".join(map(json.dumps, trials)) + "\n  ]"
                for kind, trials in kinds.items()
            )
            + "\n }"
            for part, kinds in self.parts.items()
        ]
        head = json.dumps({**self.about, "facts": self.facts}, indent=1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}.part")
        beside.write_text(f'{head[:-2]},\n "parts": {{\n' + ",\n".join(parts) + "\n }\n}\n")
        beside.replace(self.path)


class Ground:
    """What all parts share: the pictures, the commands, and what these do if nothing happens to them.

    Args:
        folder: for files; empty.
        times: that each command runs untouched, so that it is seen to repeat itself.
    """

    def __init__(self, folder: Path, times: int = 2) -> None:
        self.folder, self.times, self.known = folder, times, dict[str, Reference]()
        self.done: dict[Any, Any] = {}
        self.pictures = write_pictures(folder / "pictures")
        self.commands = commands(self.pictures, folder / "train" / "untouched0" / "run")

    def once(self, function: Callable[..., Found], *args: Any) -> Found:
        """Call a function at the first time, and return what it returned at any other."""
        if function not in self.done:
            self.done[function] = function(*args)
        return cast(Found, self.done[function])

    def reference(self, name: str) -> Reference:
        """Return what a command does if nothing happens to it; the others need the run that the first one trains."""
        for needed in dict.fromkeys(("train", name)):
            if needed not in self.known:
                self.known[needed] = reference(self.commands[needed], self.folder / needed, self.times)
        return self.known[name]


@dataclass(frozen=True)
class Stage:
    """Where a part of the benchmark takes place.

    Args:
        part: its name.
        ground: what it shares with the others.
        results: where its trials go.
        seed: of all that is random.
    """

    part: str
    ground: Ground
    results: Results
    seed: int

    def known(self, name: str) -> tuple[Command, Reference]:
        """Return a command, and what it does if nothing happens to it."""
        return self.ground.commands[name], self.ground.reference(name)

    def is_ready(self, name: str) -> bool:
        """Return whether a command works if nothing happens to it; note why not."""
        fact = f"{self.part}, {name}"
        try:
            self.known(name)
        except (RuntimeError, TimeoutError) as error:
            self.results.facts[fact] = str(error)
            print(f"{fact}: left out: {error}", flush=True)
            return False
        self.results.facts.pop(fact, None)
        return True

    def random(self, kind: str, number: int) -> random.Random:
        """Return a random generator for a trial, the same at each start of the benchmark."""
        return random.Random(f"{self.seed} {self.part} {kind} {number}")

    def missing(self, kind: str, number: int) -> Iterator[int]:
        """Yield the numbers of the trials of a kind that are still to be made."""
        done = {trial["trial"] for trial in self.results.of(self.part, kind)}
        yield from (i for i in range(number) if i not in done)

    def trials(self, name: str, number: int, attempt: Callable[..., dict[str, Any]]) -> Iterator[Trial]:
        """Yield the trials of a command that are still to be made; none if it does not work untouched.

        Args:
            name: of the command.
            number: of trials.
            attempt: (command, reference, empty folder, random generator) -> what is found.
        """
        for i in self.missing(name, number):
            if not self.is_ready(name):
                break
            with place_of(self, f"{name}{i}") as folder:
                yield Trial(name, i, attempt(*self.known(name), folder, self.random(name, i)))

    def add(self, trial: Trial, seconds: float) -> None:
        """Note a trial, and print a line about it."""
        found = {"trial": trial.number, **trial.found, "seconds": round(seconds, 2)}
        self.results.of(self.part, trial.kind).append(found)
        self.results.write()
        rest = {name: value for name, value in found.items() if name not in ("trial", "problems", "seconds")}
        wrong, more = "; ".join(found.get("problems", [])) or "good", json.dumps(rest)[:300]
        print(f"{self.part}: {trial.kind} {trial.number}: {wrong} ({seconds:.1f} s) {more}", flush=True)


@contextmanager
def place_of(stage: Stage, name: str) -> Iterator[Path]:
    """Yield a new folder for a trial, and remove it at the end."""
    folder = stage.ground.folder / "trials" / name.replace(" ", "_").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def carry_out(stage: Stage, trials: Iterator[Trial]) -> int:
    """Make trials, note each when it is over, and return how many found problems."""
    wrong, started = 0, time.monotonic()
    for trial in trials:
        now = time.monotonic()
        stage.add(trial, now - started)
        started = now
        wrong += bool(trial.found.get("problems"))
    return wrong
