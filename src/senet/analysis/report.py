"""One self-contained HTML page about a network: its SE blocks, their gates, what each contributes, and examples."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from senet.analysis.figures import COLORS, LAYOUT, class_figure, class_index, default_classes, spread_figure
from senet.analysis.gates import GateBlock, gate_hooks
from senet.analysis.knockout import KnockoutStudy, knock_out_blocks
from senet.analysis.measures import (
    BlockStatistics,
    agreement,
    block_statistics,
    effect,
    mean_gate,
    sampled_channels,
    share_high,
    share_low,
    specificity,
    spread,
)
from senet.analysis.pages import THUMBNAIL, data_uri, plain, write_page
from senet.analysis.recording import BlockRecord, Recording, record_excitations
from senet.data.channels import to_rgb
from senet.data.folders import listed
from senet.data.reading import naming
from senet.errors import SenetError, needed_for
from senet.evaluation.batches import Batches, DataSource, model_and_data, open_batches
from senet.files import check_page, read_jsonl
from senet.nn.modes import borrowed, dtype_of
from senet.processes import current_team

with needed_for("senet.explain"):
    import plotly.graph_objects as go

NUMBERS = 400_000
"""Largest number of values in the page's curves. With too many classes only every second, third, ... is in the page."""
TOP = 5
"""Channels listed as most raised and as most lowered."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image with the network's prediction and its gates.

    Args:
        image: a thumbnail.
        class_name: its label.
        prediction: the class that the network predicts.
        probability: of the prediction, 0 to 1.
        mistaken: whether label and prediction are different classes of the network.
        gates: (C,) for each block, by its name.
    """

    image: Image.Image
    class_name: str
    prediction: str
    probability: float
    mistaken: bool
    gates: Mapping[str, Tensor]

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return data_uri(self.image)


@torch.no_grad()
def examples_of(model: nn.Module, batches: Batches, recording: Recording, classes: Sequence[str]) -> list[Example]:
    """Return one image of each class, in the order of the classes.

    Args:
        model: the network.
        batches: of a labeled data set.
        recording: of the model.
        classes: names.
    """
    images, preprocessing, same_classes = batches.images, batches.preprocessing, not batches.unscored
    assert images is not None
    assert preprocessing is not None
    wanted = {class_index(recording, name) for name in classes}
    names = recording.class_names if same_classes else getattr(model, "class_names", None)
    to_tensor, device = preprocessing.build(), batches.device
    blocks = tuple(record.block for record in recording.blocks)
    found = []
    with borrowed(model):
        for i in np.random.default_rng(0).permutation(len(images)).tolist():
            if not wanted:
                break
            if images.files is not None and images.files[i][1] not in wanted:
                continue
            image, label = images[i]
            if label not in wanted:
                continue
            wanted.remove(label)
            gates: dict[str, Tensor] = {}

            def on_gates(block: GateBlock, values: Tensor, gates: dict[str, Tensor] = gates) -> None:
                gates[block.name] = values[0].double().cpu()

            with naming(images.name(i)):
                pixels, small = to_tensor(image)[None], to_rgb(image, preprocessing.in_channels)
            with gate_hooks(model, blocks, on_gates):
                probabilities = model(pixels.to(device, dtype_of(model))).float().softmax(1)[0]
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            best = int(probabilities.argmax())
            found.append(
                Example(
                    image=small,
                    class_name=recording.class_names[label],
                    prediction=names[best] if names else f"class {best}",
                    probability=float(probabilities[best]),
                    mistaken=same_classes and best != label,
                    gates=gates,
                )
            )
    return sorted(found, key=lambda example: recording.class_names.index(example.class_name))


