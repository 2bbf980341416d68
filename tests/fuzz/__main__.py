"""Run cases and print what is wrong, a line each; the exit status is 1 if anything is."""

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fuzz import MAKERS, finding
from fuzz.damaged import MOST_BYTES, MOST_SECONDS, tried
from fuzz.guided import guided, is_available
from fuzz.readers import READERS
from report import processor_name

RECORDED = ("torch", "safetensors", "pillow", "pyarrow", "onnxruntime", "openvino", "pyyaml", "protobuf", "atheris")
"""Packages that read files, whose versions are written down."""


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases")
    parser.add_argument("--seed", type=int, default=0, help="of all cases")
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--kind", choices=tuple(MAKERS), help="cases of one kind alone")
    parser.add_argument("--damaged", type=int, metavar="N", help="instead: N damaged files through each reader")
    parser.add_argument(
        "--guided", type=float, default=0, metavar="SECONDS", help="as well, by atheris, so long for all readers"
    )
    parser.add_argument("--reader", choices=tuple(READERS), action="append", help="damaged files of these alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers of damaged files go")
    asked = parser.parse_args()
    if asked.damaged is not None:
        return of_damaged_files(asked)
    numbers = range(asked.count) if asked.only is None else [asked.only]
    if asked.kind:
        numbers = [n for n in numbers if n % len(MAKERS) == list(MAKERS).index(asked.kind)]
    started, wrong = time.perf_counter(), 0
    for number in numbers:
        line = finding(asked.seed, number)
        if line:
            print(line, flush=True)
        wrong += bool(line)
    print(f"{len(numbers)} cases, {wrong} findings, {time.perf_counter() - started:.0f} s")
    return bool(wrong)


def of_damaged_files(asked: argparse.Namespace) -> int:
    """Have damaged files read, and print and write what came of them."""
    numbers = range(asked.damaged) if asked.only is None else range(asked.only, asked.only + 1)
    readers = asked.reader or list(READERS)
    if asked.guided and not is_available():
        print("atheris is not installed; run: pip install --group fuzz", file=sys.stderr)
        return 2
    started, found, wrong = time.perf_counter(), dict[str, Any](), 0
    for reader, tally in tried(readers, asked.seed, numbers):
        found[reader] = asdict(tally)
        wrong += told(reader, tally.inputs, tally.findings)
        write(asked, {reader: found[reader]})
    for reader in readers if asked.guided else ():
        tally = guided(reader, asked.guided / len(READERS))
        found[reader]["guided"] = asdict(tally)
        wrong += told(f"{reader}, guided", tally.inputs, tally.findings)
        write(asked, {reader: found[reader]})
    inputs = sum(each["inputs"] + each.get("guided", {"inputs": 0})["inputs"] for each in found.values())
    print(f"{inputs} damaged files, {wrong} findings, {time.perf_counter() - started:.0f} s")
    return bool(wrong)


def write(asked: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what came of some readers; of others stays what is written."""
    if asked.json is None:
        return
    before = json.loads(asked.json.read_text())["readers"] if asked.json.exists() else {}
    every = before | found
    ordered = {reader: every[reader] for reader in READERS if reader in every}
    asked.json.write_text(json.dumps(described(asked, ordered), indent=1) + "\n")


def told(reader: str, inputs: int, findings: list[str]) -> int:
    """Print what is wrong; return how much is."""
    for line in findings:
        print(line, flush=True)
    print(f"{reader}: {inputs} inputs, {len(findings)} findings", flush=True)
    return len(findings)


def described(asked: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers with where they come from, as benchmarks write them."""
    versions = {}
    for package in RECORDED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "versions": versions,
        "machine": {"processor": processor_name(), "cores": os.cpu_count()},
        "damaged": asked.damaged,
        "guided": round(asked.guided),
        "seed": asked.seed,
        "most": {"seconds": MOST_SECONDS, "bytes": MOST_BYTES},
        "readers": found,
    }


if __name__ == "__main__":
    sys.exit(main())
