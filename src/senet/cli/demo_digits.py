"""The demo's first half: a plain network and its SE twin, trained on digits side by side."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from plotly.subplots import make_subplots

from senet.analysis.figures import COLORS, LAYOUT
from senet.analysis.report import explain
from senet.costs import cost
from senet.data.channels import to_rgb
from senet.data.config import DataConfig
from senet.data.datasets import open_split
from senet.factory import create_model, from_pretrained
from senet.files import read_jsonl, write_output
from senet.terminal import Table, console, say
from senet.training.config import TrainConfig
from senet.training.loop import train

NETWORKS: Mapping[str, str] = {"plain": "cifar_resnet20", "se": "cifar_se_resnet20"}
NUM_SAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class TwinResult:
    """What was measured of one network.

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


def save_samples(data: DataConfig, folder: Path) -> None:
    """Save a few evaluation images, so that there is something to predict."""
    folder.mkdir()
    images = open_split(data, "eval")
    for i in range(NUM_SAMPLES):
        image, label = images[i]
        to_rgb(image, channels=1).convert("L").save(folder / f"sample{i}_of_a_{images.class_names[label]}.png")


def draw_curves(runs: Mapping[str, Path], page: Path) -> None:
    """Draw training loss and accuracy of several runs over the epochs, into an HTML page."""
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


def compare_twins(recipe: TrainConfig, folder: Path) -> list[TwinResult]:
    """Train both networks, print them side by side; save curves, samples, both run folders, and a report on the gates.

    Args:
        recipe: of both runs, but for the network.
        folder: exists; what is written goes there.

    Returns:
        A result for each network.

    Raises:
        SenetError: a file that cannot be written.
    """
    runs = {}
    for kind, name in NETWORKS.items():
        say(f"Training {name} on handwritten digits (8x8, {recipe.epochs} epochs) ...")
        runs[kind] = train(replace(recipe, model=replace(recipe.model, name=name)), folder / kind)

    results = []
    for (kind, run), step_time_ms in zip(runs.items(), step_times_ms(list(NETWORKS.values())), strict=True):
        counted = cost(from_pretrained(run / "last"))
        results.append(
            TwinResult(
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
    save_samples(recipe.data, folder / "samples")
    report = explain(runs["se"], output=folder / "report.html")
    say(f"\nCurves: {picture}\nWhat the gates do: {report}")
    return results


def print_results(results: list[TwinResult]) -> None:
    """Print the networks side by side."""
    table = Table("", *(result.name for result in results))
    table.add_row("accuracy on unseen digits, %", *(f"{result.top1:.2f}" for result in results))
    table.add_row("parameters", *(f"{result.parameters:,}" for result in results))
    table.add_row("multiply-adds per image", *(f"{result.multiply_adds:,}" for result in results))
    table.add_row("training step of 32 images, ms", *(f"{result.step_time_ms:.1f}" for result in results))
    console().print(table)
