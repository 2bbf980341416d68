"""Flipped bits in weights and training states: whether the command that reads them finds them."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reliability_commands import Content
from reliability_kills import brief, differing
from reliability_processes import Fault, Process
from reliability_results import Stage, Trial, place_of

FILES = {"best/model.safetensors": "evaluate", "last/model.safetensors": "evaluate", "last/training_state.pt": "resume"}
"""Files of a run, and what reads them."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A run that was stopped in the middle, and what the commands do with it undamaged.

    Args:
        run: its folder.
        said: by `senet evaluate` of the network in each folder.
        ended: what the run holds once it has gone on to its end.
    """

    run: Path
    said: dict[str, str]
    ended: Content


def bit_trials(stage: Stage, number: int) -> Iterator[Trial]:
    """Flip one bit in each file of a run, so many times."""
    missing = {name: list(stage.missing(name, number)) for name in FILES}
    if not any(missing.values()):
        return
    stopped = stage.ground.once(stopped_run, stage)
    for name, numbers in missing.items():
        for i in numbers:
            rng = stage.random(name, i)
            with place_of(stage, f"flipped{i}") as folder:
                shutil.copytree(stopped.run, folder / "run")
                yield Trial(name, i, flipped(stage, stopped, folder, name, rng))


def stopped_run(stage: Stage) -> Stopped:
    """Train a run half, and note what becomes of it."""
    command, known = stage.known("train")
    folder = stage.ground.folder / "stopped"
    folder.mkdir(parents=True)
    with Process(command.argv, folder, Fault(operation=round(0.8 * known.operations))) as process:
        process.wait()
    said = {}
    for name in ("best", "last"):
        with Process(evaluation(stage, Path("run") / name), folder) as process:
            if process.wait():
                raise RuntimeError(process.said)
            said[name] = process.said
    return Stopped(run=folder / "run", said=said, ended=known.content)


def evaluation(stage: Stage, model: Path) -> list[str]:
    """Return the arguments that evaluate a network."""
    return ["evaluate", str(model), "--data", str(stage.ground.pictures), "--json"]


def flipped(stage: Stage, stopped: Stopped, folder: Path, name: str, rng: random.Random) -> dict[str, Any]:
    """Flip one bit of a file, and see what the command says that reads it."""
    path = folder / "run" / name
    content = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    command, _ = stage.known("train")
    is_state = FILES[name] == "resume"
    model = Path("run") / name.partition("/")[0]
    with Process(command.again(folder) if is_state else evaluation(stage, model), folder) as process:
        status, said = process.wait(), process.said
    if status == 0:
        same = (
            not differing(command, folder, stopped.ended)
            if is_state
            else figures(said) == figures(stopped.said[model.name])
        )
        outcome = "missed" if not same else "named, state before taken" if path.name in said else "harmless"
    elif status == 2 and sum(line.startswith("senet: ") for line in said.splitlines()) == 1:
        outcome = "named" if path.name in said or str(model) in said else "refused"
    else:
        outcome = "other"
    problems = [f"{outcome}: {brief(said)}"] if outcome in ("missed", "other") else []
    return {"bit": bit, "of": 8 * len(content), "outcome": outcome, "problems": problems}


def figures(said: str) -> str:
    """Return what an evaluation says, but for times."""
    return ",".join(part for part in said.split(",") if "seconds" not in part and '_s"' not in part)
