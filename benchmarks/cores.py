"""Jobs that run side by side, each in a process of its own on cores of its own, with as many threads."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

Job = TypeVar("Job")
Cores = Sequence[int]


class FailedJobError(Exception):
    """A job failed; the message is the last line of its log."""


def on_free_cores(
    jobs: Iterable[Job], run: Callable[[Job, Cores], None], *, count: int = 1, limit: int | None = None
) -> None:
    """Run jobs in their order, as many at a time as there are cores for.

    Args:
        jobs: what is run.
        run: called with a job and the numbers of its cores, by several threads at once.
        count: cores of a job.
        limit: at most so many cores are used; None for all.
    """
    free = sorted(os.sched_getaffinity(0))[:limit]
    if count > len(free):
        raise SystemExit(f"a job of {count} cores does not fit on {len(free)}")
    groups: SimpleQueue[Cores] = SimpleQueue()
    for first in range(0, len(free) - count + 1, count):
        groups.put(free[first : first + count])

    def start(job: Job) -> None:
        cores = groups.get()
        try:
            run(job, cores)
        finally:
            groups.put(cores)

    with ThreadPoolExecutor(len(free) // count) as pool:
        for _ in pool.map(start, jobs):
            pass


def measure_beside(
    jobs: Iterable[tuple[str, int]],
    command: Sequence[str],
    folder: Path,
    add: Callable[[dict[str, Any]], None],
    *,
    limit: int | None = None,
) -> None:
    """Measure networks with several seeds, each in a process of its own on a core; print each row as it comes.

    Args:
        jobs: name and seed of each.
        command: the program and its arguments, to which `--run NAME SEED` is added; it prints its row last.
        folder: of the logs.
        add: takes the rows, one at a time.
        limit: at most so many cores are used; None for all.
    """
    lock = threading.Lock()

    def measure(job: tuple[str, int], cores: Cores) -> None:
        name, seed = job
        log = folder / f"{name}-{seed}.log"
        try:
            row = printed([*command, "--run", name, str(seed)], cores, log)
        except FailedJobError as error:
            raise SystemExit(f"the run {name} {seed} has failed: see {log}") from error
        with lock:
            print(json.dumps(row), flush=True)
            add(row)

    on_free_cores(jobs, measure, limit=limit)


def printed(command: Sequence[str], cores: Cores, log: Path, mode: str = "a") -> dict[str, Any]:
    """Run a command on cores, with as many threads, and return the JSON object that it prints last.

    Args:
        command: the program and its arguments.
        cores: by number.
        log: the file that its other output goes to.
        mode: "a" adds to the log, "w" begins it again.

    Raises:
        FailedJobError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open(mode) as file:
        pinned = partial(os.sched_setaffinity, 0, set(cores))
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=file, text=True, env=environment(len(cores)), preexec_fn=pinned
        )
    if done.returncode:
        raise FailedJobError((log.read_text().strip().splitlines() or ["no message"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def environment(threads: int = 1) -> dict[str, str]:
    """Return the environment of a process with so many threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
