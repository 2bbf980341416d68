"""The parity report of a detector: what the exported file and its original find on the same pictures."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.deployment.average_precision import PairedPrecision, paired_precision
from senet.deployment.boxes import PIXELS, SCORE, Comparison, Found, compare_boxes
from senet.deployment.machine import Processor, processor, size_of, versions
from senet.deployment.photos import Photos, PhotoSource, photos_for
from senet.deployment.timing import Latency, latencies
from senet.detection.evaluation import coco_results
from senet.detection.opening import names_of_classes, open_detector
from senet.detection.report import run_detection_data
from senet.errors import MissingExtraError, SenetError, warn
from senet.evaluation.functions import Network, name_of
from senet.nn.modes import eval_mode

PHOTOS = 50
"""Pictures that are compared unless others are asked for: two minutes of two cores for ResNet-50 at 800 pixels."""
LONE = 0.005
"""The share of the boxes that only one of the two may find."""
TOLD = 0.5
"""No box with such a score may be found by only one: `senet predict` tells of it."""
LOST = 0.5
"""Average precision that may be lost, in points."""
KEPT = 50
"""Boxes that only one finds, of which the report tells: those with the best scores."""
DRAWN = 2000
"""Pairs whose differences the page draws: the largest ones."""


@dataclass(frozen=True, kw_only=True)
class LoneBox:
    """A box that only one of the two finds.

    Args:
        image: its file, or number.
        index: number of the picture among those that were compared.
        found_by: "original" or "exported".
        class_name: of the object.
        score: 0 to 1.
        box: x1, y1, x2, y2 in pixels.
    """

    image: str
    index: int
    found_by: str
    class_name: str
    score: float
    box: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class DetectionParity:
    """How an exported detector differs from the original.

    Args:
        original: where it is from.
        exported: the file.
        source: of the pictures.
        num_images: pictures.
        unscored: why no average precision was measured; empty if it was.
        pairs: boxes that both found.
        tied: boxes of either that the other lacks because of equal scores, see `senet.deployment.boxes`.
        only_original: boxes that only the original found, without those.
        only_exported: likewise.
        largest_pixels: largest difference of a corner of a pair, in pixels.
        mean_pixels: mean over the pairs of that difference.
        largest_score: largest difference of the scores of a pair.
        mean_score: mean likewise.
        lone: some of the boxes that only one found, best scores first.
        precision: average precision of both; None if `unscored`.
        latencies: of one picture, in turn; empty if they were not timed.
        file_size: of the file in bytes.
        original_size: of the original's parameters and buffers in bytes.
        processor: on which all this was measured.
        versions: of the packages.
        problems: what is beyond the tolerance, each in a sentence.
        differences: (score, pixels, difference of the scores) of pairs, for the page.
        photos: for the page.
    """

    original: str
    exported: str
    source: str
    num_images: int
    unscored: str
    pairs: int
    tied: int
    only_original: int
    only_exported: int
    largest_pixels: float
    mean_pixels: float
    largest_score: float
    mean_score: float
    lone: tuple[LoneBox, ...]
    precision: PairedPrecision | None
    latencies: tuple[Latency, ...]
    file_size: int
    original_size: int
    processor: Processor
    versions: Mapping[str, str]
    problems: tuple[str, ...]
    differences: tuple[tuple[float, float, float], ...] = field(default=(), repr=False, compare=False)
    photos: Photos | None = field(default=None, repr=False, compare=False)

    @property
    def within_tolerance(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not self.problems

    @property
    def agreement(self) -> float | None:
        """The share of the boxes that both found, in %, ties aside; None if neither found any."""
        boxes = self.pairs + self.only_original + self.only_exported
        return 100 * self.pairs / boxes if boxes else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; docs/deploy.md describes them."""
        values = {name: value for name, value in vars(self).items() if name not in ("differences", "photos")}
        plain = asdict(DetectionParity(**values))
        plain = {name: value for name, value in plain.items() if name not in ("differences", "photos")}
        if self.precision is not None:
            for name in ("ap", "ap50"):
                plain["precision"][name]["difference"] = getattr(self.precision, name).difference
        return {**plain, "within_tolerance": self.within_tolerance, "agreement": self.agreement}


