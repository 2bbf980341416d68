"""One self-contained HTML page with the curves of several runs: loss, the metric, learning rate."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from senet.analysis.figures import COLORS, LAYOUT
from senet.analysis.pages import write_page
from senet.analysis.runs import RunSummary, differing, run_names, waiting_of
from senet.errors import SenetError

TITLES: Mapping[str, str] = {
    "top1": "Top-1 accuracy, %",
    "balanced_accuracy": "Balanced accuracy, %",
    "macro_f1": "Macro F1, %",
    "ap": "AP, %",
    "ap50": "AP50, %",
    "ap75": "AP75, %",
}
DASHES = ("solid", "dash", "dot", "dashdot")
"""Lines of more runs than there are colors are told apart by their dashes."""
CHECKED = 12
"""Runs that are drawn at first; the others are there to be chosen."""


def write_curves(runs: Sequence[RunSummary], path: Path) -> Path:
    """Write the page.

    Args:
        runs: to draw; those without epochs are named and not drawn.
        path: of the file, .html.

    Raises:
        SenetError: no run has an epoch, or the file cannot be written.
    """
    drawn = [run for run in runs if run.rows]
    if not drawn:
        raise SenetError("no run has finished an epoch, so that there are no curves")
    names = dict(zip((run.path for run in runs), run_names(runs), strict=True))
    different = differing(runs)
    metrics = [metric for metric in TITLES if any(run.measure == metric for run in drawn)]
    figures = {"loss": "Loss, nats", **{metric: TITLES[metric] for metric in metrics}, "lr": "Learning rate"}
    data = {
        "runs": [run_data(run, names[run.path], i, different) for i, run in enumerate(drawn)],
        "figures": list(figures.items()),
        "layout": json.loads(json.dumps({**LAYOUT, "xaxis": {"title": {"text": "epoch"}}})),
    }
    without = [names[run.path] for run in runs if not run.rows]
    write_page(
        path,
        "curves",
        title="Runs side by side" if len(drawn) > 1 else f"The run {names[drawn[0].path]}",
        facts=[f"{len(drawn)} runs", f"{sum(run.epochs for run in drawn):,} epochs"],
        provenance=[f"without epochs: {', '.join(without)}"] if without else [],
        data=data,
        runs=data["runs"],
        figures=figures,
        checked=CHECKED,
    )
    return path


def run_data(run: RunSummary, name: str, number: int, different: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page draws of a run.

    Args:
        run: with epochs.
        name: of it.
        number: of it among those that are drawn.
        different: the settings in which runs differ, with their short names.
    """
    best = run.best
    keys = ("train_loss", "loss", "lr", *TITLES)
    return {
        "name": name,
        "color": COLORS[number % len(COLORS)],
        "dash": DASHES[number // len(COLORS) % len(DASHES)],
        "epochs": [int(row["epoch"]) for row in run.rows],
        "curves": {key: [row.get(key) for row in run.rows] for key in keys},
        "settings": ", ".join(f"{s} {in_words(run.settings[k])}" for k, s in different.items() if k in run.settings),
        "state": run.state,
        "waiting": waiting_of(run),
        "best": "" if best is None else f"best {run.measure} {best[run.measure]:.4g} in epoch {int(best['epoch'])}",
    }


def in_words(value: Any) -> str:
    """Return a setting as it is shown."""
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