def explain(
    run_or_model: nn.Module | str | Path,
    data: DataSource | None = None,
    output: str | Path = "report.html",
    *,
    recording: Recording | None = None,
    knockout: bool = True,
    num_examples: int = 10,
    run: str | Path | None = None,
    batch_size: int = 64,
) -> Path:
    """Write an HTML page about the gates of a network; open it in a browser.

    Inside `shared_work` every process runs its share of the images, and the first one writes the page.

    Cost: one pass over the data set to record, and one evaluation for each block (leave that out by `knockout=False`).

    Args:
        run_or_model: see `senet.record_excitations`.
        data: see `senet.record_excitations`; batches must be a list or a loader, not an
            iterator: each evaluation goes through them.
        output: the page, one HTML file that needs no network.
        recording: of the network's gates; None to record them now.
        knockout: whether to measure how much each gate contributes, at the cost of one evaluation for each block.
        num_examples: number of classes of which an image is shown.
        run: the run folder whose training curves are shown; None for `run_or_model`, if it is one.
        batch_size: images at once.

    Returns:
        The page's path.

    Raises:
        SenetError: a model without gates, data that do not fit, or a file that cannot be written.
    """
    team = current_team()
    if team.is_first:
        check_page(Path(output))
    folder = run if run is not None or isinstance(run_or_model, nn.Module) else run_or_model
    model, data = model_and_data(run_or_model, data)
    if recording is None:
        recording = record_excitations(model, data, batch_size=batch_size)
    batches = open_batches(model, data)
    if recording.class_names and batches.class_names not in ((), recording.class_names):
        raise SenetError(
            f"the recording is of other classes than {batches.source} ({listed(recording.class_names)} against "
            f"{listed(batches.class_names)}); record the excitations on these data"
        )
    study = None
    if knockout and not batches.unscored:
        study = knock_out_blocks(model, data, recording=recording, batch_size=batch_size)
    if not team.is_first:
        return Path(output)
    shown = []
    if recording.class_names and batches.images is not None:
        shown = examples_of(model, batches, recording, default_classes(recording, num_examples))
    metrics = [] if folder is None else read_jsonl(Path(folder) / "metrics.jsonl")
    unscored = batches.unscored if knockout else ""
    return write_report(
        output, recording, model=model, knockout=study, unscored=unscored, metrics=metrics, examples=shown
    )


def write_report(
    path: str | Path,
    recording: Recording,
    *,
    model: nn.Module | None = None,
    knockout: KnockoutStudy | None = None,
    unscored: str = "",
    metrics: Sequence[Mapping[str, float]] = (),
    examples: Sequence[Example] = (),
) -> Path:
    """Write the page about a network.

    Args:
        path: of the file, .html.
        recording: of the network's gates.
        model: the network, for its size.
        knockout: from `knock_out_blocks`.
        unscored: why there is no knockout study; shown in its place.
        metrics: the lines of a run's metrics.jsonl, for its curves.
        examples: images to show.

    Raises:
        SenetError: the file cannot be written.
    """
    path = Path(path)
    numbers = block_statistics(recording)
    curves = training_curves(metrics)
    shown = shown_classes(recording)
    last = recording.blocks[-1].block.name
    drawn = {"byClass": class_figure(recording, last), "within": spread_figure(recording, last)}
    data = {
        "first": len(numbers) - 1,
        "classes": [recording.class_names[k] for k in shown],
        "colors": COLORS,
        "blocks": [block_data(r, s, shown) for r, s in zip(recording.blocks, numbers, strict=True)],
        "figures": {name: plain(figure) for name, figure in (drawn | curves).items()},
        "curves": list(curves),
        "examples": [example_data(example, recording) for example in examples],
    }
    about = recording.provenance
    write_page(
        path,
        "report",
        title=f"What the gates of {about.get('model', 'a network')} do",
        facts=facts(recording, model, knockout),
        provenance=[f"{name}: {value}" for name, value in about.items() if value],
        data=data,
        stages=stages(recording, numbers),
        classes=data["classes"],
        num_classes=len(recording.class_names),
        first=first_classes(recording, shown),
        numbers=numbers,
        definitions={name: " ".join((inspect.getdoc(f) or "").split()) for name, f in DEFINITIONS.items()},
        verdict=" ".join((inspect.getdoc(BlockStatistics) or "").split("verdict: ")[1].split()),
        knockout=knockout,
        unscored=unscored,
        curves={name: figure.layout.title.text for name, figure in curves.items()},
        examples=examples,
    )
    return path


DEFINITIONS = {
    "mean gate": mean_gate,
    "spread": spread,
    "specificity": specificity,
    "effect": effect,
    "agreement": agreement,
    "at the low end": share_low,
    "at the high end": share_high,
}


