"""The comparison that comes with every export of a detector: what both find on the same pictures."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from senet.deployment.machine import size_of, versions
from senet.deployment.timing import Latency, latencies

SIZES = ((64, 96), (96, 64), (120, 120), (80, 200))
"""Height and width of the generated pictures, in pixels."""
SAME = 0.9
"""Overlap (intersection over union) from which two boxes of one class are the same."""
MATCHED, SCORE, PIXELS = 0.99, 1e-3, 1.0
"""The tolerance: share of matched boxes at least, differences of scores and of corners in pixels at most."""


@dataclass(frozen=True, kw_only=True)
class DetectionParity:
    """How an exported detector differs from the original.

    Args:
        original: where it is from.
        exported: the file.
        source: of the pictures.
        num_images: pictures.
        boxes: found by both together, each pair counted once.
        matched: share of them that both found, in [0, 1]; None if neither found any.
        largest_pixels: largest difference of a corner of matched boxes, in pixels.
        mean_pixels: mean difference likewise.
        largest_score: largest difference of the scores of matched boxes.
        problems: what is beyond the tolerance, each in a sentence.
        latencies: of one picture, in turn.
        file_bytes: size of the file.
        versions: of the packages.
    """

    original: str
    exported: str
    source: str
    num_images: int
    boxes: int
    matched: float | None
    largest_pixels: float
    mean_pixels: float
    largest_score: float
    problems: tuple[str, ...]
    latencies: tuple[Latency, ...]
    file_bytes: int
    versions: dict[str, str]

    @property
    def within_tolerance(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "within_tolerance": self.within_tolerance}


def generated(seed: int = 0) -> list[Tensor]:
    """Return pictures of noise with rectangles of one color, (3, H, W) in [0, 1], at multiples of 1/255."""
    random, pictures = torch.Generator().manual_seed(seed), []
    for height, width in SIZES:
        picture = 0.3 + 0.4 * torch.rand(3, height, width, generator=random)
        for _ in range(3):
            side = int(torch.randint(16, 36, (), generator=random))
            top, left = (int(torch.randint(0, end - side, (), generator=random)) for end in (height, width))
            picture[:, top : top + side, left : left + side] = torch.rand(3, 1, 1, generator=random)
        pictures.append((255 * picture).round() / 255)
    return pictures


def compare_detectors(original: nn.Module, exported: nn.Module, path: Path, names: tuple[str, str]) -> DetectionParity:
    """Compare two detectors on generated pictures.

    Args:
        original: in evaluation mode, on the CPU.
        exported: the opened file.
        path: of the file.
        names: of both, for the report.
    """
    pictures = generated()
    boxes, pixels, scores = 0, [torch.zeros(0)], [torch.zeros(0)]
    with torch.no_grad():
        for picture in pictures:
            first, second = original([picture])[0], exported([picture])[0]
            pairs = matches(first, second)
            boxes += len(first["boxes"]) + len(second["boxes"]) - len(pairs)
            left, right = pairs.unbind(1)
            pixels.append((first["boxes"][left] - second["boxes"][right]).abs().amax(1))
            scores.append((first["scores"][left] - second["scores"][right]).abs())
        smallest = pictures[:1]
        contestants = {"original": lambda: original(smallest), "exported": lambda: exported(smallest)}
        times = latencies(contestants, 1, time.perf_counter)
    distance, change = torch.cat(pixels), torch.cat(scores)
    matched = len(distance) / boxes if boxes else None
    largest, score = (float(each.max()) if len(each) else 0.0 for each in (distance, change))
    return DetectionParity(
        original=names[0],
        exported=names[1],
        source="generated pictures",
        num_images=len(pictures),
        boxes=boxes,
        matched=matched,
        largest_pixels=largest,
        mean_pixels=float(distance.mean()) if len(distance) else 0.0,
        largest_score=score,
        problems=problems(matched, largest, score),
        latencies=times,
        file_bytes=size_of(path),
        versions=versions(),
    )


def matches(first: dict[str, Tensor], second: dict[str, Tensor]) -> Tensor:
    """Return the pairs (n, 2) of boxes of one class that overlap by `SAME` at least, each box once, best first."""
    overlap = box_iou(first["boxes"], second["boxes"])
    overlap = overlap.where(first["labels"][:, None] == second["labels"][None], 0.0)
    pairs: list[tuple[int, int]] = []
    while overlap.numel() and float(overlap.max()) >= SAME:
        i, j = divmod(int(overlap.argmax()), overlap.shape[1])
        pairs.append((i, j))
        overlap[i], overlap[:, j] = 0.0, 0.0
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def problems(matched: float | None, pixels: float, score: float) -> tuple[str, ...]:
    """Return what is beyond the tolerance."""
    found = []
    if matched is not None and matched < MATCHED:
        found.append(f"{100 * matched:.1f} % of the boxes are found by both; expected {100 * MATCHED:.0f} % at least")
    if not pixels <= PIXELS:
        found.append(f"a corner is off by {pixels:.3g} pixels; expected {PIXELS:g} at most")
    if not score <= SCORE:
        found.append(f"a score is off by {score:.3g}; expected {SCORE:g} at most")
    return tuple(found)
