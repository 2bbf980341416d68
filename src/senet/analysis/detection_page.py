"""One self-contained HTML page about a detector: precision and recall, class by class, right and wrong boxes, gates."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from senet.analysis.measures import effect, mean_gate, sampled_channels, specificity, spread
from senet.analysis.object_gates import PER_CLASS, ObjectGates, record_object_gates
from senet.analysis.pages import data_uri, write_page
from senet.analysis.recording import BlockRecord, Recording
from senet.detection.drawing import Color, DrawnBox, Line, draw_boxes, scaled_box
from senet.detection.evaluation import AP50, AP75, AREAS
from senet.detection.report import DetectionReport
from senet.errors import SenetError
from senet.files import check_page

PICTURE = 480
"""Largest side of a picture with boxes, in pixels."""
EXAMPLES = 6
"""Pictures with most objects missed, with most wrong boxes, and without a mistake: so many of each."""
STYLES: Mapping[str, tuple[Color, Line]] = {
    "right": ((0, 114, 178), "solid"),
    "missed": ((230, 159, 0), "dashed"),
    "wrong": ((213, 94, 0), "dotted"),
}
"""How boxes are drawn: color, line; and the word is written on each."""
STEP = 5
"""Of the recalls in the table of a curve, in hundredths."""


def write_detection_page(report: DetectionReport, output: str | Path = "detection.html") -> Path:
    """Write an HTML page about a detector that was evaluated; open it in a browser.

    Cost: it reads up to 18 pictures for the examples; for a detector with SE blocks its trunk runs on up to 50 objects
    of each class.

    Args:
        report: from `senet.detection.report.report_on`.
        output: the page, one HTML file that needs no network.

    Returns:
        The page's path.

    Raises:
        SenetError: the file cannot be written, or a picture not read.
    """
    path = Path(output)
    check_page(path)
    gates = gates_of(report)
    found = report.evaluation
    write_page(
        path,
        "detection",
        title=f"How well {report.name} detects",
        facts=[
            f"{found.num_objects:,} objects in {found.num_images:,} images of {Path(report.source).name}",
            f"{sum(each.num_objects > 0 for each in found.classes)} classes",
            f"{found.num_detections:,} detections",
        ],
        provenance=[f"data: {report.source}", *([f"{report.seconds:.1f} s"] if report.seconds else [])],
        data={
            "recalls": report.curves.recalls.round(2).tolist(),
            "step": STEP,
            "curves": curve_data(report),
            "classes": class_rows(report),
            "examples": examples_of(report),
            "gates": None if gates is None else gate_data(gates),
        },
        figures=found,
        overall=report.overall,
        has_pictures=report.picture_of is not None,
        gates=None if gates is None else {"side": gates.side, "per_class": PER_CLASS, "counts": size_counts(gates)},
        limits={size: round(AREAS[size][1] ** 0.5) for size in ("small", "medium")},
    )
    return path


# ---- curves and classes ----------------------------------------------------------------------------------------------


def curve_data(report: DetectionReport) -> list[dict[str, Any]]:
    """Return the precision in % at each recall, of all classes together and of each that has objects."""
    precision_TRK = report.curves.precision_TRKAM[:, :, :, 0, -1]
    drawn = []
    with_objects = [k for k, each in enumerate(report.evaluation.classes) if each.figures is not None]
    choices = [("all classes, their mean", with_objects)]
    choices += [(report.evaluation.classes[k].class_name, [k]) for k in with_objects]
    for name, classes in choices:
        mean_TR = 100 * precision_TRK[:, :, classes].mean(2)
        values = {"IoU 0.5": mean_TR[AP50], "IoU 0.75": mean_TR[AP75], "mean, 0.5 to 0.95": mean_TR.mean(0)}
        drawn.append({"name": name, "lines": {key: line.round(2).tolist() for key, line in values.items()}})
    return drawn


def class_rows(report: DetectionReport) -> list[list[Any]]:
    """Return the rows of the table of classes; numbers that there are not are None."""
    rows = []
    for each in report.evaluation.classes:
        at, of = report.by_class[each.category_id], each.figures
        figures = (None, None, None, None) if of is None else (of.ap, of.ap50, of.ap75, of.ar100)
        rows.append(
            [
                each.class_name,
                each.num_objects,
                each.num_images,
                each.num_detections,
                *map(shortened, (*figures, at.precision, at.recall)),
            ]
        )
    return rows


def shortened(value: float | None) -> float | None:
    """Return a percentage with two decimals."""
    return None if value is None else round(value, 2)


# ---- examples --------------------------------------------------------------------------------------------------------


def examples_of(report: DetectionReport) -> list[dict[str, Any]]:
    """Return pictures with their boxes drawn: those with most mistakes, and some without."""
    if report.picture_of is None:
        return []
    boxes = boxes_of(report)
    files = {image["id"]: image.get("file_name", f"image {image['id']}") for image in report.ground_truth["images"]}
    shown = []
    for heading, image_id in chosen_images(report, boxes):
        counts = Counter(kind for kind, _, _ in boxes[image_id])
        shown.append(
            {
                "why": heading,
                "image": Path(str(files[image_id])).name,
                "picture": data_uri(drawn(report.picture_of(image_id), boxes[image_id])),
                **{kind: counts[kind] for kind in STYLES},
            }
        )
    return shown


BoxToShow = tuple[str, str, Sequence[float]]
"""Its kind, of `STYLES`; its text; x, y, width and height."""


def boxes_of(report: DetectionReport) -> dict[int, list[BoxToShow]]:
    """Return the boxes of every image: detections from the threshold on, right or wrong, and the objects missed."""
    names = {category["id"]: str(category["name"]) for category in report.ground_truth["categories"]}
    boxes: dict[int, list[BoxToShow]] = {image["id"]: [] for image in report.ground_truth["images"]}
    for each, outcome in zip(report.detections, report.matches.outcomes, strict=True):
        if each["score"] >= report.threshold and outcome != "ignored":
            text = f"{outcome}: {names[each['category_id']]} {each['score']:.2f}"
            boxes[each["image_id"]].append((outcome, text, each["bbox"]))
    for each, found in zip(report.ground_truth["annotations"], report.matches.found, strict=True):
        is_found = found is not None and report.detections[found]["score"] >= report.threshold
        if not is_found and not each.get("iscrowd", 0) and each["image_id"] in boxes and each["category_id"] in names:
            boxes[each["image_id"]].append(("missed", f"missed: {names[each['category_id']]}", each["bbox"]))
    return boxes


def chosen_images(report: DetectionReport, boxes: Mapping[int, Sequence[BoxToShow]]) -> list[tuple[str, int]]:
    """Return the images to show, each once, with why: most missed, most wrong boxes, no mistake."""
    counts = {image_id: Counter(kind for kind, _, _ in of_image) for image_id, of_image in boxes.items()}
    clean = {i: c["right"] if not c["missed"] + c["wrong"] else 0 for i, c in counts.items()}
    ranked = {
        "most objects missed": {i: c["missed"] for i, c in counts.items()},
        "most wrong boxes": {i: c["wrong"] for i, c in counts.items()},
        "no mistake": clean,
    }
    chosen: dict[int, str] = {}
    for why, numbers in ranked.items():
        free = [i for i, number in numbers.items() if number and i not in chosen]
        for image_id in sorted(free, key=lambda i: (-numbers[i], i))[:EXAMPLES]:  # used at once
            chosen[image_id] = why
    return [(why, image_id) for image_id, why in chosen.items()]


def drawn(picture: Image.Image, boxes: Sequence[BoxToShow]) -> Image.Image:
    """Return a picture of the page's size with boxes, the mistakes on top."""
    scale = min(1.0, PICTURE / max(picture.size))
    small = picture.resize([max(1, round(scale * side)) for side in picture.size], Image.Resampling.LANCZOS)
    order = sorted(boxes, key=lambda each: list(STYLES)[::-1].index(each[0]))
    return draw_boxes(
        small,
        [
            DrawnBox(
                box=scaled_box((x, y, x + width, y + height), scale),
                text=text,
                color=STYLES[kind][0],
                line=STYLES[kind][1],
            )
            for kind, text, (x, y, width, height) in order
        ],
    )


