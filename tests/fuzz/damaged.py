"""Damaged files through every reader, in a process of its own that is ended where it hangs and started again."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from typing import Any

MOST_SECONDS = 10.0
"""Most processor time for an input; twenty times as much by the clock, for a machine that is busy."""
START_SECONDS = 600.0
MODULE = "fuzz.worker"
"""What the process runs."""
MOST_BYTES = 2 * 2**30
"""Most memory that an input may take."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Tally:
    """What came of the inputs of a reader.

    Args:
        inputs: how many there were.
        refused: how many of them ended in one sentence.
        seconds: of the slowest.
        bytes: of the one that took most.
        findings: a line each.
    """

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    bytes: int = 0
    findings: list[str] = field(default_factory=list)


class Worker:
    """A process that reads inputs, see `fuzz.worker`; it is started when it is first needed, and after it was ended."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.warm: set[str] = set()

    def make_ready(self, reader: str) -> None:
        """Start the process if there is none, and let it read the valid inputs of a reader."""
        if self.process is None:
            paths = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
            self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # the process writes into it
            self.process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                bufsize=1,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )
            self.warm = set()
        if reader not in self.warm:
            self.tell({"warm": reader})
            answer = self.answer(START_SECONDS)
            if not answer.get("ready"):
                raise RuntimeError(f"the valid inputs of {reader} cannot be read: {answer}")
            self.warm.add(reader)

    def tell(self, asked: dict[str, Any]) -> None:
        """Ask the process for something."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def answer(self, most: float) -> dict[str, Any]:
        """Return the next line of the process; what ended it, if it ends or takes too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        begun, spent, resident = time.monotonic(), self.spent(), self.resident()
        while not select([self.process.stdout], [], [], 0.1)[0]:
            if self.spent() - spent > most or time.monotonic() - begun > 20 * most:
                self.end()
                return {"wrong": [f"hangs: more than {most:.0f} s"]}
            if most == MOST_SECONDS and self.resident() - resident > MOST_BYTES:
                self.end()
                return {"wrong": [f"takes more than {MOST_BYTES / 2**30:.0f} GiB"], "bytes": MOST_BYTES}
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip()[-300:]
            self.end()
            return {"wrong": [f"ended the process with status {status}: {said!r}"]}
        found: dict[str, Any] = json.loads(line)
        return found

    def spent(self) -> float:
        """Return the processor time of the process in seconds."""
        assert self.process is not None
        try:
            words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            return 0.0
        return (int(words[11]) + int(words[12])) / TICKS

    def resident(self) -> int:
        """Return the memory of the process in bytes."""
        assert self.process is not None
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except OSError:  # it has ended
            return 0

    def read(self, reader: str, seed: int, number: int) -> dict[str, Any]:
        """Have an input read."""
        self.make_ready(reader)
        self.tell({"reader": reader, "seed": seed, "number": number})
        made = self.answer(START_SECONDS)
        return made if "wrong" in made else made | self.answer(MOST_SECONDS)

    def end(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def tried(readers: Iterable[str], seed: int, numbers: range) -> Iterator[tuple[str, Tally]]:
    """Have inputs read, those with the same numbers by each reader; yield what came of them by reader."""
    worker = Worker()
    try:
        for reader in readers:
            tally = Tally()
            for number in numbers:
                found = worker.read(reader, seed, number)
                tally.inputs += 1
                tally.refused += bool(found.get("refused"))
                tally.seconds = max(tally.seconds, found.get("seconds", 0.0))
                tally.bytes = max(tally.bytes, found.get("bytes", 0))
                name = f"{reader}, seed {seed}, input {number} ({found.get('about', 'not made')})"
                tally.findings += [f"{name}: {wrong}" for wrong in found["wrong"]]
            yield reader, tally
    finally:
        worker.end()
