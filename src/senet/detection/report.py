"""All that is told of a detector: COCO's figures, its curves, and what it does from a threshold on the score on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from senet.configs import from_dict
from senet.data.channels import to_rgb
from senet.data.division import Division
from senet.data.reading import naming
from senet.detection.data_config import DetectionDataConfig
from senet.detection.datasets import open_detection_split
from senet.detection.evaluation import Curves, DetectionEvaluation, Outputs, curves_of, detections_of, evaluation_of
from senet.detection.loading import build_detection_loader, read_pixels
from senet.detection.matching import Matches, ThresholdFigures, at_threshold, best_threshold, match_detections
from senet.detection.opening import TASK, check_scaled, names_of_classes, open_detector
from senet.detection.prediction import AT_ONCE
from senet.errors import SenetError
from senet.evaluation.functions import Network, name_of
from senet.files import parse_json
from senet.nn.modes import device_of
from senet.nn.precision import Precision, check_precision, computing
from senet.processes import current_team
from senet.terminal import tracked
from senet.weights.checkpoint import CONFIG_FILE

IOU = 0.5
"""Of a detection that counts as right in the report."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionReport:
    """How well a detector finds the objects of a data set, with what is needed to show it.

    Args:
        name: of the detector.
        source: of the images.
        ground_truth: the objects, as COCO's json.
        detections: what was found, as COCO's results.
        evaluation: COCO's figures.
        curves: precision and recall.
        matches: of detections and objects, at an IoU of 0.5.
        overall: precision and recall from the threshold on.
        by_class: likewise for each class, by its category's number.
        picture_of: reads the RGB picture to which an image's boxes refer, by its number; None if there is none.
        model: the detector; None for detections that were saved.
        seconds: that finding them took.
    """

    name: str
    source: str
    ground_truth: Mapping[str, Any]
    detections: Sequence[Mapping[str, Any]]
    evaluation: DetectionEvaluation
    curves: Curves
    matches: Matches
    overall: ThresholdFigures
    by_class: Mapping[int, ThresholdFigures]
    picture_of: Callable[[int], Image.Image] | None = None
    model: nn.Module | None = None
    seconds: float = 0.0

    @property
    def threshold(self) -> float:
        """The lowest score that counts for what is said of single detections."""
        return self.overall.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values."""
        found = asdict(self.evaluation)
        for each in found["classes"]:
            each["at_threshold"] = asdict(self.by_class[each["category_id"]])
        return {
            "name": self.name,
            "source": self.source,
            **found,
            "threshold": self.threshold,
            "at_threshold": asdict(self.overall),
            "seconds": round(self.seconds, 3),
        }


def report_on(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    name: str | Path,
    source: str,
    threshold: float | None = None,
    picture_of: Callable[[int], Image.Image] | None = None,
    model: nn.Module | None = None,
    seconds: float = 0.0,
) -> DetectionReport:
    """Return the report on detections.

    Args:
        ground_truth: see `senet.detection.evaluation.score_detections`.
        detections: likewise.
        name: see `DetectionReport`, as are the others.
        source: of the images.
        threshold: the lowest score that counts, 0 to 1; None for the one with the highest F1, see `best_threshold`.
        picture_of: reads a picture.
        model: the detector.
        seconds: that it took.

    Raises:
        SenetError: see `score_detections`; or the threshold is no score.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise SenetError(f"threshold is {threshold}; expected 0 to 1, such as 0.5")
    curves = curves_of(ground_truth, detections)
    matches = match_detections(ground_truth, detections, iou=IOU)
    if threshold is None:
        threshold = best_threshold(ground_truth, detections, matches)
    categories = [category["id"] for category in ground_truth["categories"]]
    return DetectionReport(
        name=str(name),
        source=source,
        ground_truth=ground_truth,
        detections=detections,
        evaluation=evaluation_of(ground_truth, detections, curves),
        curves=curves,
        matches=matches,
        overall=at_threshold(ground_truth, detections, matches, threshold),
        by_class={i: at_threshold(ground_truth, detections, matches, threshold, i) for i in categories},
        picture_of=picture_of,
        model=model,
        seconds=seconds,
    )


# ---- detectors -------------------------------------------------------------------------------------------------------


def report_detector(
    run_or_model: Network,
    data: DetectionDataConfig | str | Path | None = None,
    *,
    batch_size: int = AT_ONCE,
    threshold: float | None = None,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
) -> DetectionReport:
    """Evaluate a detector on the evaluation images of a data set.

    Inside `shared_work` every process runs its share of the images and returns the report on all of them.

    Args:
        run_or_model: a detector, or the run or model folder or hub id of one.
        data: a folder, or its configuration; None for the data that a run was trained on.
        batch_size: images at once; only those of one size are run together.
        threshold: see `report_on`.
        precision: see `senet.evaluate`.
        device: see `senet.evaluate`.

    Raises:
        SenetError: a network that does not detect, data of other classes or without objects.
        MissingExtraError: faster-coco-eval is not installed.
    """
    if batch_size < 1:
        raise SenetError(f"batch_size is {batch_size}; expected at least 1")
    if data is None and isinstance(run_or_model, str | Path):
        data = run_detection_data(run_or_model)
    if data is None:
        raise SenetError("data is missing: name a folder of images with boxes to evaluate on")
    given = data if isinstance(data, DetectionDataConfig) else DetectionDataConfig(dataset=str(data))
    config = replace(given, in_memory=False)  # each image is read once
    model = open_detector(run_or_model, device)
    place = device_of(model)
    check_precision("precision", precision, place)
    split = open_detection_split(config, "eval", names_of_classes(model))
    transform: Any = model.transform
    for record in split.records:
        check_scaled(record.file, (record.width, record.height), transform.min_size, transform.max_size)
    team = current_team()
    division = Division(num_replicas=team.size, num_processes=team.size, process=team.rank)
    loader = build_detection_loader(config, split, "eval", batch_size, place, division=division)
    batches = tracked(loader.batches(0), f"Detecting in {split.source}", len(loader))

    def forward(images: list[torch.Tensor]) -> list[Outputs]:
        with computing(place, precision):
            found: list[Outputs] = model(images)
        return found

    start = time.perf_counter()
    detections = detections_of(model, batches, split.category_ids, forward=forward, team=team)
    seconds = max(team.everyone(time.perf_counter() - start))
    records = {record.image_id: record for record in split.records}

    def picture_of(image_id: int) -> Image.Image:
        record = records[image_id]
        with naming(record.file):
            return to_rgb(v2.functional.to_pil_image(read_pixels(record)), 3)

    return report_on(
        split.ground_truth(),
        detections,
        name=name_of(run_or_model),
        source=split.source,
        threshold=threshold,
        picture_of=picture_of,
        model=model,
        seconds=seconds,
    )


def run_detection_data(source: str | Path) -> DetectionDataConfig | None:
    """Return the data that a run was trained on to detect; None if `source` is not such a run or a folder in it.

    Raises:
        SenetError: the run's configuration cannot be read.
    """
    for folder in (Path(source), Path(source).parent):
        path = folder / CONFIG_FILE
        try:
            values = parse_json(path.read_text())
            if values.get("task") == TASK and values.get("data") is not None:
                return from_dict(DetectionDataConfig, values["data"], name="data")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SenetError(f"{path} is not the configuration of a run or model ({error})") from error
    return None
