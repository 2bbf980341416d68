"""Comparing runs: what differs in their configurations, how far they are, and how good they are."""

import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from senet.configs import dotted, settings
from senet.data.folders import visible_folders
from senet.errors import MissingFileError, SenetError, check_choice, first_line
from senet.files import parse_json, read_jsonl
from senet.training.ending import ending_of_state
from senet.training.run import DATA_FILE, METRICS_FILE, WITHOUT_EFFECT, RunFolder
from senet.training.sections import Metric
from senet.training.selection import best_of
from senet.training.state import STATE_KEYS, up_to_date
from senet.training.steplog import waiting_in_words
from senet.training.stored import read_config
from senet.weights.checkpoint import CONFIG_FILE

State = Literal["finished", "early", "stopped", "running", "not started", "damaged"]
LOWER_IS_BETTER = ("loss",)
LIMITS = ("selection.patience", "schedule.max_drops", "max_seconds")
"""Settings that end a run before its last epoch."""
DATASET, IMAGES, PROCESSES = "data.dataset", "data.images", "num_processes"
"""The data, how many images to train and to evaluate on it has ("800 + 200"), and how many processes the run started
with; batch_size is of each."""
STALE_S = 120.0
"""A run whose folder has not changed for so long, and for three of its epochs, is not running."""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run, as far as its folder tells.

    Args:
        path: of the folder.
        state: "finished" after its last epoch; "early" if it ended by itself before (selection.patience,
            schedule.max_drops, max_seconds); "running" if its folder changed less than two minutes or three epochs ago,
            else "stopped", or "not started" before its first epoch; "damaged" if its configuration or its metrics
            cannot be read.
        problem: what is damaged, in one sentence; empty if nothing is.
        settings: the configuration's values by dotted name, and `PROCESSES` and `IMAGES`; none that has no effect on
            the result, but for the name of the data.
        metric: by which its best epoch is chosen.
        rows: of its metrics.jsonl, from epoch 1 on.
    """

    path: Path
    state: State
    problem: str
    settings: Mapping[str, Any]
    metric: Metric
    rows: Sequence[Mapping[str, float]]

    @property
    def epochs(self) -> int:
        """How many epochs it has trained."""
        return int(self.rows[-1]["epoch"]) if self.rows else 0

    @property
    def all_epochs(self) -> int | None:
        """How many epochs it was to train; None if that is not known."""
        return self.settings.get("epochs")

    @property
    def best(self) -> Mapping[str, float] | None:
        """The row of its best epoch; None if none has the metric."""
        return best_of(self.rows, self.metric)

    @property
    def measure(self) -> Metric:
        """By which it is compared with others: its metric; balanced accuracy for a run that keeps its last epoch."""
        is_measured = bool(self.rows) and all("balanced_accuracy" in row for row in self.rows)
        return "balanced_accuracy" if self.metric == "epoch" and is_measured else self.metric

    @property
    def seconds(self) -> float:
        """How long it has trained, without evaluations."""
        return sum(row.get("time_s", 0.0) for row in self.rows)

    @property
    def images_per_s(self) -> float | None:
        """The median speed of its epochs."""
        speeds = [row["images_per_s"] for row in self.rows if "images_per_s" in row]
        return statistics.median(speeds) if speeds else None


def waiting_of(run: RunSummary) -> str:
    """Return that a run has mostly waited for images, and what helps; empty if it has not, or does not say."""
    rows = [row for row in run.rows if "data_wait_s" in row and "time_s" in row]
    return waiting_in_words(sum(row["data_wait_s"] for row in rows), sum(row["time_s"] for row in rows))


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """Return the run folders among some folders and at any depth below them, sorted by name in each.

    Raises:
        SenetError: a folder is not there, or there are no runs in it.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise MissingFileError(f"there is no folder {folder}; check the path")
        below = list(runs_below(folder))
        if not below:
            raise SenetError(f"{folder} holds no runs; `senet train` writes one into its --output")
        found += [path for path in below if path not in found]
    return found


