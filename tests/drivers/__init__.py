"""Programs that tests run in processes of their own, and how they are started."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
# Drivers import what tests share, as the tests do (pyproject.toml, pythonpath).
PATHS = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
ENVIRONMENT: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS}


def command(name: str, *arguments: object) -> list[str]:
    """Return the words that start a driver of this folder."""
    return [sys.executable, str(HERE / name), *map(str, arguments)]


def run_in_two_processes(name: str, folder: Path, *arguments: object, seconds: float = 180) -> None:
    """Run a driver by torchrun in two processes, which get `folder` and `arguments`, and expect that both succeed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    log = folder / "log.txt"
    with log.open("w") as file:
        words = [*torchrun, *command(name, folder, *arguments)[1:]]
        started = subprocess.Popen(words, env=ENVIRONMENT, stdout=file, stderr=file)
    try:
        code = started.wait(seconds)
    except subprocess.TimeoutExpired:  # one process waits for the other
        started.terminate()  # torchrun ends its processes
        code = started.wait(60)
    assert code == 0, log.read_text()
