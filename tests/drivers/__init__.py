"""Programs that tests run in processes of their own, and how they are started."""

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

ENVIRONMENT: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(name: str, *arguments: object) -> list[str]:
    """Return the words that start a driver of this folder."""
    return [sys.executable, str(Path(__file__).parent / name), *map(str, arguments)]


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


def run_in_two_forks(name: str, folder: Path, *arguments: object) -> None:
    """The same in forks of this process, which have PyTorch already: seconds less, and nothing of torchrun."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = (*command(name, folder, *arguments)[1:],)
    torch.multiprocessing.start_processes(run_fork, (words, port), nprocs=2, start_method="fork")


def run_fork(rank: int, words: tuple[str, ...], port: int) -> None:
    """Run a driver as the process of this number that torchrun would start."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({key: str(value) for key, value in told.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")
