"""Two processes that train in one folder, started at random moments: one trains, the other is refused."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reliability_commands import Command, Reference
from reliability_kills import brief, differing
from reliability_processes import Fault, Process
from reliability_results import Stage, Trial

REFUSALS = ("another process", "holds a run already")


def lock_trials(stage: Stage, names: list[str], number: int) -> Iterator[Trial]:
    """Start each command twice in one folder, so many times.

    Args:
        stage: where, and with what.
        names: of the commands.
        number: of trials of each.
    """
    for name in names:
        yield from stage.trials(name, number, two_at_once)


def two_at_once(command: Command, known: Reference, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Start a command twice; in half of the trials kill the one that goes on after the other's end, and start a third.

    Returns:
        How, and what is wrong.
    """
    kills = rng.random() < 0.5
    offset = rng.choice((0.0, rng.uniform(0, 0.1), rng.uniform(0, 0.8 * known.seconds)))
    with (
        Process(command.argv, folder) as first,
        Late(first, command, folder, offset) as second,
    ):
        while not (first.ends_within(0.01) or second.ends_within(0.01)):
            pass
        loser, winner = (first, second) if first.status is not None else (second, first)
        was_killed = False
        if kills and not winner.ends_within(rng.uniform(0, 0.4) * known.seconds):
            winner.kill()
            was_killed = True
        winner.wait()
        refused = [process for process in (loser, winner) if process.status == 2]
        problems = [
            f"the refused one says: {brief(process.said)}"
            for process in refused
            if not any(text in process.said for text in REFUSALS)
        ]
        statuses = [process.status for process in (first, second)]
        if len(refused) != 1 and not (statuses == [0, 0] and found_it_complete(second, known)):
            problems.append(f"statuses {statuses}: {brief(first.said)} / {brief(second.said)}")
    if was_killed and not problems:
        with Process(command.again(folder), folder) as third:
            if status := third.wait():
                problems.append(f"after the kill: status {status}: {brief(third.said)}")
    problems += [] if problems else differing(command, folder, known.content)
    return {"offset_s": round(offset, 3), "killed": was_killed, "problems": problems}


def found_it_complete(process: Process, known: Reference) -> bool:
    """Return whether a process that started after the other had ended has written next to nothing: all was there."""
    return process.watch.numbers[0] < known.operations / 4


class Late(Process):
    """A command that starts some time after another one.

    Args:
        first: the other one.
        command: what is started.
        folder: in which it works.
        offset: seconds after the start of the other one.
    """

    def __init__(self, first: Process, command: Command, folder: Path, offset: float) -> None:
        first.ends_within(offset - first.seconds)
        super().__init__(command.argv, folder, Fault())