def compare_detectors(
    original: Network,
    exported: Network,
    data: PhotoSource | Photos | None = None,
    *,
    images: int | None = PHOTOS,
    timed: bool = True,
    names: tuple[str, str] | None = None,
) -> DetectionParity:
    """Run an exported detector and its original on the same pictures, and say how far they are apart.

    All is computed on the CPU, picture by picture, the original by PyTorch as it is.

    Args:
        original: see `senet.detect`.
        exported: a file, or what `senet.load_exported` returns for it.
        data: a folder of pictures with boxes or without, its configuration, or pictures; None for those that the run
            is evaluated on. Without any, pictures are generated.
        images: number of pictures, at equal distances in the data; None for all.
        timed: whether to measure the latency.
        names: what to call the two; None for what they were opened from.

    Raises:
        SenetError: one of the two is no detector, the exported one is no file, or the data cannot be read.
    """
    model, candidate = (open_detector(each, "cpu") for each in (original, exported))
    path = getattr(candidate, "path", None)
    if not isinstance(path, Path):
        raise SenetError("exported is no exported file; name one, or pass what senet.load_exported returns")
    photos = data if isinstance(data, Photos) else photos_of_run(model, original, data, images)
    tally = Tally(photos, names_of_classes(model))
    with torch.no_grad(), eval_mode(model):
        for i, picture in photos.tracked():
            tally.add(i, picture, model, candidate)
        first = photos.read(0)
        contestants = {"original": partial(model, [first]), "exported": partial(candidate, [first])}
        times = latencies(contestants, 1) if timed else ()
    precision, unscored = tally.precision()
    return DetectionParity(
        original=name_of(original) if names is None else names[0],
        exported=name_of(exported) if names is None else names[1],
        source=photos.source,
        num_images=len(photos),
        unscored=unscored,
        precision=precision,
        latencies=times,
        file_size=size_of(path),
        original_size=sum(each.nbytes for each in (*model.parameters(), *model.buffers())),
        processor=processor(),
        versions=versions(),
        problems=tally.problems(precision),
        photos=photos,
        **tally.figures(),
    )


def photos_of_run(model: nn.Module, run_or_model: Network, data: PhotoSource | None, images: int | None) -> Photos:
    """Return the pictures on which a detector is compared: those given, those of the run, or generated ones.

    Args:
        model: the detector.
        run_or_model: what it was opened from.
        data: see `compare_detectors`.
        images: likewise.

    Raises:
        SenetError: see `compare_detectors`.
    """
    own = run_detection_data(run_or_model) if data is None and isinstance(run_or_model, str | Path) else None
    if own is None:
        return photos_for(model, data, images)
    try:
        return photos_for(model, own, images)
    except SenetError as error:
        name = name_of(run_or_model)
        warn(f"the file is compared on generated pictures, for the data of {name} cannot be used: {error}")
        return photos_for(model, None, images)


