"""The parity report: an exported network and its original on the same pictures, so that every export proves itself."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.data.images import ImageSplit
from senet.data.preprocessing import Preprocessing
from senet.deployment.agreement import TOLERANCES, Difference, PairedAccuracy, Tolerance, is_beyond, problems
from senet.deployment.candidate import Candidate, Run, candidate_of
from senet.deployment.detection_parity import DetectionParity
from senet.deployment.graph import bare_network
from senet.deployment.inner_errors import InnerErrors, inner_errors
from senet.deployment.machine import Processor, processor, size_of, versions
from senet.deployment.pictures import MOST, Pictures, pictures_for
from senet.deployment.rounding import rounding_of
from senet.deployment.tally import Disagreement, Tally
from senet.deployment.timing import BATCH_SIZES, Latency, latencies
from senet.errors import SenetError, check_choice
from senet.evaluation.batches import DataSource, open_model, run_data
from senet.evaluation.functions import Network, name_of
from senet.files import write_output
from senet.nn.modes import borrowed

BEYOND_TOLERANCE = 3
"""Exit status of a command whose exported network is further from the original than the tolerance."""
KEPT = 16
"""Pictures on which times are measured, and the errors inside the network."""


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
        inner: where in the network the error arises; None if nobody asked.
        images: of the pictures, for the page; None if they are no data set.
        preprocessing: of these images; None likewise.
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
    inner: InnerErrors | None = None
    images: ImageSplit | None = field(default=None, repr=False, compare=False)
    preprocessing: Preprocessing | None = field(default=None, repr=False, compare=False)

    @property
    def within_tolerance(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not self.problems

    @property
    def explanation(self) -> str:
        """The sentence that tells of rounding, where it explains a difference beyond the tolerance; else empty."""
        if not self.difference.is_rounding:
            return ""
        return (
            "the logits differ by more than usual, and rounding explains it: those of the original itself are up to "
            f"{self.difference.rounding:.2g} from what it computes in float64"
        )

    @property
    def agreement(self) -> float:
        """The share of the images of which both predict the same class, in %."""
        return 100 * self.agreeing / self.num_images

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; docs/deploy.md describes them."""
        values = {name: value for name, value in vars(self).items() if name not in NOT_PLAIN}
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
NOT_PLAIN = ("difference", "accuracy", "images", "preprocessing")
"""Fields of a `ParityReport` that are not in the JSON, or with more than their own fields."""


def plain(value: Any) -> Any:
    """Return a value of a report as JSON has it."""
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return plain(asdict(value)) if hasattr(value, "__dataclass_fields__") else value


def with_properties(value: Any, *names: str) -> dict[str, Any]:
    """Return the fields of a dataclass and some of its properties."""
    return {**plain(value), **{name: plain(getattr(value, name)) for name in names}}


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
    exported: Network | Run | Candidate,
    data: DataSource | None = None,
    *,
    precision: str | None = None,
    images: int | None = MOST,
    tolerance: Tolerance | None = None,
    optimized: nn.Module | None = None,
    timed: bool = True,
    blocks: bool | None = None,
    names: tuple[str, str] | None = None,
) -> ParityReport:
    """Run an exported network and its original on the same pictures, and say how far they are apart.

    All is computed on the CPU, the original by PyTorch as it is, without compiling.

    Args:
        original: see `senet.evaluate`.
        exported: a file; what `senet.load_exported` returns; or any function from normalized images (N, C, H, W) to
            logits.
        data: as for `senet.evaluate`; None for those that the run was trained on. Without any, pictures are
            generated, and no accuracy is measured.
        precision: of the exported network: "fp32", "fp16", "bf16", "int8_weights" or "int8"; None for what the file
            states.
        images: number of pictures, at equal distances in the data; None for all.
        tolerance: None for that of the precision.
        optimized: the original from `senet.optimize_for_inference`, to be timed beside the two.
        timed: whether to measure the latency.
        blocks: whether to look for the error block by block, which needs a file; None for int8 only.
        names: what to call the two; None for what they were opened from.

    Raises:
        SenetError: the original is no network, the data do not fit it, or the two have different classes.
    """
    candidate = candidate_of(exported)
    precision, by_block = resolved(candidate, precision, blocks)
    model, (own, other) = bare_network(open_model(original)), names or (name_of(original), candidate.name)
    allowed = TOLERANCES[precision] if tolerance is None else tolerance
    data = run_data(original) if data is None and isinstance(original, str | Path) else data
    prepared = model if candidate.module is None else candidate.module
    with borrowed(model, torch.device("cpu")):
        pictures = pictures_for(prepared, data, images, candidate.size)
        tally, some = compared(model, candidate.run, pictures, allowed)
        contestants = {"original": model, "exported": candidate.run, "optimized": optimized}
        times = timed_in_turn(contestants, some, candidate.batch or 1) if timed else ()
        inner = inner_errors(model, candidate, some) if by_block else None
    return ParityReport(
        original=own,
        exported=other,
        precision=precision,
        latencies=times,
        file_size=None if candidate.path is None else size_of(candidate.path),
        original_size=sum(each.nbytes for each in (*model.parameters(), *model.buffers())),
        processor=processor(),
        versions=versions(),
        tolerance=allowed,
        problems=problems(allowed, tally.difference, tally.agreeing, tally.num_images, tally.accuracy),
        inner=inner,
        **tally.figures(),
    )


