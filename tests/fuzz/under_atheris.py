"""Damage guided by coverage, see `fuzz.guided`: `python tests/fuzz/under_atheris.py READER SECONDS FILE SEED`.

The file gets the number of inputs and the findings. Nothing of the library is imported before atheris watches imports.
"""

import json
import sys
import tempfile
from pathlib import Path
from random import Random

EVERY = 20
"""Inputs after which the numbers are written."""
LARGEST = 2**21
"""Most bytes of an input."""


def main(reader: str, seconds: int, file: Path, seed: int) -> None:
    """Read inputs until the time is over."""
    import atheris

    with atheris.instrument_imports(include=["senet"]):
        from fuzz import worker
    from fuzz.damaged import MOST_BYTES, MOST_SECONDS, Tally
    from fuzz.mutations import damaged

    worker.settle()
    keeping = Path(tempfile.gettempdir(), "senet-fuzz", reader)
    keeping.mkdir(parents=True, exist_ok=True)
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
                kept = keeping / f"{seed}-{len(told)}-{Path(main_file).name}"
                kept.write_bytes(content)
                tally.findings.append(f"{reader}: {wrong}; {kept} is the input")
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
    sys.path.pop(0)  # this file's folder, whose names are those of modules in a package
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
