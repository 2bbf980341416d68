"""The parity report: an exported network and its original on the same pictures, so that every export proves itself."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.data.images import ImageSplit
from senet.deployment.agreement import TOLERANCES, Difference, PairedAccuracy, Tolerance, problems
from senet.deployment.machine import Processor, processor, size_of, versions
from senet.deployment.pictures import Pictures, pictures_for
from senet.deployment.timing import BATCH_SIZES, Latency, latencies
from senet.errors import SenetError, check_choice
from senet.evaluation.batches import DataSource, open_model
from senet.evaluation.functions import Network, name_of
from senet.files import write_output
from senet.nn.modes import borrowed

IMAGES = 500
"""Pictures that are compared unless others are asked for: SE-ResNet-50 takes a minute for them on two cores."""
DISAGREEMENTS = 24
"""Of which the JSON and the page tell."""
BEYOND_TOLERANCE = 3
"""Exit status of a command whose exported network is further from the original than the tolerance."""

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image of which the two networks predict different classes.

    Args:
        index: its number in the data.
        image: its file, or number.
        class_name: its class; None if it is not known.
        original: the class that the original predicts.
        original_probability: of that class, 0 to 1.
        exported: the class that the exported network predicts.
        exported_probability: of that class, 0 to 1.
    """

    index: int
    image: str
    class_name: str | None
    original: str
    original_probability: float
    exported: str
    exported_probability: float


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How far an exported network is from its original, and how fast both are.

    Args:
        original: name of the original.
        exported: name of the exported network.
        precision: of the exported network, a key of `TOLERANCES`.
        source: of the pictures.
        num_images: that both networks saw.
        unscored: why no accuracy was measured; empty if it was.
        difference: of the logits.
        agreeing: images of which both predict the same class.
        accuracy: of both; None if the images have no labels.
        disagreements: some images of which they predict different classes, those of the surest originals first.
        latencies: of both, in turn; empty if they were not timed.
        file_size: of the exported network in bytes; None if it is no file.
        original_size: of the original's parameters and buffers in bytes.
        processor: on which all this was measured.
        versions: of the packages.
        tolerance: that applies.
        problems: what is beyond it, a sentence each.
        images: of the pictures, for the page; None if they are no data set.
    """

    original: str
    exported: str
    precision: str
    source: str
    num_images: int
    unscored: str
    difference: Difference
    agreeing: int
    accuracy: PairedAccuracy | None
    disagreements: tuple[Disagreement, ...]
    latencies: tuple[Latency, ...]
    file_size: int | None
    original_size: int
    processor: Processor
    versions: Mapping[str, str]
    tolerance: Tolerance
    problems: tuple[str, ...]
    images: ImageSplit | None = field(default=None, repr=False, compare=False)

    @property
    def within_tolerance(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not self.problems

    @property
    def agreement(self) -> float:
        """The share of the images of which both predict the same class, in %."""
        return 100 * self.agreeing / self.num_images

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; docs/deploy.md describes them."""
        values = {name: value for name, value in vars(self).items() if name not in ("images", "difference", "accuracy")}
        found: dict[str, Any] = without_infinities(
            {
                **{name: plain(value) for name, value in values.items()},
                "within_tolerance": self.within_tolerance,
                "agreement": self.agreement,
                "difference": with_properties(self.difference, "relative_largest", "relative_mean"),
                "accuracy": None if self.accuracy is None else with_properties(self.accuracy, *OF_ACCURACY),
            }
        )
        return found


OF_ACCURACY = (
    *("original", "original_interval", "exported", "exported_interval", "difference", "difference_interval"),
)
"""What of a `PairedAccuracy` is computed and in the JSON."""