def resolved(candidate: Candidate, precision: str | None, blocks: bool | None) -> tuple[str, bool]:
    """Return for which precision a network is compared, and whether block by block; see `compare_exported`.

    Raises:
        SenetError: there is no such precision, or the blocks of a function are to be compared.
    """
    precision = candidate.precision if precision is None else precision
    check_choice("precision", precision, tuple(TOLERANCES))
    if blocks and candidate.path is None:
        raise SenetError("blocks=True needs an exported file, from senet.load_exported; leave it out for a function")
    return precision, precision == "int8" and candidate.path is not None if blocks is None else blocks


def compared(model: nn.Module, run: Run, pictures: Pictures, tolerance: Tolerance) -> tuple[Tally, Tensor]:
    """Run two networks on all pictures; return the sums, and `KEPT` of the pictures, at equal distances.

    Where they are further apart than the tolerance allows, the sums tell what rounding does to the original.

    Raises:
        SenetError: there are no pictures, or the networks have different classes.
    """
    tally, kept, worst = Tally(pictures), list[Tensor](), None
    number = pictures.number or 1
    for i, (batch, labels) in enumerate(pictures.tracked()):
        before = tally.largest
        tally.add(model(batch), logits_of(run, batch), labels)
        worst = batch if tally.largest > before else worst
        if i % max(1, number // KEPT) == 0 and len(kept) < KEPT:
            kept.append(batch[: -(-KEPT // number)])
    if not kept:
        raise SenetError(f"{pictures.source} has no images")
    if worst is not None and is_beyond(tolerance, tally.difference):
        tally.rounding = rounding_of(model, worst)
    return tally, torch.cat(kept)[:KEPT]


def logits_of(exported: Run, images: Tensor) -> Tensor:
    """Return the logits of an exported network for images."""
    return torch.as_tensor(exported(images)).float().cpu()


def timed_in_turn(contestants: Mapping[str, Any], images: Tensor, at_once: int) -> tuple[Latency, ...]:
    """Time networks on images, the original first.

    Args:
        contestants: None stands for one that is not there.
        images: (N, C, H, W).
        at_once: images that a file computes at once: of `BATCH_SIZES` the multiples are timed, or if there is none it.
    """
    found: list[Latency] = []
    for size in [size for size in BATCH_SIZES if size % at_once == 0] or [at_once]:
        batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size].contiguous()
        runs = {name: partial(network, batch) for name, network in contestants.items() if network is not None}
        found += latencies(runs, size)
    return tuple(found)


def write_parity(report: ParityReport | DetectionParity, path: Path, digests: Mapping[str, str] | None = None) -> None:
    """Write a report as JSON.

    Args:
        report: the report.
        path: where it goes.
        digests: of the files that it is about, see `senet.deployment.digests`; None writes none.

    Raises:
        SenetError: it cannot be written.
    """
    values = {**report.to_dict(), **({} if digests is None else {"sha256": digests})}
    write_output(path, json.dumps(values, indent=2, allow_nan=False).encode() + b"\n")


def conclude(report: ParityReport | DetectionParity) -> int:
    """Return the exit status of a command that exports: 0, or `BEYOND_TOLERANCE`."""
    return 0 if report.within_tolerance else BEYOND_TOLERANCE
