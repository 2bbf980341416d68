"""`senet runs`."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from senet.analysis.runs import (
    RunGroup,
    RunSummary,
    data_of,
    differing,
    grouped,
    read_runs,
    run_names,
    waiting_of,
)
from senet.cli.parsing import Command
from senet.data.folders import listed
from senet.errors import SenetError
from senet.files import check_page
from senet.terminal import Table, console, printable, say, width_of
from senet.training.sections import Metric

LONGEST = 40
"""Letters of a setting in the table."""


@dataclass(frozen=True, kw_only=True)
class RunsCommand(Command):
    """Compare runs: what differs in their configurations, how far they are, their best epochs and their time.

    All run folders in the folders, at any depth, the best first. The best epoch is that of each run's own
    selection.metric, unless --by names another. A run is "running" if its folder has changed in the last two minutes,
    or in the time of three epochs.

    Examples:
        senet runs runs
        senet runs runs/ablation --group
        senet runs runs/a runs/b --by balanced_accuracy --curves curves.html
    """

    folders: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER [FOLDER ...]")]
    """folders of runs, or runs themselves"""
    by: Metric | None = None
    """the metric to compare by"""
    group: bool = False
    """put runs together that differ in nothing but their seed: mean and standard deviation over the seeds"""
    curves: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """also write a page with the curves of all runs: loss, metric, learning rate"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Read the runs and print."""
        if not self.folders:
            raise SenetError("no folder is given; `senet runs --help` explains all arguments")
        if self.curves is not None:
            check_page(self.curves)
        runs = read_runs(self.folders, self.by)
        names = dict(zip((run.path for run in runs), run_names(runs), strict=True))
        if self.json:
            made = [group_values(g, names) for g in grouped(runs)] if self.group else [run_values(r) for r in runs]
            print(json.dumps(made))
        else:
            show(runs, names, grouped(runs) if self.group else None)
            if len({run.measure for run in runs}) > 1:
                say("The runs are in the order of a metric each; --by top1 compares all by one.")
            if len(different := data_of(runs)) > 1:
                say(
                    f"The runs are on different data: {printable(listed(different))}. "
                    "`senet evaluate RUN RUN --data DATA` compares them on the same images."
                )
            for run in runs:
                if waiting := waiting_of(run):
                    say(f"{printable(names[run.path])}: {waiting.replace('data.num_workers', '--data.num-workers')}")
        for run in runs:
            if run.problem:
                say(f"warning: {printable(run.problem)}", console(stderr=True))
        if self.curves is not None:
            from senet.analysis.curves import write_curves  # the table needs no plotly

            write_curves(runs, self.curves)
            say(f"{self.curves} has the curves; open it in a browser", console(stderr=self.json))


def show(runs: Sequence[RunSummary], names: dict[Path, str], groups: Sequence[RunGroup] | None) -> None:
    """Print a table of runs, or of groups of them; where a terminal is too narrow, what differs in lines below it."""
    on = console()
    different = differing(runs, without=() if groups is None else ("seed",))
    table = partial(run_table, runs, names) if groups is None else partial(group_table, groups, names)
    if width_of(whole := table(different)) <= on.width:
        on.print(whole)
        return
    on.print(table({}))
    rows = [(names[run.path], run) for run in runs]
    if groups is not None:
        rows = [(group_name(group, names), group.runs[0]) for group in groups]
    for line in lines_of_settings(different, [(name, run.settings) for name, run in rows if run.settings]):
        say(line, on)


