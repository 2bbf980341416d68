"""The gates of a network on a data set, in one pass: mean, variance and histogram by block, class and channel.

Memory does not depend on the number of images: two float64 and `bins` int32 for each class and channel. The mean gates
of the first batch are subtracted before summing, so that the variance of a nearly constant gate is not rounded away.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from senet.analysis.gates import GateBlock, choose_blocks, find_blocks, gate_hooks
from senet.errors import MissingFileError, NotFiniteError, SenetError
from senet.evaluation.batches import Batches, DataSource, model_and_data, open_batches
from senet.files import check_replaced, parse_json, write_output
from senet.nn.modes import borrowed
from senet.nn.precision import Precision, computing
from senet.processes import Team, current_team

BINS = 20
KEY = "senet.recording"


def check_recording(path: Path) -> None:
    """Check that a recording can be written to a file, see `check_replaced`; before the work for it starts."""
    check_replaced(path, ".safetensors", "a recording", lambda start: f'"{KEY}":'.encode() in start)


@dataclass(frozen=True, kw_only=True)
class BlockRecord:
    """The gates of one block, for K classes and C channels.

    Args:
        block: where it is, and the range of its gate.
        count: number of images of each class, (K,), int64.
        mean: mean gate over the images of a class, (K, C), float64; 0 for a class without images.
        variance: variance of the gate over the images of a class (divided by their number), (K, C), float64.
        histogram: number of images with a gate in each of `bins` equal parts of [low, high], (K, C, bins), int32; gates
            outside that range count in the first and last part.
    """

    block: GateBlock
    count: Tensor
    mean: Tensor
    variance: Tensor
    histogram: Tensor

    @property
    def overall_mean(self) -> Tensor:
        """Mean of the gate over all images, (C,)."""
        return (self.count[:, None] * self.mean).sum(0) / self.count.sum()

    @property
    def overall_variance(self) -> Tensor:
        """Variance of the gate over all images, (C,): within and between classes."""
        between = (self.mean - self.overall_mean).square()
        return (self.count[:, None] * (self.variance + between)).sum(0) / self.count.sum()


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The gates of all blocks of one network on one data set.

    Args:
        blocks: in the order of computation.
        class_names: of the K classes; empty for images without labels, which count as one class.
        provenance: model, weights, data, versions and date.
    """

    blocks: tuple[BlockRecord, ...]
    class_names: tuple[str, ...]
    provenance: Mapping[str, Any]

    def __getitem__(self, name: str) -> BlockRecord:
        """Return the record of a block, by the block's name (such as SE_4_6) or its module's.

        Raises:
            SenetError: there is none of that name.
        """
        (chosen,) = choose_blocks(tuple(record.block for record in self.blocks), [name])
        return next(record for record in self.blocks if record.block is chosen)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return int(self.blocks[0].count.sum())

    def merged(self, other: "Recording") -> "Recording":
        """Return the recording of both sets of images together.

        Raises:
            SenetError: they are of different blocks or classes.
        """
        blocks, other_blocks = ([record.block for record in r.blocks] for r in (self, other))
        if blocks != other_blocks or self.class_names != other.class_names:
            raise SenetError("the recordings are of different blocks or classes; merge those of one network")
        merged = tuple(merged_records(a, b) for a, b in zip(self.blocks, other.blocks, strict=True))
        return replace(self, blocks=merged)

    def save(self, path: str | Path) -> None:
        """Write the recording to one .safetensors file, atomically.

        Raises:
            SenetError: it cannot be written, or is of something else.
        """
        path = Path(path)
        check_recording(path)
        tensors = {
            f"{record.block.name}.{name}": getattr(record, name).clone()  # count is one tensor for all blocks
            for record in self.blocks
            for name in ("count", "mean", "variance", "histogram")
        }
        blocks = [asdict(record.block) for record in self.blocks]
        described = {"blocks": blocks, "class_names": self.class_names, "provenance": dict(self.provenance)}
        write_output(path, save(tensors, metadata={KEY: json.dumps(described)}))

    @staticmethod
    def load(path: str | Path) -> "Recording":
        """Read a recording.

        Raises:
            MissingFileError: there is no such file.
            SenetError: it is damaged, or not a recording.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                described = parse_json((file.metadata() or {})[KEY])
                records = []
                for values in described["blocks"]:
                    block = GateBlock(**{**values, "side": tuple(values["side"])})
                    names = ("count", "mean", "variance", "histogram")
                    tensors = {name: file.get_tensor(f"{block.name}.{name}") for name in names}
                    records.append(BlockRecord(block=block, **tensors))
                    check_shapes(records[-1], len(described["class_names"]))
                names_of_classes, provenance = tuple(map(str, described["class_names"])), dict(described["provenance"])
        except FileNotFoundError:
            raise MissingFileError(f"there is no recording {path}; senet.record_excitations makes one") from None
        except (OSError, KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
            raise SenetError(f"{path} is not a recording of excitations, or is damaged") from error
        return Recording(blocks=tuple(records), class_names=names_of_classes, provenance=provenance)


def check_shapes(record: BlockRecord, num_classes: int) -> None:
    """Raise a ValueError unless the tensors of a record belong together."""
    shape = (num_classes, record.block.channels)
    found = (record.count.shape, record.mean.shape, record.variance.shape, record.histogram.shape[:2])
    if found != (shape[:1], shape, shape, shape) or record.histogram.dim() != 3:
        raise ValueError(f"{record.block.name} has tensors of the shapes {found}")


def merged_records(a: BlockRecord, b: BlockRecord) -> BlockRecord:
    """Merge two records of one block.

    Source: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    count = a.count + b.count
    share = (b.count.double() / count.clamp(min=1))[:, None]
    mean = torch.lerp(a.mean, b.mean, share)
    variance = torch.lerp(a.variance, b.variance, share) + share * (1 - share) * (a.mean - b.mean).square()
    histogram = a.histogram + b.histogram
    return BlockRecord(block=a.block, count=count, mean=mean, variance=variance, histogram=histogram)


