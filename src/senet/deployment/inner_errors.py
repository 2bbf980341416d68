"""Where in a network the error of an exported one arises: block by block, and gate by gate."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from senet.analysis.gates import find_blocks
from senet.deployment.candidate import Candidate
from senet.deployment.flow import Points, in_line
from senet.deployment.graphs import Array, InnerGraph, OriginalGraph, open_graph
from senet.errors import SenetError, counted

AT_ONCE = 4
"""Images of a batch: a run of the original keeps every value, 130 MB for an image in SE-ResNet-50."""


@dataclass(frozen=True, kw_only=True)
class InnerError:
    """How far a value inside an exported network is from the original's.

    Args:
        name: of the block in the model; of a gate as in the paper's Figure 6.
        module: the same, and for a gate its SE block in the model.
        cosine: of the two values, the mean over the images; 1 if they have the same direction.
        relative: the root of the mean squared difference, as a share of that of the original's values.
        largest: the largest absolute difference.
    """

    name: str
    cosine: float
    relative: float
    largest: float
    module: str = ""

    @property
    def full_name(self) -> str:
        """The name, and where in the model it is, if the name does not say that."""
        return self.name if self.module in ("", self.name) else f"{self.name}, {self.module}"


@dataclass(frozen=True, kw_only=True)
class InnerErrors:
    """The errors inside an exported network, in the order of computation.

    Args:
        num_images: that were compared.
        blocks: at the end of each block.
        gates: of each SE block, as they are multiplied with the feature map.
        missing: why there are none, or no gates; empty if all were found.
    """

    num_images: int
    blocks: tuple[InnerError, ...]
    gates: tuple[InnerError, ...]
    missing: str = ""


@dataclass
class Sums:
    """Sums over images for one value."""

    cosines: list[float] = field(default_factory=list)
    error: float = 0.0
    power: float = 0.0
    largest: float = 0.0

    def add(self, original: Array, exported: Array) -> None:
        """Add the values (N, ...) of some images."""
        a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (original, exported))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        self.cosines += np.divide((a * b).sum(1), lengths, out=np.ones(len(a)), where=lengths > 0).tolist()
        self.error += float(((a - b) ** 2).sum())
        self.power += float((a**2).sum())
        self.largest = max(self.largest, float(np.abs(a - b).max()))

    def error_of(self, name: str, module: str) -> InnerError:
        """Return what the sums tell of a value, with its names, see `InnerError`."""
        return InnerError(
            name=name,
            module=module,
            cosine=sum(self.cosines) / len(self.cosines),
            relative=math.sqrt(self.error / self.power) if self.power else math.sqrt(self.error),
            largest=self.largest,
        )


@torch.no_grad()
def inner_errors(model: nn.Module, exported: Candidate, images: Tensor) -> InnerErrors:
    """Compare the values at the ends of a network's blocks, and its gates, with those inside an exported network.

    The exported network runs from a copy in which these values are outputs; a runtime may join fewer operators there.

    Args:
        model: the original, on the CPU.
        exported: with a file.
        images: (N, C, H, W), normalized.
    """
    assert exported.path is not None
    try:
        graph = open_graph(exported.path)
    except SenetError as error:
        return InnerErrors(num_images=0, blocks=(), gates=(), missing=str(error))
    at_once = exported.batch or min(AT_ONCE, len(images))
    images = images.repeat(-(-at_once // len(images)), 1, 1, 1)  # a file may take more at once than there are
    images = images[: len(images) // at_once * at_once]
    sums: dict[tuple[str, int], Sums] = {}
    names: Mapping[str, Sequence[tuple[str, str]]] = {}
    missing = ""
    for part in images.split(at_once):
        original = OriginalGraph(model, part)
        if not names:
            names, missing = names_in(original, model), difference(original, graph)
        wanted = pairs(original, graph)
        if not wanted:
            return InnerErrors(num_images=0, blocks=(), gates=(), missing=missing)
        found = graph.values(exported.feed(part).numpy(), [other for _, _, _, other in wanted])
        expected = original.values([own for _, _, own, _ in wanted])
        for (kind, i, _, _), own, other in zip(wanted, expected, found, strict=True):
            if own.size != other.size:
                missing = (
                    f"{names[kind][i][0]} has {own.size} values in the original and {other.size} in the exported graph"
                )
                return InnerErrors(num_images=0, blocks=(), gates=(), missing=missing)
            sums.setdefault((kind, i), Sums()).add(own, other)
    errors = {key: each.error_of(*names[key[0]][key[1]]) for key, each in sums.items()}
    return InnerErrors(
        num_images=len(images),
        blocks=tuple(error for (kind, _), error in errors.items() if kind == "block"),
        gates=tuple(error for (kind, _), error in errors.items() if kind == "gate"),
        missing=missing,
    )


def pairs(original: OriginalGraph, graph: InnerGraph) -> list[tuple[str, int, int, int]]:
    """Return (kind, number, position in the original, position in the exported graph) of all values to compare."""
    own, other = original.points, graph.points
    found = []
    for kind, mine, others in (("block", own.ends, other.ends), ("gate", factors(own), factors(other))):
        if not unlike(original, graph, kind):
            found += [(kind, i, *both) for i, both in enumerate(zip(mine, others, strict=True))]
    return found


def unlike(original: OriginalGraph, graph: InnerGraph, kind: str) -> str:
    """Return why the blocks, or gates, of two graphs cannot be told which is which; empty if they can."""
    own, other = original.points, graph.points
    if kind == "block":
        counts, lines = (len(own.ends), len(other.ends)), True
    else:
        counts = (len(own.gates), len(other.gates))
        lines = in_line(original.steps, products(own)) and in_line(graph.steps, products(other))
    if counts[0] != counts[1]:
        return f"the original has {counted(counts[0], kind)} and the exported graph {counts[1]}"
    return "" if lines else "gates lie in parallel branches, so their order does not tell which is which"


def factors(points: Points) -> list[int]:
    """Return the positions of the gates."""
    return [gate.place for gate in points.gates]


def products(points: Points) -> list[int]:
    """Return the positions of the products of gates."""
    return [gate.product for gate in points.gates]


def difference(original: OriginalGraph, graph: InnerGraph) -> str:
    """Return why blocks or gates cannot be compared; empty if all can."""
    return "; ".join(filter(None, (unlike(original, graph, kind) for kind in ("block", "gate"))))


def names_in(original: OriginalGraph, model: nn.Module) -> dict[str, tuple[tuple[str, str], ...]]:
    """Return the names of the blocks and the gates of the original, and where each is in the model."""
    points = original.points
    try:
        of_modules = {block.module: block.name for block in find_blocks(model)}
    except SenetError:  # it has no gates that have names
        of_modules = {}
    blocks = distinct([original.scope(place) or "network" for place in points.meetings])
    gates = [original.scope(place) for place in products(points)]
    names = distinct([of_modules.get(scope, scope) for scope in gates])
    return {"block": tuple(zip(blocks, blocks, strict=True)), "gate": tuple(zip(names, gates, strict=True))}


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return names with a number after those that several have."""
    counts, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return tuple(found)
