"""One self-contained HTML page about an exported detector: whether it finds the same, what only one finds, how fast."""

from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from senet.analysis.detection_page import PICTURE
from senet.analysis.pages import data_uri, write_page
from senet.deployment.detection_parity import DetectionParity, LoneBox
from senet.deployment.parity_page import heading
from senet.detection.drawing import DrawnBox, class_color, draw_boxes, scaled_box
from senet.files import check_page

PICTURES = 12
"""With boxes that only one found, at most."""


def write_detection_parity_page(report: DetectionParity, output: str | Path = "parity.html") -> Path:
    """Write an HTML page about a comparison of detectors; open it in a browser.

    Args:
        report: from `senet.deployment.detection_parity.compare_detectors`.
        output: the page, one HTML file that needs no network.

    Returns:
        The page's path.

    Raises:
        SenetError: the file cannot be written.
    """
    path = Path(output)
    check_page(path)
    lone = [{**vars(each), "image": Path(each.image).name} for each in report.lone]
    write_page(
        path,
        "detection_parity",
        **heading(report, "fp32"),
        data={
            **report.to_dict(),
            "lone": lone,
            "differences": [list(each) for each in report.differences],
            "pictures": pictures_of(report),
        },
        scripts=("latency",),
        report=report,
        precision=report.precision,
        machine=report.processor.described("fp32"),
    )
    return path


def pictures_of(report: DetectionParity) -> list[dict[str, Any]]:
    """Return the pictures with boxes that only one found, drawn into them, as data URIs."""
    if report.photos is None:
        return []
    by_picture: dict[int, list[LoneBox]] = {}
    for each in report.lone:
        by_picture.setdefault(each.index, []).append(each)
    return [
        {"image": Path(boxes[0].image).name, "picture": data_uri(drawn(report.photos.read(index), boxes))}
        for index, boxes in list(by_picture.items())[:PICTURES]
    ]


def drawn(picture: Any, boxes: list[LoneBox]) -> Image.Image:
    """Return a picture (3, H, W) of the page's size with boxes."""
    whole = to_pil_image(picture)
    scale = min(1.0, PICTURE / max(whole.size))
    small = whole.resize([max(1, round(scale * side)) for side in whole.size], Image.Resampling.LANCZOS)
    return draw_boxes(
        small,
        [
            DrawnBox(
                box=scaled_box(each.box, scale),
                text=f"{each.found_by}: {each.class_name} {each.score:.2f}",
                color=class_color(0 if each.found_by == "original" else 1),
                line="solid" if each.found_by == "original" else "dashed",
            )
            for each in boxes
        ],
    )
