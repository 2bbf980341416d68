"""One self-contained HTML page about how well networks do: class by class, confusions, calibration, mistakes."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from senet.analysis.gates import GateBlock, find_blocks, gate_hooks
from senet.analysis.pages import thumbnail, write_page
from senet.analysis.report import most_changed
from senet.data.images import ImageSplit
from senet.data.preprocessing import Preprocessing
from senet.data.reading import naming
from senet.errors import SenetError
from senet.evaluation.batches import open_model
from senet.evaluation.comparison import Comparison, EvaluationReport
from senet.evaluation.functions import Network
from senet.files import check_page
from senet.nn.modes import borrowed, device_of, dtype_of

MATRIX = 30
"""Classes that a matrix shows with numbers; of more it shows those that are confused most."""
PAIRS = 30
"""Confused pairs of classes that are listed."""
AVERAGED = 200
"""Images over which the mean gates are taken, at equal distances in the data set."""
AT_ONCE = 16
"""Images of a batch."""


def write_evaluation_page(comparison: Comparison, output: str | Path = "evaluation.html") -> Path:
    """Write an HTML page about networks that were evaluated; open it in a browser.

    Cost: it reads the images of the mistakes again, and, of networks with SE blocks, runs up to 200 images again.

    Args:
        comparison: from `senet.compare`.
        output: the page, one HTML file that needs no network.

    Returns:
        The page's path.

    Raises:
        SenetError: the file cannot be written.
    """
    path = Path(output)
    check_page(path)
    reports = comparison.all_reports
    first = reports[0]
    pictures = pictures_of(reports)
    networks: list[Network | None] = [*comparison.networks, None]
    gates = [gates_of_mistakes(network, report, pictures) for network, report in zip(networks, reports, strict=False)]
    write_page(
        path,
        "evaluation",
        title=f"How well {first.name if len(reports) == 1 else f'{len(comparison.networks)} networks'} "
        f"{'does' if len(reports) == 1 else 'do'}",
        facts=facts(first),
        provenance=[f"data: {first.source}", *(f"{report.name}: {report.seconds:.1f} s" for report in reports)],
        data={
            "matrix": MATRIX,
            "pairs": PAIRS,
            "reports": [report_data(report, found) for report, found in zip(reports, gates, strict=True)],
            "pictures": pictures,
        },
        reports=reports,
        tests=comparison.tests,
        has_gates=any(gates),
        has_many_classes=any(len(report.classes) > MATRIX for report in reports),
        has_pictures=bool(pictures),
        averaged=AVERAGED,
        matrix=MATRIX,
    )
    return path


def facts(report: EvaluationReport) -> list[str]:
    """Return the facts at the top of the page: data, classes, the largest of them."""
    found = report.evaluation
    said = [f"{found.num_images:,} images of {Path(report.source).name}", f"{found.num_classes} classes"]
    if report.is_imbalanced:
        largest = max(report.classes, key=lambda each: each.support).class_name
        said.append(f"always predicting {largest}, the largest class: top-1 {found.largest_class:.2f} %")
    return said


def report_data(report: EvaluationReport, gates: Mapping[int, Any]) -> dict[str, Any]:
    """Return what the page draws of a network."""
    rows, columns = report.confusion.nonzero()
    return {
        "name": report.name,
        "ece": round(report.ece, 2),
        "classes": [
            [each.class_name, each.support, each.predicted, *map(shortened, (each.precision, each.recall, each.f1))]
            for each in report.classes
        ],
        "confusion": np.stack([rows, columns, report.confusion[rows, columns]], 1).tolist(),
        "bins": [
            [round(each.low, 4), round(each.high, 4), each.count, shortened(each.confidence), shortened(each.accuracy)]
            for each in report.bins
        ],
        "mistakes": [
            {
                "index": each.index,
                "image": Path(each.image).name if report.images and report.images.files else f"image {each.index}",
                "label": each.class_name,
                "prediction": each.prediction,
                "probability": round(each.probability, 4),
                "own": round(each.own_probability, 4),
                "gates": gates.get(each.index),
            }
            for each in report.mistakes
        ],
        "blocks": list(next(iter(gates.values()), {})),
    }


def shortened(value: float | None) -> float | None:
    """Return a percentage with two decimals."""
    return None if value is None else round(value, 2)


# ---- pictures and gates ----------------------------------------------------------------------------------------------


def pictures_of(reports: Sequence[EvaluationReport]) -> dict[int, str]:
    """Return the pictures of all mistakes as data URIs, by their number in the data set."""
    found = {}
    for report in reports:
        if report.images is None or report.preprocessing is None:
            continue
        for mistake in report.mistakes:
            if mistake.index not in found:
                found[mistake.index] = thumbnail(report.images, mistake.index, report.preprocessing.in_channels)
    return found


def gates_of_mistakes(
    network: Network | None, report: EvaluationReport, pictures: Mapping[int, str]
) -> dict[int, dict[str, Any]]:
    """Return for each mistake and block the channels that are raised and lowered most; empty without SE blocks.

    Args:
        network: None for an ensemble.
        report: of the network.
        pictures: by the numbers of the images.
    """
    images, preprocessing = report.images, report.preprocessing
    wanted = [mistake.index for mistake in report.mistakes if mistake.index in pictures]
    if network is None or images is None or preprocessing is None or not wanted:
        return {}
    model = open_model(network)
    try:
        blocks = find_blocks(model)
    except SenetError:  # it has none
        return {}
    spread = np.unique(np.linspace(0, len(images) - 1, min(AVERAGED, len(images))).round().astype(int)).tolist()
    found = gates_of_images(model, blocks, images, preprocessing, [*wanted, *spread])
    changes = {name: values[: len(wanted)] - values[len(wanted) :].mean(0) for name, values in found.items()}
    return {
        index: {name: most_changed(change[i]) for name, change in changes.items()} for i, index in enumerate(wanted)
    }


@torch.no_grad()
def gates_of_images(
    model: torch.nn.Module,
    blocks: tuple[GateBlock, ...],
    images: ImageSplit,
    preprocessing: Preprocessing,
    indices: Sequence[int],
) -> dict[str, Tensor]:
    """Return the gates (N, C) of each block for some images.

    Args:
        model: the network.
        blocks: of the network.
        images: all images.
        preprocessing: of the network.
        indices: N numbers of images.
    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    to_tensor = preprocessing.build()

    def on_gates(block: GateBlock, values: Tensor) -> None:
        found[block.name].append(values.float().cpu())

    with borrowed(model), gate_hooks(model, blocks, on_gates):
        for start in range(0, len(indices), AT_ONCE):
            pixels = []
            for index in indices[start : start + AT_ONCE]:
                with naming(images.name(index)):
                    pixels.append(to_tensor(images[index][0]))
            model(torch.stack(pixels).to(device_of(model), dtype_of(model)))
    return {block.name: torch.cat(found[block.name]) for block in blocks}
