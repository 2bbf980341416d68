"""A process that reads damaged files as it is told on standard input; a line of JSON in and out."""

import gc
import json
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from fuzz.damaged import MOST_BYTES
from fuzz.guard import executable_maps, fault_of, forget_peak, listing, memory, watching
from fuzz.judge import one_line
from fuzz.mutations import Files, mutated
from fuzz.readers import OUT, READERS

INPUT, CANARY = "input", "canary"
LOADS = ("ONNX", "OpenVINO", "torch.export")
"""Readers in whose folders a program could be loaded."""


ELSEWHERE: list[str] = []
"""The folders for temporary files and of the cache, which any command may write into."""


@cache
def seeds_of(name: str) -> list[Files]:
    """Return valid inputs of a reader."""
    return list(READERS[name].seeds())


@cache
def crafted_of(name: str, canary: Path) -> list[tuple[str, Any]]:
    """Return inputs of a reader that are bad on purpose."""
    return list(READERS[name].bad(canary).items())


def made(name: str, seed: int, number: int, canary: Path) -> tuple[str, Files]:
    """Return an input by its number: first the valid ones, then those that are bad on purpose, then damaged ones."""
    good, bad = seeds_of(name), crafted_of(name, canary)
    if number < len(good):
        return "valid", good[number]
    if number < len(good) + len(bad):
        about, files = bad[number - len(good)]
        return about, files() if callable(files) else files
    random = Random(f"{name}/{seed}/{number}")
    ready = [files for _, files in bad if not callable(files)]
    start = random.choice(ready) if ready and random.random() < 0.2 else random.choice(good)
    return mutated(random, start, READERS[name].main)


def read(name: str, files: Files, about: str, top: Path) -> dict[str, Any]:
    """Read an input in a folder of its own; return what is wrong, and what it took."""
    folder, out = top / INPUT, top / OUT
    for each in (folder, out):
        each.mkdir()
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    before, wrong, error = listing(folder), [], None
    gc.collect()
    forget_peak()
    resident, started = memory("VmRSS"), time.process_time()
    with watching(folder, (out, *map(Path, ELSEWHERE))) as watch:
        try:
            READERS[name].read(folder, out)
        except BaseException as raised:  # whatever leaves a reader is judged
            error = raised
    seconds, peak = time.process_time() - started, max(0, memory("VmHWM") - resident)
    if error is not None:
        names = (*(Path(path).name for path in files), str(folder), "config", "data.", *READERS)
        wrong.append(fault_of(error, names))
    if about == "valid" and error is not None:
        wrong.append(f"a valid input is refused: {error}")
    wrong += watch.found
    if peak > MOST_BYTES:
        wrong.append(f"took {peak / 2**30:.1f} GiB")
    if (top / CANARY).exists():
        wrong.append("ran its code")
        (top / CANARY).rmdir()
    changed = sorted(set(listing(folder).items()) ^ set(before.items()))
    wrong += [f"changed {changed[0][0]}"] if changed else []
    others = {each.name for each in top.iterdir()} - {INPUT, OUT}
    wrong += [f"made {min(others)}"] if others else []
    wrong += [f"loaded {each}" for each in (executable_maps(folder) if name in LOADS else ())]
    found = [one_line(each) for each in wrong if each]
    return {"wrong": found, "refused": error is not None, "seconds": seconds, "bytes": peak}


def emptied(top: Path) -> None:
    """Remove what an input has left."""
    for each in top.iterdir():
        shutil.rmtree(each, ignore_errors=True) if each.is_dir() and not each.is_symlink() else each.unlink()


def settle() -> None:
    """Let the readers run as they do in a command, but silently."""
    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (4 * MOST_BYTES, 4 * MOST_BYTES))  # whoever started this ends it before


def go_elsewhere(folder: Path) -> None:
    """Have temporary files and the library's cache in a folder."""
    for variable in ("SENET_CACHE", "TMPDIR"):
        ELSEWHERE.append(str(folder / variable))
        os.environ[variable] = ELSEWHERE[-1]
        Path(ELSEWHERE[-1]).mkdir()
    tempfile.tempdir = None  # read TMPDIR again


def warm(name: str, top: Path) -> None:
    """Make the valid inputs of a reader, and read them once: what that imports and compiles is no input's."""
    crafted_of(name, top / CANARY)
    for files in seeds_of(name):
        read(name, files, "warm", top)
        emptied(top)


def main() -> None:
    """Answer each line until there are no more."""
    settle()
    answers, sys.stdout = sys.stdout, sys.stderr

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        go_elsewhere(Path(name))
        top = Path(name) / "top"
        top.mkdir()
        for line in sys.stdin:
            asked = json.loads(line)
            if "warm" in asked:
                warm(asked["warm"], top)
                say({"ready": True})
                continue
            about, files = made(asked["reader"], asked["seed"], asked["number"], top / CANARY)
            say({"about": about})  # from here on its time counts
            say(read(asked["reader"], files, about, top))
            emptied(top)


if __name__ == "__main__":
    main()