# ---- gates -----------------------------------------------------------------------------------------------------------


def gates_of(report: DetectionReport) -> ObjectGates | None:
    """Return the gates on objects; None for a detector without SE blocks, or where there are no pictures."""
    if report.model is None or report.picture_of is None:
        return None
    try:
        return record_object_gates(report.model, report.ground_truth, report.picture_of)
    except SenetError as error:
        if "has no gates" in str(error):
            return None
        raise


def gate_data(gates: ObjectGates) -> list[dict[str, Any]]:
    """Return what the page draws and tells of each block."""
    found = []
    for of_class, of_size in zip(gates.by_class.blocks, gates.by_size.blocks, strict=True):
        channels = sampled_channels(of_class.block.channels)
        found.append(
            {
                "name": of_class.block.name,
                "low": of_class.block.low,
                "high": of_class.block.high,
                "numbers": [
                    rounded(value)
                    for value in (
                        mean_gate(of_class),
                        spread(of_class),
                        *(measure(record) for measure in (specificity, effect) for record in (of_class, of_size)),
                    )
                ],
                "channels": channels.tolist(),
                "all": of_class.overall_mean[channels].mul(1000).round().div(1000).tolist(),
                "class": lines_of(gates.by_class, of_class, channels),
                "size": lines_of(gates.by_size, of_size, channels),
            }
        )
    return found


def lines_of(recording: Recording, record: BlockRecord, channels: Any) -> list[dict[str, Any]]:
    """Return the mean gates of each class, or size, that has objects."""
    return [
        {"name": name, "objects": count, "gates": mean[channels].mul(1000).round().div(1000).tolist()}
        for name, count, mean in zip(recording.class_names, record.count.tolist(), record.mean, strict=True)
        if count
    ]


def size_counts(gates: ObjectGates) -> dict[str, int]:
    """Return how many objects of each size the gates are of."""
    counts: dict[str, int] = defaultdict(int)
    counts.update(zip(gates.by_size.class_names, gates.by_size.blocks[0].count.tolist(), strict=True))
    return counts


def rounded(value: float | None) -> float | None:
    """Return a number with three decimals."""
    return None if value is None else round(float(value), 3)
