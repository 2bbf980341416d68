"""Disks that fill up: commands on a small tmpfs, which is made larger afterwards so that they can go on. Needs root."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reliability_commands import Command, Reference
from reliability_kills import brief, differing
from reliability_processes import Process
from reliability_results import Stage, Trial

COMMANDS = {"train": 16, "finetune": 10, "shard": 10, "record": 7, "export, file": 7}
"""How many of the 50 trials each command has."""
PAGE = 4096
BYSTANDER = "other.txt"


def cannot_mount() -> str:
    """Return why no tmpfs can be mounted here; empty if it can."""
    if os.geteuid():
        return "mounting a tmpfs needs root"
    return ""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a tmpfs of some bytes on a folder until the block ends."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_trials(stage: Stage, share: float) -> Iterator[Trial]:
    """Run each command on disks of random sizes, some of which are large enough.

    Args:
        stage: where, and with what.
        share: of the trials in `COMMANDS`.
    """
    if reason := cannot_mount():
        stage.results.facts["disks"] = reason
        print(f"disks: skipped, for {reason}", flush=True)
        return
    for name, number in COMMANDS.items():
        yield from stage.trials(name, max(1, round(number * share)), on_small_disk)


def on_small_disk(command: Command, known: Reference, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Run a command on a disk that may be too small; make it larger, and go on.

    The disk holds a file of somebody else, and for a command that replaces its output an earlier one.
    """
    size = PAGE * (2 + int(rng.uniform(0.02, 1.05) * (known.total + known.largest) / PAGE))
    problems: list[str] = []
    with small_disk(folder, size):
        other = folder / BYSTANDER
        other.write_text("somebody else's\n")
        with Process(command.argv, folder) as process:
            status, said = process.wait(), process.said
        left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.part"))
        problems += refusal_problems(status, said)
        problems += [f"left over: {left[:3]}"] if left else []
        problems += [] if other.read_text() == "somebody else's\n" else ["another file is changed"]
        if command.is_whole and status and (folder / command.output).exists():
            problems.append("half of an output is left")
        subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
        if status and not problems:
            with Process(command.again(folder), folder) as process:
                if again := process.wait():
                    problems.append(f"then status {again}: {brief(process.said)}")
        other.unlink()
        problems += [] if problems else differing(command, folder, known.content)
    return {"kilobytes": size // 1024, "status": status, "said": brief(said) if status else "", "problems": problems}


def refusal_problems(status: int, said: str) -> list[str]:
    """Return what is wrong with the ending of a command that had too small a disk."""
    sentences = [line for line in said.splitlines() if line.startswith("senet: ")]
    if status not in (0, 2):
        return [f"status {status}: {said[-300:]}"]
    if status and (len(sentences) != 1 or "Traceback" in said):
        return [f"{len(sentences)} sentences: {said[-300:]}"]
    return []
