"""The demo: a plain network and its SE twin, trained on digits side by side."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Annotated

import torch
import torch.nn.functional as F
import tyro

from senet.analysis.figures import COLORS, LAYOUT
from senet.analysis.report import explain
from senet.cli.parsing import Command
from senet.cli.progress import run_shown
from senet.costs import cost
from senet.data.channels import to_rgb
from senet.data.datasets import open_split
from senet.errors import SenetError, needed_for
from senet.factory import create_model, from_pretrained
from senet.files import read_jsonl, write_output
from senet.recipes.digits import digits
from senet.terminal import Table, console, say
from senet.training.loop import train

NETWORKS: Mapping[str, str] = {"plain": "cifar_resnet20", "se": "cifar_se_resnet20"}
NUM_SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class DemoCommand(Command):
    """Train a small plain network and its SE twin on handwritten digits, side by side.

    Takes about a minute on two CPU cores and downloads nothing.
    """

    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/demo")
    """the folder of both runs; a number is added if it is taken"""
    epochs: int = 8
    """passes over the 1437 training images"""
    seed: int = 0
    """of everything random"""

    def run(self) -> None:
        """Run the demo."""
        with run_shown():
            demo(self.output, epochs=self.epochs, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo measured of one network.

    Args:
        name: of the network.
        top1: in %, after the last epoch.
        parameters: of the network.
        multiply_adds: for one image.
        step_time_ms: median time of a training step of 32 images, both networks in turn.
    """

    name: str
    top1: float
    parameters: int
    multiply_adds: int
    step_time_ms: float


def free_folder(folder: Path) -> Path:
    """Return the folder, or, if it is taken, the same name with the first free number added."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return candidate


def step_times_ms(names: list[str], batch_size: int = 32, steps: int = 20) -> list[float]:
    """Measure a training step of each network on random digits, in turn, after three to warm up; medians in ms."""
    models = [create_model(name, num_classes=10, in_channels=1) for name in names]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    images, labels = torch.randn(batch_size, 1, 8, 8), torch.randint(10, (batch_size,))
    times: list[list[float]] = [[] for _ in models]
    for step in range(steps + 3):
        for model, optimizer, measured in zip(models, optimizers, times, strict=True):
            started = time.perf_counter()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step >= 3:
                measured.append(1000 * (time.perf_counter() - started))
    return [statistics.median(measured) for measured in times]


def save_samples(folder: Path) -> None:
    """Save a few evaluation images, so that there is something to predict."""
    folder.mkdir()
    images = open_split(digits().data, "eval")
    for i in range(NUM_SAMPLES):
        image, label = images[i]
        to_rgb(image, channels=1).convert("L").save(folder / f"sample{i}_of_a_{images.class_names[label]}.png")


def draw_curves(runs: Mapping[str, Path], page: Path) -> None:
    """Draw training loss and accuracy of several runs over the epochs, into an HTML page."""
    with needed_for("senet demo"):
        from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, subplot_titles=("Training loss, nats", "Accuracy on unseen digits, %"))
    for (name, folder), color in zip(runs.items(), COLORS, strict=False):
        rows = read_jsonl(folder / "metrics.jsonl")
        epochs = [row["epoch"] for row in rows]
        for column, key in enumerate(("train_loss", "top1"), 1):
            values = [row[key] for row in rows]
            style = {"name": name, "legendgroup": name, "showlegend": column == 1, "line": {"color": color}}
            figure.add_scatter(x=epochs, y=values, row=1, col=column, **style)
    figure.update_layout(**LAYOUT)
    figure.update_xaxes(title_text="epoch")
    write_output(page, figure.to_html().encode())


def demo(output: Path, *, epochs: int = 8, seed: int = 0) -> list[DemoResult]:
    """Train both networks, print them side by side; save curves, samples, both run folders, and a report on the gates.

    Args:
        output: folder; a number is added if it is taken.
        epochs: of each run.
        seed: of both runs.

    Returns:
        A result for each network.

    Raises:
        SenetError: `epochs` or `seed` out of range, or a folder that cannot be written.
    """
    folder = free_folder(output)
    if folder != output:
        say(f"{output} is taken; writing to {folder}.")
    recipe = replace(digits(), epochs=epochs, seed=seed)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SenetError(f"{folder} cannot be made ({error.strerror}); choose another --output") from error
    runs = {}
    for kind, name in NETWORKS.items():
        say(f"Training {name} on handwritten digits (8x8, {epochs} epochs) ...")
        runs[kind] = train(replace(recipe, model=replace(recipe.model, name=name)), folder / kind)

    results = []
    for (kind, run), step_time_ms in zip(runs.items(), step_times_ms(list(NETWORKS.values())), strict=True):
        counted = cost(from_pretrained(run / "last"))
        results.append(
            DemoResult(
                name=NETWORKS[kind],
                top1=read_jsonl(run / "metrics.jsonl")[-1]["top1"],
                parameters=counted.parameters,
                multiply_adds=counted.multiply_adds,
                step_time_ms=step_time_ms,
            )
        )
    print_results(results)
    picture = folder / "curves.html"
    draw_curves({NETWORKS[kind]: run for kind, run in runs.items()}, picture)
    save_samples(folder / "samples")
    report = explain(runs["se"], output=folder / "report.html")
    se, samples = quote(str(runs["se"])), quote(str(folder / "samples"))
    say(
        f"\nCurves: {picture}\nWhat the gates do: {report}\nNext:\n  senet evaluate {se}\n"
        f"  senet predict {samples}/*.png --model {se}"
    )
    return results


def print_results(results: list[DemoResult]) -> None:
    """Print the networks side by side."""
    table = Table("", *(result.name for result in results))
    table.add_row("accuracy on unseen digits, %", *(f"{result.top1:.2f}" for result in results))
    table.add_row("parameters", *(f"{result.parameters:,}" for result in results))
    table.add_row("multiply-adds per image", *(f"{result.multiply_adds:,}" for result in results))
    table.add_row("training step of 32 images, ms", *(f"{result.step_time_ms:.1f}" for result in results))
    console().print(table)