class Tally:
    """Running sums of one block's gates.

    Args:
        block: the block.
        num_classes: K.
        bins: of the histograms.
        device: of the gates.
    """

    def __init__(self, block: GateBlock, num_classes: int, bins: int, device: torch.device) -> None:
        shape = (num_classes, block.channels)
        self.block = block
        self.bins = bins
        self.shift: Tensor | None = None
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.float64, device=device)
        self.histogram = torch.zeros(*shape, bins, dtype=torch.int32, device=device)

    def add(self, gates: Tensor, labels: Tensor) -> None:
        """Add the gates (N, C) of a batch with its labels (N,)."""
        values = gates.double()
        if self.shift is None:
            self.shift = values.mean(0) if len(values) else values.sum(0)
        low, high = self.block.low, self.block.high
        bin_NC = ((gates - low) * (self.bins / (high - low))).nan_to_num().clamp(0, self.bins - 1).long()
        rows = labels[:, None] * self.block.channels + torch.arange(self.block.channels, device=labels.device)
        flat = (rows * self.bins + bin_NC).flatten()
        self.histogram.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        values -= self.shift
        self.sums.index_add_(0, labels, values)
        self.squares.index_add_(0, labels, values.square_())

    @property
    def subtracted(self) -> Tensor:
        """What was subtracted from the gates before summing, (C,); 0 before any image came."""
        return torch.zeros_like(self.sums[0]) if self.shift is None else self.shift

    def subtract(self, shift: Tensor, count: Tensor) -> None:
        """Change the sums to those of gates from which something else was subtracted.

        Args:
            shift: what, (C,).
            count: images of each class so far, (K,).
        """
        moved, number = self.subtracted - shift, count[:, None]
        self.squares += moved * (2 * self.sums + number * moved)
        self.sums += number * moved
        self.shift = shift

    def record(self, count: Tensor) -> BlockRecord:
        """Return mean, variance and histogram.

        Args:
            count: images of each class, (K,).

        Raises:
            NotFiniteError: a gate was infinite or not a number.
        """
        assert self.shift is not None
        number = count.clamp(min=1)[:, None]
        shifted = self.sums / number
        mean = torch.where(count[:, None] > 0, shifted + self.shift, 0.0)
        if not mean.isfinite().all():
            raise NotFiniteError(f"{self.block.name} ({self.block.module}) has gates that are not finite numbers")
        variance = (self.squares / number - shifted.square()).clamp_(min=0)
        tensors = {"mean": mean, "variance": variance, "histogram": self.histogram, "count": count}
        return BlockRecord(block=self.block, **{name: tensor.cpu() for name, tensor in tensors.items()})