def facts(recording: Recording, model: nn.Module | None, knockout: KnockoutStudy | None) -> list[str]:
    """Return the facts at the top of the page: data, classes, parameters, accuracy."""
    source = Path(recording.provenance.get("data", "a data set")).name  # the folders around it are in the footer
    said = [f"{recording.num_images:,} images of {source}"]
    if recording.class_names:
        said.append(f"{len(recording.class_names)} classes")
    if model is not None:
        said.append(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    if knockout is not None:
        said.append(f"top-1 {knockout.whole.top1:.2f} %")
    return said


def stages(recording: Recording, numbers: Sequence[BlockStatistics]) -> list[dict[str, Any]]:
    """Return the network's stages with their blocks, each with its number."""
    blocks = [record.block for record in recording.blocks]
    found = []
    for stage, group in groupby(range(len(blocks)), key=lambda i: blocks[i].name.split("_")[1]):
        members = list(group)
        at = blocks[members[-1]]
        listed = [(i, numbers[i]) for i in members]
        found.append({"number": stage, "side": at.side, "channels": at.channels, "blocks": listed})
    return found


def first_classes(recording: Recording, shown: Sequence[int]) -> list[str]:
    """Return the classes that are drawn at first."""
    names = [recording.class_names[k] for k in shown]
    return [name for name in default_classes(recording) if name in names] or names[:1]


# ---- data ------------------------------------------------------------------------------------------------------------


def shown_classes(recording: Recording) -> list[int]:
    """Return the numbers of the classes that are in the page."""
    seen = [k for k in range(len(recording.class_names)) if recording.blocks[0].count[k]]
    room = max(1, NUMBERS // (2 * 50 * len(recording.blocks)))
    step = -(-len(seen) // room)
    return seen[:: max(1, step)]


def rounded(values: Tensor) -> Any:
    """Return numbers with four decimals."""
    return (values * 1e4).round().div(1e4).tolist()


def block_data(record: BlockRecord, numbers: BlockStatistics, classes: Sequence[int]) -> dict[str, Any]:
    """Return what the page draws of a block."""
    chosen = sampled_channels(record.block.channels)
    return {
        "name": record.block.name,
        "channels": record.block.channels,
        "low": record.block.low,
        "high": record.block.high,
        "channel": chosen.tolist(),
        "allMean": rounded(record.overall_mean[chosen]),
        "allDeviation": rounded(record.overall_variance[chosen].sqrt()),
        "mean": [rounded(record.mean[k][chosen]) for k in classes],
        "deviation": [rounded(record.variance[k][chosen].sqrt()) for k in classes],
        "text": block_text(record.block, numbers),
    }


def block_text(block: GateBlock, numbers: BlockStatistics) -> str:
    """Describe a block in two sentences."""
    side = " x ".join(map(str, block.side))
    said = f"{block.module}: {block.channels} channels of {side}. "
    outer = f"{numbers.low + numbers.high:.0%} of the gates are in the outer tenths of their range"
    if numbers.specificity is None:
        return f"{said}{outer}."
    return (
        f"{said}{numbers.specificity:.0%} of the variance is between classes, which move a gate by "
        f"{numbers.effect:.3f} of its range (one standard deviation); {outer}."
    )


def training_curves(metrics: Sequence[Mapping[str, float]]) -> dict[str, go.Figure]:
    """Draw loss and accuracy over the epochs of a run."""
    if not metrics:
        return {}
    epochs = [row["epoch"] for row in metrics]
    drawn = {
        "loss-curve": ("Loss, nats", {"training": "train_loss", "evaluation": "loss"}),
        "accuracy-curve": ("Top-1 accuracy, %", {"evaluation": "top1"}),
    }
    figures = {}
    for name, (title, lines) in drawn.items():
        figure = go.Figure()
        for i, (label, key) in enumerate(lines.items()):
            style = {"color": COLORS[i]}
            figure.add_scatter(x=epochs, y=[row.get(key) for row in metrics], name=label, mode="lines", line=style)
        figure.update_layout(title=title, xaxis_title="epoch", **LAYOUT)
        figures[name] = figure
    return figures


def example_data(example: Example, recording: Recording) -> dict[str, Any]:
    """Return the channels that the gates raise and lower most, against the mean over all images, for each block."""
    return {r.block.name: most_changed(example.gates[r.block.name] - r.overall_mean) for r in recording.blocks}


def most_changed(change: Tensor) -> dict[str, list[list[float]]]:
    """Return the channels whose gates are highest and lowest, with by how much, against their mean.

    Args:
        change: (C,), the gates less their mean.
    """
    order = change.argsort()
    pairs = {"raised": order.flip(0)[:TOP], "lowered": order[:TOP]}
    return {kind: [[int(c), round(float(change[c]), 3)] for c in chosen] for kind, chosen in pairs.items()}