def plain(value: Any) -> Any:
    """Return a value of a report as JSON has it."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def with_properties(value: Any, *names: str) -> dict[str, Any]:
    """Return the fields of a dataclass and some of its properties."""
    return asdict(value) | {name: plain(getattr(value, name)) for name in names}


def without_infinities(value: Any) -> Any:
    """Return plain values with None for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: without_infinities(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_infinities(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@torch.no_grad()
def compare_exported(
    original: Network,
    exported: nn.Module | Run,
    data: DataSource | None = None,
    *,
    precision: str = "fp32",
    images: int | None = IMAGES,
    tolerance: Tolerance | None = None,
    optimized: nn.Module | None = None,
    timed: bool = True,
    path: Path | None = None,
    name: str | None = None,
) -> ParityReport:
    """Run an exported network and its original on the same pictures, and say how far they are apart.

    All is computed on the CPU, the original by PyTorch as it is, without compiling.

    Args:
        original: see `senet.evaluate`.
        exported: normalized images (N, C, H, W) -> logits (N, classes).
        data: as for `senet.evaluate`; None for those that the run was trained on. Without any, pictures are
            generated, and no accuracy is measured.
        precision: of the exported network: "fp32", "fp16", "bf16", "int8_weights" or "int8".
        images: number of pictures, at equal distances in the data; None for all.
        tolerance: None for that of the precision.
        optimized: the original from `senet.optimize_for_inference`, to be timed beside the two.
        timed: whether to measure the latency.
        path: of the exported network, for its size.
        name: what to call it; None for the path.

    Raises:
        SenetError: the original is no network, the data do not fit it, or the two have different classes.
    """
    check_choice("precision", precision, tuple(TOLERANCES))
    model = open_model(original)
    with borrowed(model, torch.device("cpu")):
        pictures = pictures_for(original, model, data, images)
        tally = Tally(pictures)
        first = None
        for batch, labels in pictures.tracked():
            first = batch if first is None else first
            tally.add(model(batch), logits_of(exported, batch), labels)
        if first is None:
            raise SenetError(f"{pictures.source} has no images")
        contestants = {"original": model, "exported": exported, "optimized": optimized}
        times = timed_in_turn(contestants, first) if timed else ()
    allowed = TOLERANCES[precision] if tolerance is None else tolerance
    return ParityReport(
        original=name_of(original),
        exported=name or str(path or name_of(exported)),
        precision=precision,
        source=pictures.source,
        num_images=tally.num_images,
        unscored=pictures.unscored,
        difference=tally.difference,
        agreeing=tally.agreeing,
        accuracy=tally.accuracy,
        disagreements=tally.most_surprising,
        latencies=times,
        file_size=None if path is None else size_of(path),
        original_size=sum(each.nbytes for each in (*model.parameters(), *model.buffers())),
        processor=processor(),
        versions=versions(),
        tolerance=allowed,
        problems=problems(allowed, tally.difference, tally.agreeing, tally.num_images, tally.accuracy),
        images=pictures.images,
    )


def logits_of(exported: Run, images: Tensor) -> Tensor:
    """Return the logits of an exported network for images."""
    return torch.as_tensor(exported(images)).float().cpu()


def timed_in_turn(contestants: Mapping[str, Any], images: Tensor) -> tuple[Latency, ...]:
    """Time networks on images at each of `BATCH_SIZES`, the original first; None stands for one that is not there."""
    found: list[Latency] = []
    for size in BATCH_SIZES:
        batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size].contiguous()
        runs = {name: partial(network, batch) for name, network in contestants.items() if network is not None}
        found += latencies(runs, size)
    return tuple(found)


class Tally:
    """Sums over batches of what two networks compute.

    Args:
        pictures: that they see.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.num_images = self.agreeing = self.num_logits = 0
        self.largest = self.total = self.scale = 0.0
        self.right = {(own, other): 0 for own in (True, False) for other in (True, False)}
        self.found: list[Disagreement] = []

    def add(self, original: Tensor, exported: Tensor, labels: Tensor) -> None:
        """Add the logits (N, classes) of both for a batch, and its labels (N,).

        Raises:
            SenetError: the networks have different numbers of classes.
        """
        original = original.float().cpu()
        if original.shape != exported.shape:
            raise SenetError(
                f"the exported network returns {tuple(exported.shape)} and the original {tuple(original.shape)}; "
                "expected the logits of the same classes"
            )
        apart = (original - exported).abs().double()
        largest = float(apart.max())
        self.largest = largest if math.isnan(largest) else max(self.largest, largest)
        self.total += float(apart.sum())
        self.num_logits += apart.numel()
        self.scale = max(self.scale, float(original.abs().max()))
        own, other = original.argmax(1), exported.argmax(1)
        self.agreeing += int((own == other).sum())
        for is_right, other_is in zip((own == labels).tolist(), (other == labels).tolist(), strict=True):
            self.right[is_right, other_is] += 1
        for i in (own != other).nonzero().flatten().tolist():
            self.disagree(i, original[i].softmax(0), exported[i].softmax(0), int(labels[i]))
        self.num_images += len(labels)

    def disagree(self, i: int, original: Tensor, exported: Tensor, label: int) -> None:
        """Note an image, number i of the batch, whose probabilities (classes,) have different maxima."""
        own, other = int(original.argmax()), int(exported.argmax())
        place = self.num_images + i
        self.found.append(
            Disagreement(
                index=self.pictures.index(place),
                image=self.pictures.name(place),
                class_name=None if self.pictures.unscored else self.class_name(label),
                original=self.class_name(own),
                original_probability=float(original[own]),
                exported=self.class_name(other),
                exported_probability=float(exported[other]),
            )
        )

    def class_name(self, number: int) -> str:
        """Return the name of a class; its number if it has none."""
        names = self.pictures.class_names
        return names[number] if number < len(names) else str(number)

    @property
    def difference(self) -> Difference:
        """The difference of the logits."""
        return Difference(largest=self.largest, mean=self.total / self.num_logits, scale=self.scale)

    @property
    def accuracy(self) -> PairedAccuracy | None:
        """The accuracy of both, if the pictures have labels."""
        if self.pictures.unscored:
            return None
        return PairedAccuracy(
            num_images=self.num_images,
            both_right=self.right[True, True],
            only_original_right=self.right[True, False],
            only_exported_right=self.right[False, True],
        )

    @property
    def most_surprising(self) -> tuple[Disagreement, ...]:
        """The images of which the networks disagree although they are surest."""
        ordered = sorted(self.found, key=lambda each: -each.original_probability - each.exported_probability)
        return tuple(ordered[:DISAGREEMENTS])


def parity_path(output: Path) -> Path:
    """Return where the report of an exported network is written: model.parity.json beside model.onnx."""
    return output.with_name(f"{output.stem}.parity.json")


def write_parity(report: ParityReport, path: Path) -> None:
    """Write a report as JSON.

    Raises:
        SenetError: it cannot be written.
    """
    write_output(path, json.dumps(report.to_dict(), indent=2, allow_nan=False).encode() + b"\n")


def conclude(report: ParityReport) -> int:
    """Return the exit status of a command that exports: 0, or `BEYOND_TOLERANCE`."""
    return 0 if report.within_tolerance else BEYOND_TOLERANCE