def lines_of_settings(different: Mapping[str, str], rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield in a line what most runs have of the settings that differ, and in one for each run what it has instead."""
    texts = [
        (name, {short: shown(settings[long]) if long in settings else "-" for long, short in different.items()})
        for name, settings in rows
    ]
    usual = {short: Counter(own[short] for _, own in texts).most_common(1)[0][0] for short in different.values()}
    yield f"most runs: {', '.join(f'{short} {text}' for short, text in usual.items())}"
    for name, own in texts:
        other = ", ".join(f"{short} {text}" for short, text in own.items() if text != usual[short])
        yield f"{name}: {other or 'as most'}"


def run_values(run: RunSummary) -> dict[str, Any]:
    """Return a run as plain values."""
    best = run.best
    return {
        "run": str(run.path),
        "state": run.state,
        "problem": run.problem,
        "epochs": run.epochs,
        "all_epochs": run.all_epochs,
        "metric": run.measure,
        "best": None if best is None else best[run.measure],
        "best_epoch": None if best is None else best["epoch"],
        "last": dict(run.rows[-1]) if run.rows else None,
        "time_s": run.seconds,
        "images_per_s": run.images_per_s,
        "waiting": waiting_of(run),
        "settings": {name: plain(value) for name, value in run.settings.items()},
    }


def group_values(group: RunGroup, names: dict[Path, str]) -> dict[str, Any]:
    """Return a group of runs as plain values."""
    return {
        "group": group_name(group, names),
        "metric": group.runs[0].measure,
        "mean": group.mean,
        "deviation": group.deviation,
        "runs": [run_values(run) for run in group.runs],
    }


def plain(value: Any) -> Any:
    """Return a setting as a value that JSON has."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def shown(value: Any) -> str:
    """Return a setting as it is shown."""
    if isinstance(value, tuple):
        text = ", ".join(map(shown, value))
    else:
        text = format(value, ".6g") if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def number(value: float | None, form: str) -> str:
    """Return a number in a format, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """Return a time in a form of at most two units."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def headed(first: str, settings: Iterable[str], *numbers: str) -> Table:
    """Return an empty table: names and settings on the left, then numbers."""
    table = Table(first, *settings)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def run_table(runs: Sequence[RunSummary], names: dict[Path, str], different: Mapping[str, str]) -> Table:
    """Return a table of runs, a row for each.

    Args:
        runs: the runs.
        names: of the runs, by their folders.
        different: the settings to show, with their headings.
    """
    by = {run.measure for run in runs}
    metric = next(iter(by)) if len(by) == 1 else "metric"
    table = headed("run", [*different.values(), "state"], "epochs", f"best {metric}", "at", "last", "time", "images/s")
    for run in runs:
        best = run.best
        own = "" if len(by) == 1 else f"{run.measure} "
        last = run.rows[-1].get(run.measure) if run.rows else None
        table.add_row(
            names[run.path],
            *(shown(run.settings[name]) if name in run.settings else "-" for name in different),
            run.state,
            f"{run.epochs}/{'?' if run.all_epochs is None else run.all_epochs}",
            f"{own}{number(None if best is None else best[run.measure], '.4g' if run.measure == 'loss' else '.2f')}",
            number(None if best is None else best["epoch"], ".0f"),
            number(last, ".4g" if run.measure == "loss" else ".2f"),
            duration(run.seconds),
            number(run.images_per_s, ",.0f"),
        )
    return table


def group_name(group: RunGroup, names: dict[Path, str]) -> str:
    """Return what a group is called: the folder that holds its runs and no others, else its first run."""
    folder = group.runs[0].path.parent
    inside = {path for path in names if path.parent == folder}
    if len(group.runs) > 1 and inside == {run.path for run in group.runs}:
        parent = names[group.runs[0].path].rpartition("/")[0]
        return parent or folder.name
    return names[group.runs[0].path]


def group_table(groups: Sequence[RunGroup], names: dict[Path, str], different: Mapping[str, str]) -> Table:
    """Return a table of runs, a row for those that differ in nothing but their seed, see `run_table`."""
    by = {run.measure for group in groups for run in group.runs}
    metric = next(iter(by)) if len(by) == 1 else "metric"
    table = headed("runs", different.values(), "seeds", f"mean best {metric}", "deviation", "finished", "time")
    for group in groups:
        first = group.runs[0]
        form = ".4g" if first.measure == "loss" else ".2f"
        own = "" if len(by) == 1 else f"{first.measure} "
        table.add_row(
            group_name(group, names),
            *(shown(first.settings[name]) if name in first.settings else "-" for name in different),
            str(len(group.runs)),
            f"{own}{number(group.mean, form)}",
            number(group.deviation, form),
            str(sum(run.state == "finished" for run in group.runs)),
            duration(sum(run.seconds for run in group.runs)),
        )
    return table