def runs_below(folder: Path) -> Iterator[Path]:
    """Yield the run folders at and below a folder; those below a run belong to it."""
    config = folder / CONFIG_FILE
    if (folder / METRICS_FILE).exists() or (config.exists() and not describes_a_model(config)):
        yield folder
        return
    for below in visible_folders(folder):
        if not below.is_symlink():
            yield from runs_below(below)


def describes_a_model(config: Path) -> bool:
    """Return whether a config.json is that of a model folder, or of another program."""
    with suppress(OSError, ValueError):
        values = parse_json(config.read_text())
        return not (isinstance(values, Mapping) and all(isinstance(values.get(k), Mapping) for k in ("model", "data")))
    return False


def read_run(path: Path, by: Metric | None = None) -> RunSummary:
    """Read a run folder; what cannot be read is said in `problem`.

    Args:
        path: of the folder.
        by: the metric that tells the best epoch; None for the run's own.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    try:
        raw = parse_json((path / CONFIG_FILE).read_text())
        try:
            values = dict(settings(read_config(raw), ""))
        except Exception as error:  # of another version, or of a package that is not here: show what it says
            problems.append(f"{path / CONFIG_FILE} is read as it is: {first_line(error)}")
            values = dict(flattened(raw, ""))
    except (OSError, ValueError) as error:
        problems.append(f"{path / CONFIG_FILE} cannot be read ({first_line(error)})")
    rows: list[dict[str, float]] = []
    try:
        read = read_jsonl(path / METRICS_FILE)
        rows = [row for row in map(checked, read) if int(row["epoch"]) > 0]
    except (OSError, ValueError, TypeError) as error:
        problems.append(f"{path / METRICS_FILE} cannot be read ({first_line(error)})")
    own: Metric = values.get("selection.metric", "top1")
    return RunSummary(
        path=path,
        state="damaged" if problems else state_of(path, rows, values, own),
        problem="; ".join(problems),
        settings=compared(values, RunFolder(path)),
        metric=by or own,
        rows=rows,
    )


def compared(values: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    """Return the settings by which a run is compared with others, see `RunSummary.settings`."""
    found = {name: value for name, value in values.items() if name == DATASET or name not in WITHOUT_EFFECT}
    images = run.read_json(DATA_FILE)
    counts = [images.get(name) for name in ("num_train_images", "num_eval_images")]
    if all(isinstance(count, int) for count in counts):
        found[IMAGES] = " + ".join(f"{count:,}" for count in counts)
    return found | ({PROCESSES: run.num_processes(1)} if found else {})


def checked(row: Any) -> dict[str, float]:
    """Return a row of metrics.

    Raises:
        TypeError: it has no epoch or something else than numbers, as those of other programs may.
    """
    if not isinstance(row, dict) or "epoch" not in row:
        raise TypeError(f"a line is {row!r:.60}, not an object with an epoch")
    for name, value in row.items():
        if not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}, not a number")
    return row


def flattened(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings with their dotted names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flattened(item, dotted(name, key))
    else:
        yield name, tuple(value) if isinstance(value, list) else value


def state_of(path: Path, rows: Sequence[Mapping[str, float]], values: Mapping[str, Any], metric: Metric) -> State:
    """Return how far a run is.

    Args:
        path: of its folder.
        rows: of its metrics.
        values: its settings.
        metric: that chooses its best epoch.
    """
    for length, done in (("epochs", "epoch"), ("iterations", "step")):
        whole = values.get(length)
        if rows and whole is not None and rows[-1].get(done, 0) >= whole:
            return "finished"
    if rows and any(values.get(name) is not None for name in LIMITS) and ended_early(path, rows, values, metric):
        return "early"
    files = [path / name for name in (CONFIG_FILE, METRICS_FILE, "last/training_state.pt")]
    changed = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    longest = max((row.get("time_s", 0.0) for row in rows), default=0.0)
    if time.time() - changed < max(STALE_S, 3 * longest):
        return "running"
    return "stopped" if rows or (path / "last").exists() else "not started"


def ended_early(path: Path, rows: Sequence[Mapping[str, float]], values: Mapping[str, Any], metric: Metric) -> bool:
    """Return whether a run has ended before its last epoch by itself; see `state_of` for the arguments."""
    run = RunFolder(path)
    with suppress(SenetError):
        state = run.load_state(STATE_KEYS, lazily=True)
        if state is not None:
            config = run.read_config()
            return ending_of_state(config, up_to_date(state, config.epochs, run.metrics())) is not None
    patience, best = values.get("selection.patience"), best_of(rows, metric)  # of a run without its state
    return best is not None and patience is not None and rows[-1]["epoch"] - best["epoch"] >= patience


def read_runs(folders: Iterable[str | Path], by: Metric | None = None) -> list[RunSummary]:
    """Read all runs in some folders, the best first; runs without the metric come last.

    Args:
        folders: see `find_runs`.
        by: the metric to compare them by; None for each run's own.

    Raises:
        SenetError: see `find_runs`.
    """
    if by is not None:
        check_choice("by", by, get_args(Metric))
    runs = [read_run(path, by) for path in find_runs(folders)]
    return sorted(runs, key=rank)


def rank(run: RunSummary) -> tuple[bool, str, float]:
    """Return what runs are sorted by."""
    best = run.best
    if best is None:
        return True, run.measure, 0.0
    value = best[run.measure]
    return False, run.measure, value if run.measure in LOWER_IS_BETTER else -value


def differing(runs: Sequence[RunSummary], *, without: Sequence[str] = ()) -> dict[str, str]:
    """Return the settings in which runs differ, with the shortest ends of their names that tell them apart.

    Args:
        runs: to compare; damaged ones are left out, for those of other programs differ in everything.
        without: settings that do not count.
    """
    known = [run.settings for run in runs if run.settings and not run.problem]
    known = known or [run.settings for run in runs if run.settings]
    every = {name: None for values in known for name in values}
    absent = object()
    found = [
        name
        for name in every
        if name not in without and any(values.get(name, absent) != known[0].get(name, absent) for values in known)
    ]
    return {name: short_name(name, found) for name in found}


def data_of(runs: Sequence[RunSummary]) -> list[str]:
    """Return the data of runs, each once; where there are several, the runs were measured on different images."""
    own = (run.settings for run in runs if DATASET in run.settings)
    return list(dict.fromkeys(f"{values[DATASET]} ({values.get(IMAGES, '?')} images)" for values in own))


def short_name(name: str, among: Sequence[str]) -> str:
    """Return the shortest end of a dotted name that no other name has."""
    words = name.split(".")
    ends = (".".join(words[-n:]) for n in range(1 + (words[-1] == "name"), len(words)))
    unique = (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in among) == 1)
    return next(unique, name)


def run_names(runs: Sequence[RunSummary]) -> list[str]:
    """Return the paths of runs without the folders that all of them are in."""
    paths = [str(run.path.absolute()) for run in runs]
    if len(runs) == 1:
        return [runs[0].path.name or str(runs[0].path)]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120
    return [os.path.relpath(path, common) for path in paths]


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in nothing but their seed.

    Args:
        runs: the best first.
    """

    runs: tuple[RunSummary, ...]

    @property
    def values(self) -> list[float]:
        """The best value of each run's metric."""
        return [best[run.measure] for run in self.runs if (best := run.best) is not None]

    @property
    def mean(self) -> float | None:
        """The mean over the runs; None if none has the metric."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the runs; None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def grouped(runs: Sequence[RunSummary]) -> list[RunGroup]:
    """Put runs together that differ in nothing but their seed; groups with the best mean come first."""
    groups: dict[Any, list[RunSummary]] = {}
    for run in runs:
        same = {name: repr(value) for name, value in run.settings.items() if name != "seed"}
        key = (run.measure, tuple(sorted(same.items()))) if run.settings else run.path
        groups.setdefault(key, []).append(run)
    made = [RunGroup(runs=tuple(members)) for members in groups.values()]

    def place(group: RunGroup) -> tuple[bool, str, float]:
        metric, mean = group.runs[0].measure, group.mean
        return mean is None, metric, (mean or 0.0) * (1 if metric in LOWER_IS_BETTER else -1)

    return sorted(made, key=place)
