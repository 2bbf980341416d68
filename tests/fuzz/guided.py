"""Damage that is kept where it reaches lines of the library that none before has: libFuzzer, by atheris.

It runs in a process of its own for each reader, `under_atheris.py`, for libFuzzer ends its process.

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
from typing import Any

from fuzz.damaged import Tally

SCRIPT = str(Path(__file__).with_name("under_atheris.py"))


def is_available() -> bool:
    """Return whether atheris is installed."""
    return find_spec("atheris") is not None


def guided(reader: str, seconds: float) -> Tally:
    """Read inputs for some time, and return what came of them."""
    with tempfile.TemporaryDirectory() as name:
        file, begun = Path(name, "found.json"), time.monotonic()
        paths = os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))
        found: dict[str, Any] = {"inputs": 0, "refused": 0, "seconds": 0.0, "bytes": 0, "findings": []}
        while (left := seconds - (time.monotonic() - begun)) > 1:
            file.unlink(missing_ok=True)
            seed = int(time.monotonic() - begun)
            done = subprocess.run(
                [sys.executable, SCRIPT, reader, str(int(left)), str(file), str(seed)],
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
            last = done.stderr.decode(errors="replace").strip()[-500:]  # libFuzzer's report of a crash or a hang
            if not file.exists():
                raise RuntimeError(f"{reader} cannot be read under atheris: {last}")
            now = json.loads(file.read_text())
            for key in ("inputs", "refused"):
                found[key] += now[key]
            for key in ("seconds", "bytes"):
                found[key] = max(found[key], now[key])
            found["findings"] += now["findings"]
            if done.returncode == 0:
                break
            found["findings"].append(f"{reader}: libFuzzer ended with status {done.returncode}: {last!r}")
        return Tally(**found)
