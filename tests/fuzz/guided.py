"""Damage that is kept where it reaches lines of the library that none before has: libFuzzer, by atheris.

It runs in a process of its own for each reader, `python -m fuzz.guided READER SECONDS FILE SEED`, for libFuzzer ends
its process. The file gets the number of inputs and the findings.

Source: https://github.com/google/atheris, which `pip install --group fuzz` installs; Linux and CPython only.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from fuzz.damaged import MOST_BYTES, MOST_SECONDS, Tally

EVERY = 20
"""Inputs after which the numbers are written."""
LARGEST = 2**21
"""Most bytes of an input."""


def is_available() -> bool:
    """Return whether atheris is installed."""
    return find_spec("atheris") is not None


def guided(reader: str, seconds: float) -> Tally:
    """Read inputs for some time, and return what came of them."""
    with tempfile.TemporaryDirectory() as name:
        file, begun = Path(name, "found.json"), time.monotonic()
        paths = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        found: dict[str, Any] = {"inputs": 0, "refused": 0, "seconds": 0.0, "bytes": 0, "findings": []}
        while (left := seconds - (time.monotonic() - begun)) > 1 or not file.exists():
            seed = int(time.monotonic() - begun)
            done = subprocess.run(
                [sys.executable, "-m", "fuzz.guided", reader, str(int(max(left, 1))), str(file), str(seed)],
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
            now = json.loads(file.read_text()) if file.exists() else {}
            for key in ("inputs", "refused"):
                found[key] += now.get(key, 0)
            for key in ("seconds", "bytes"):
                found[key] = max(found[key], now.get(key, 0))
            found["findings"] += now.get("findings", [])
            if done.returncode == 0:
                break
            last = done.stderr.decode(errors="replace").strip()[
                -500:
            ]  # a crash, a hang or memory, and libFuzzer's report
            found["findings"].append(f"{reader}: libFuzzer ended with status {done.returncode}: {last!r}")
        return Tally(**found)


def main(reader: str, seconds: int, file: Path, seed: int) -> None:
    """Read inputs until the time is over."""
    import atheris

    with atheris.instrument_imports(include=["senet"]):
        from fuzz import worker
    from fuzz.mutations import damaged

    worker.settle()
    main_file = worker.READERS[reader].main
    valid = worker.seeds_of(reader)
    tally, told = Tally(), set[str]()

    def read(content: bytes) -> None:
        found = worker.read(reader, {**valid[0], main_file: content}, "guided", top)
        worker.emptied(top)
        tally.inputs += 1
        tally.refused += found["refused"]
        tally.seconds, tally.bytes = max(tally.seconds, found["seconds"]), max(tally.bytes, found["bytes"])
        for wrong in found["wrong"]:
            place = wrong.rpartition(" in ")[2]
            if place not in told:  # the same place is one finding
                told.add(place)
                kept = Path(tempfile.gettempdir()).parent / f"{reader.replace(' ', '_')}-{len(told)}"
                kept.write_bytes(content)
                tally.findings.append(f"{reader}: {wrong}")
        if tally.inputs % EVERY == 1 or found["wrong"]:
            file.write_text(json.dumps(vars(tally)))

    def mutate(content: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.5:
            return damaged(random, main_file, content)[:most]
        changed: bytes = atheris.Mutate(content, min(len(content) + 100, most))
        return changed

    with tempfile.TemporaryDirectory(prefix="guided") as name:
        top, corpus = Path(name, "top"), Path(name, "corpus")
        for folder in (top, corpus):
            folder.mkdir()
        worker.go_elsewhere(Path(name))
        inputs = [
            *valid,
            *(files for _, files in worker.crafted_of(reader, top / worker.CANARY) if not callable(files)),
        ]
        for number, files in enumerate(inputs):
            if main_file in files and len(files[main_file]) <= LARGEST:
                (corpus / str(number)).write_bytes(files[main_file])
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LARGEST}",
            f"-timeout={2 * MOST_SECONDS:.0f}",
            "-verbosity=0",
        ]
        options += [
            f"-rss_limit_mb={2 * MOST_BYTES >> 20}",
            f"-seed={seed + 1}",
            f"-artifact_prefix={name}/",
            str(corpus),
        ]
        atheris.Setup(["fuzz", *options], read, custom_mutator=mutate, enable_python_coverage=True)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
