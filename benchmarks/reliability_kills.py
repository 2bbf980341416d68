"""Commands that are killed, once or several times: what they write then, beside what they write untouched."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reliability_commands import Command, Content, Reference, differences, names_of
from reliability_processes import PATIENCE_S, Fault, Process
from reliability_results import Stage, Trial, place_of

BEFORE_STEPS = ("starting", "computing", "resuming")
"""What a process that resumes a run is at before its first step; for one that starts a run these are its start."""
TRIES = 8
REFUSED = "another process"
LOST_WORKER = "a process that reads images failed"
"""What a command says that outlives the worker whose file grew beyond the size at which the system kills."""


def kill_trials(stage: Stage, names: list[str], number: int) -> Iterator[Trial]:
    """Kill each command so many times as asked, and go on with it until it ends.

    Args:
        stage: where, and with what.
        names: of the commands.
        number: of trials of each.
    """
    for name in names:
        yield from stage.trials(name, number, killed_and_resumed)


def killed_and_resumed(command: Command, known: Reference, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Kill a command at one to three moments, go on with it to its end, and compare what it has written."""
    kills: list[dict[str, Any]] = []
    wanted = rng.choice((1, 1, 2, 3))
    problems: list[str] = []
    for _ in range(TRIES):
        if len(kills) == wanted or (kills and command.is_complete(folder, known.content)):
            break
        with Process(command.again(folder), folder, fault := random_fault(known, rng, again=bool(kills))) as process:
            status = process.wait()
            lost_worker = status == 2 and fault.file_bytes is not None and LOST_WORKER in process.said
            if not process.was_killed and not lost_worker:
                if status:
                    problems.append(f"status {status}: {brief(process.said)}")
                    break
                if kills:
                    break
                shutil.rmtree(folder)  # it ended before its moment came
                folder.mkdir()
                continue
            kills.append(kill_of(process, fault, folder, resumed=bool(kills)))
        if command.is_whole and (folder / command.output).exists():
            problems += [f"half: {name}" for name in differing(command, folder, known.content)]
    problems += [] if problems else ended_problems(command, known.content, folder)
    return {"kills": kills, "problems": problems}


def random_fault(known: Reference, rng: random.Random, *, again: bool) -> Fault:
    """Draw how a process is killed: two in five at a moment, two in five at an operation on files, one in a write."""
    kind = rng.random()
    if kind < 0.4:
        share = rng.uniform(0, 0.3) if again and rng.random() < 0.5 else rng.uniform(0, 1)  # while it resumes
        return Fault(seconds=share * known.seconds)
    if kind < 0.8:
        return Fault(operation=rng.randint(1, known.operations), is_before=rng.random() < 0.5)
    return Fault(file_bytes=int(2 ** rng.uniform(6, max(known.largest, 128).bit_length())))


def kill_of(process: Process, fault: Fault, folder: Path, *, resumed: bool) -> dict[str, Any]:
    """Describe a kill: how, and what the process was at."""
    by_system = fault.file_bytes is not None
    how = "write" if by_system else "moment" if fault.operation is None else "operation"
    phase, _, operation = process.watch.phase.partition(": ")
    half = [name for name in names_of(folder) if name.endswith(".part") or ".part/" in name]
    if by_system or (how == "moment" and not operation and half):
        operation = "write"
    if resumed and phase in BEFORE_STEPS:
        phase = "resuming"
    after = f"{'before' if fault.is_before else 'after'} " if how == "operation" else ""
    return {"how": how, "phase": phase, "operation": after + operation, "after_s": round(process.seconds, 3)}


def ended_problems(command: Command, expected: Content, folder: Path) -> list[str]:
    """Go on with a command to its end unless it is complete, and return what is wrong then."""
    if command.is_complete(folder, expected):
        return []
    with Process(command.again(folder), folder) as process:
        if status := process.wait():
            return [f"status {status}: {brief(process.said)}"]
    return differing(command, folder, expected)


def differing(command: Command, folder: Path, expected: Content) -> list[str]:
    """Return what of a command's output differs, or why it cannot be read."""
    try:
        actual = command.content(folder)
    except Exception as error:  # whatever a damaged file raises
        return [f"unreadable: {type(error).__name__} {error}"[:200]]
    found = differences(actual, expected)
    if "files" in found:
        extra = sorted({*actual["files"]} - {*expected["files"]})
        missing = sorted({*expected["files"]} - {*actual["files"]})
        found[found.index("files")] = f"files (left over: {extra[:4]}, missing: {missing[:4]})"
    return found


def brief(said: str) -> str:
    """Return what a command says for itself in a few words, without the lines of its progress."""
    lines = [line for line in said.splitlines() if line.startswith("senet: ")] or said.splitlines()[-3:]
    return " ".join(lines)[-400:]


# ---- two processes under torchrun ------------------------------------------------------------------------------------


def torchrun_trials(stage: Stage, number: int) -> Iterator[Trial]:
    """Kill torchrun or one of its two processes at a moment, and go on by the same launcher."""
    name = "train, 2 processes"
    missing = list(stage.missing(name, number))
    if not missing:
        return
    command, whole = stage.ground.commands["train"], stage.ground.folder / "torchrun"
    seconds = stage.ground.once(launched, command, whole)
    expected = command.content(whole)
    for i in missing:
        rng = stage.random(name, i)
        with place_of(stage, f"torchrun{i}") as folder:
            yield Trial(name, i, killed_launch(command, folder, rng, seconds, expected))


def launch(command: Command, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a command in two processes by torchrun."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "senet"]
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen([*words, *command.again(folder)], cwd=folder, stdout=log, stderr=log)


def launched(command: Command, folder: Path) -> float:
    """Run a command in two processes to its end, and return the seconds; wait for what a kill may have left running.

    Raises:
        RuntimeError: it fails.
    """
    log = folder.parent / f"{folder.name}.log"
    for _ in range(30):
        before, started = log.stat().st_size if log.exists() else 0, time.monotonic()
        if launch(command, folder).wait(PATIENCE_S) == 0:
            return time.monotonic() - started
        said = log.read_text(errors="replace")[before:]
        if REFUSED not in said:
            break
        time.sleep(2)
    raise RuntimeError(brief(said))


def killed_launch(
    command: Command, folder: Path, rng: random.Random, seconds: float, expected: Content
) -> dict[str, Any]:
    """Kill one of three processes at a moment of its run, and go on to the end."""
    process, kills = launch(command, folder), []
    time.sleep(rng.uniform(0.5, 1) * seconds)  # before, its processes import packages
    family = {"torchrun": process.pid} | {f"process {i}": pid for i, pid in enumerate(children(process.pid))}
    victim = rng.choice(list(family))
    if process.poll() is None:
        os.kill(family[victim], signal.SIGKILL)
        begun = (folder / "run" / "steps.jsonl").exists()
        kills.append({"how": "moment", "phase": f"{victim}, {'training' if begun else 'starting'}", "operation": ""})
    process.wait(PATIENCE_S)
    try:
        launched(command, folder)
    except RuntimeError as error:
        return {"kills": kills, "problems": [str(error)]}
    return {"kills": kills, "problems": differing(command, folder, expected)}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