class GateRecorder:
    """Adds up the gates of a model while it runs.

    Args:
        model: any with SE blocks.
        blocks: the blocks to record.
        num_classes: of the labels; 1 without labels.
        bins: of the histograms.
        team: processes that share the images; None for this one alone.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: tuple[GateBlock, ...],
        num_classes: int,
        bins: int = BINS,
        team: Team | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self.model = model
        self.blocks = blocks
        self.team = team or Team()
        self.tallies = {block.name: Tally(block, num_classes, bins, device) for block in blocks}
        self.count = torch.zeros(num_classes, dtype=torch.int64, device=device)

    def run(self, images: Tensor, labels: Tensor) -> Tensor:
        """Run the model on images of the classes `labels` (N,); return its outputs."""

        def on_gates(block: GateBlock, gates: Tensor) -> None:
            self.tallies[block.name].add(gates, labels)

        with gate_hooks(self.model, self.blocks, on_gates):
            outputs: Tensor = self.model(images)
        self.count += torch.bincount(labels, minlength=len(self.count))
        return outputs

    def records(self) -> tuple[BlockRecord, ...]:
        """Return the records, over all processes."""
        tallies = list(self.tallies.values())
        if self.team.size > 1:
            shifts = self.team.from_first(lambda: [tally.subtracted.cpu() for tally in tallies])  # it has images
            for tally, shift in zip(tallies, shifts, strict=True):
                tally.subtract(shift.to(self.count.device), self.count)
            sums = [sums for tally in tallies for sums in (tally.sums, tally.squares, tally.histogram)]
            self.team.add_up(self.count, *sums)
        return tuple(tally.record(self.count) for tally in tallies)


@torch.no_grad()
def record_excitations(
    run_or_model: nn.Module | str | Path,
    data: DataSource | None = None,
    *,
    blocks: Sequence[str] | None = None,
    bins: int = BINS,
    batch_size: int = 64,
    precision: Precision = "fp32",
    device: torch.device | str | None = None,
) -> Recording:
    """Record the gates of a network on a data set, in one pass.

    Inside `shared_work` every process runs its share of the images and returns the recording of all.

    Cost: about that of evaluating the data set once. The model is left as it was.

    Args:
        run_or_model: a network with SE blocks (this library's, timm's or torchvision's, or inserted), a run or model
            folder, or the name of a network with weights.
        data: see `senet.evaluate`; or a folder of images without classes; or batches of (images, labels) or of images,
            preprocessed. None for the data that the run was trained on.
        blocks: names, such as SE_4_6 or a module's; None for all.
        bins: of the histograms: a multiple of 10.
        batch_size: images at once.
        precision: see `senet.evaluate`.
        device: see `senet.evaluate`.

    Returns:
        The recording; `senet.analysis.measures.block_statistics` summarizes it.

    Raises:
        SenetError: a model without gates, an unknown block, or data that do not fit.
        NotFiniteError: a gate is infinite or not a number.

    Source: arXiv:1709.01507v4, section 7.2 and Figures 6 and 7.
    """
    if bins < 10 or bins % 10:
        raise SenetError(f"bins is {bins}; expected a multiple of 10")
    model, data = model_and_data(run_or_model, data)
    batches = open_batches(model, data, batch_size=batch_size, device=device)

    def recorder_for(image: Tensor) -> GateRecorder:
        chosen = choose_blocks(find_blocks(model, image), blocks)
        return GateRecorder(model, chosen, max(1, len(batches.class_names)), bins, current_team())

    recorder: GateRecorder | None = None
    with borrowed(model, batches.device), computing(batches.device, precision):
        for images, labels in batches.tracked("Recording gates on"):
            recorder = recorder or recorder_for(images[:1])
            recorder.run(images, labels)
        recorder = recorder or recorder_for(batches.example(model))  # of a process without images
    return Recording(
        blocks=recorder.records(),
        class_names=batches.class_names,
        provenance=provenance(run_or_model, model, batches),
    )


def mean_gates(recording: Recording, block: GateBlock) -> Tensor:
    """Return the mean gate of each channel of a block, (C,), float64.

    Raises:
        SenetError: the recording is of another network.
    """
    gates = recording[block.name].overall_mean
    if len(gates) != block.channels:
        raise SenetError(
            f"the recording has {len(gates)} channels at {block.name}, the model {block.channels}; "
            "record the excitations of this model"
        )
    return gates


def provenance(run_or_model: nn.Module | str | Path, model: nn.Module, batches: Batches) -> dict[str, Any]:
    """Return the model, weights, data, versions and date of a recording."""
    config: Any = getattr(model, "config", None)
    return {
        "model": getattr(config, "name", None) or type(model).__name__,
        "weights": None if isinstance(run_or_model, nn.Module) else str(run_or_model),
        "data": batches.source,
        "senet": version("senet"),
        "torch": version("torch"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