class Tally:
    """What two detectors find, summed up picture by picture.

    Args:
        photos: that they see.
        class_names: of labels 1, 2, ...; None if they have none.
    """

    def __init__(self, photos: Photos, class_names: tuple[str, ...] | None) -> None:
        self.photos, self.class_names, self.unscored = photos, class_names or (), photos.unscored
        self.pixels, self.scores, self.levels = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0)]
        self.tied, self.not_finite = 0, 0
        self.lone: list[LoneBox] = []
        self.found: tuple[list[Any], list[Any]] = [], []

    def add(self, i: int, picture: Tensor, original: Callable[..., Any], exported: Callable[..., Any]) -> None:
        """Compare what both find in picture number i, (3, H, W)."""
        pair: list[Found] = [original([picture])[0], exported([picture])[0]]
        if not all(bool(each[name].isfinite().all()) for each in pair for name in ("boxes", "scores")):
            self.not_finite += 1
            return
        of: Comparison = compare_boxes(pair[0], pair[1], original, picture)  # type: ignore[arg-type]
        self.pixels.append(of.pixels)
        self.scores.append(of.scores)
        self.levels.append(pair[0]["scores"][of.pairs[:, 0]])
        self.tied += sum(map(len, of.tied))
        for name, each, numbers in zip(("original", "exported"), pair, of.lone, strict=True):
            self.lone += [self.lone_box(i, name, each, number) for number in numbers]
        if self.unscored:
            return
        try:
            for all_found, each in zip(self.found, pair, strict=True):
                all_found += coco_results(self.photos.image_ids[i], each, self.photos.category_ids)
        except SenetError as error:  # a label that is none, as untrained detectors find
            self.unscored = str(error)

    def lone_box(self, i: int, name: str, found: Found, number: int) -> LoneBox:
        """Return what is told of a box of picture number i that only one finds."""
        label = int(found["labels"][number])
        return LoneBox(
            image=self.photos.names[i],
            index=i,
            found_by=name,
            class_name=self.class_names[label - 1] if 0 < label <= len(self.class_names) else f"class {label}",
            score=float(found["scores"][number]),
            box=tuple(found["boxes"][number].tolist()),
        )

    def figures(self) -> dict[str, Any]:
        """Return the fields of a `DetectionParity` that are sums over the pictures."""
        pixels, scores, levels = (torch.cat(each) for each in (self.pixels, self.scores, self.levels))
        most = (pixels / PIXELS + scores / SCORE).argsort(descending=True)[:DRAWN]
        columns = (each[most].tolist() for each in (levels, pixels, scores))
        return {
            "pairs": len(pixels),
            "tied": self.tied,
            **{f"only_{name}": self.number_lone(name) for name in ("original", "exported")},
            "largest_pixels": float(pixels.max()) if len(pixels) else 0.0,
            "mean_pixels": float(pixels.mean()) if len(pixels) else 0.0,
            "largest_score": float(scores.max()) if len(scores) else 0.0,
            "mean_score": float(scores.mean()) if len(scores) else 0.0,
            "lone": tuple(sorted(self.lone, key=lambda each: -each.score)[:KEPT]),
            "differences": tuple(zip(*columns, strict=True)),
        }

    def number_lone(self, name: str) -> int:
        """Return how many boxes only one of the two found."""
        return sum(each.found_by == name for each in self.lone)

    def precision(self) -> tuple[PairedPrecision | None, str]:
        """Return the average precision of both, and why it is not known; empty if it is."""
        if self.photos.truth is None or self.unscored or self.not_finite:
            return None, self.unscored or "the boxes are not finite numbers"
        try:
            return paired_precision(self.photos.truth, *self.found), ""
        except MissingExtraError as error:
            return None, str(error)

    def problems(self, precision: PairedPrecision | None) -> tuple[str, ...]:
        """Return what is beyond the tolerance, each in a sentence."""
        of = self.figures()
        found, boxes = [], of["pairs"] + len(self.lone)
        if self.not_finite:
            found.append(f"the boxes in {self.not_finite} of {len(self.photos)} pictures are not finite numbers")
        if len(self.lone) > LONE * boxes:
            share = 100 * len(self.lone) / boxes
            found.append(
                f"{len(self.lone)} of {boxes} boxes, {share:.2g} %, are found by only one; {100 * LONE:g} % are allowed"
            )
        elif self.lone and of["lone"][0].score >= TOLD:
            best = of["lone"][0]
            found.append(
                f"only the {best.found_by} finds a box with the score {best.score:.2f}; below {TOLD:g} is allowed"
            )
        if of["largest_pixels"] > PIXELS:
            found.append(f"a corner is off by {of['largest_pixels']:.3g} pixels; {PIXELS:g} is allowed")
        if of["largest_score"] > SCORE:
            found.append(f"a score is off by {of['largest_score']:.3g}; {SCORE:g} is allowed")
        if precision is not None and -precision.ap.difference > LOST:
            found.append(f"AP is {-precision.ap.difference:.2f} points lower; {LOST:g} points are allowed")
        return tuple(found)
