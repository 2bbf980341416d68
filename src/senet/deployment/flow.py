"""The ends of a network's blocks, and its gates, found in any graph of it by what is computed from what.

The end of a block is a value through which everything passes and in which several paths meet: the sum of a residual
unit with the activation after it, the concatenation of an Inception module. A gate is a factor that comes, by a layer
with weights, from means over positions alone, while the other factor is the feature map that it scales. Both hold for
the network in PyTorch and for what exporters, rewriting and quantization make of it, so that the ends and the gates of
two graphs correspond one to one in the order of computation, whatever their operators are called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from senet.deployment.steps import Step

POINTWISE = frozenset(
    (
        *("relu", "relu6", "hardtanh", "leaky_relu", "leakyrelu", "prelu", "silu", "swish", "hardswish", "hswish"),
        *("gelu", "mish", "sigmoid", "hardsigmoid", "tanh", "clip", "clamp", "dropout", "feature_dropout"),
        *("identity", "cast", "convert", "contiguous", "quantizelinear", "dequantizelinear", "fakequantize"),
    )
)
"""What may stand between the meeting of paths and the end of a block, in PyTorch's, ONNX's and OpenVINO's words."""
QUANTIZERS = frozenset(["quantizelinear", "fakequantize"])
PRODUCTS = frozenset(["mul", "__mul__", "__rmul__", "__imul__", "multiply"])
MEANS = frozenset(
    (
        *("mean", "reducemean", "avg_pool2d", "averagepool", "avgpool", "std", "var"),
        *("adaptive_avg_pool2d", "adaptiveavgpool", "globalaveragepool"),
        *("amax", "reducemax", "adaptive_max_pool2d", "adaptivemaxpool", "globalmaxpool"),
    )
)
"""What leaves one number of a channel, or a few."""
LAYERS = frozenset(
    (
        *("conv1d", "conv2d", "conv3d", "convolution", "groupconvolution", "conv"),
        *("linear", "matmul", "__matmul__", "mm", "addmm", "bmm", "baddbmm", "gemm", "einsum"),
    )
)
"""Layers with weights."""
MAX_OPERATIONS = 64
"""Largest number of operations of a gate: whatever needs more is a part of the network of its own."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A factor that scales a feature map.

    Args:
        place: its position.
        product: the position of the product that it is a factor of.
        operations: the positions of what it is computed from: the means, its own, and all between them.
    """

    place: int
    product: int
    operations: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Points:
    """Where networks can be compared inside.

    Args:
        ends: positions of the ends of blocks, in the order of computation; of a network without blocks, of its layers.
        meetings: for each end, the position of the value in which the paths meet.
        gates: in the order of computation.
    """

    ends: tuple[int, ...]
    meetings: tuple[int, ...]
    gates: tuple[Gate, ...]


def points_in(steps: Sequence[Step], output: int) -> Points:
    """Return where a graph has ends of blocks and gates.

    Args:
        steps: the graph, each value after those that it is computed from; the first one is the images.
        output: the position of the logits.
    """
    used = needed_for_output(steps, output)
    users: dict[int, list[int]] = {i: [] for i in used}
    for i in used:
        for source in dict.fromkeys(steps[i].inputs):
            users[source].append(i)
    everything = passed_by_all(used, users)
    meetings = [i for i in used if i in everything and meets(steps, i)]
    if not meetings:
        meetings = [i for i in used if i in everything and steps[i].operation in LAYERS]
    return Points(
        ends=tuple(end_of(steps, users, i) for i in meetings),
        meetings=tuple(meetings),
        gates=tuple(gate for gate in gates_in(steps) if gate.product in users),
    )


def needed_for_output(steps: Sequence[Step], output: int) -> list[int]:
    """Return the positions of the values that the output is computed from, and its own, in their order."""
    needed, pending = {output}, [output]
    while pending:
        for source in steps[pending.pop()].inputs:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    return sorted(needed)


def passed_by_all(used: Iterable[int], users: dict[int, list[int]]) -> set[int]:
    """Return the positions of the values through which everything passes: no other value is used beyond them."""
    found, furthest = set(), 0
    for i in used:
        if furthest <= i:
            found.add(i)
        furthest = max([furthest, *users[i]])
    return found


def meets(steps: Sequence[Step], place: int) -> bool:
    """Return whether several paths meet in a value; x * sigmoid(x), which is one activation, is no meeting."""
    inputs = list(dict.fromkeys(steps[place].inputs))
    if len(inputs) < 2:
        return False
    return not (
        steps[place].operation in PRODUCTS
        and any(leads_to(steps, one, other) for one in inputs for other in inputs if one != other)
    )


def leads_to(steps: Sequence[Step], source: int, place: int) -> bool:
    """Return whether a value is computed from another one by activations alone."""
    while place != source and steps[place].operation in POINTWISE and len(steps[place].inputs) == 1:
        place = steps[place].inputs[0]
    return place == source


def end_of(steps: Sequence[Step], users: dict[int, list[int]], place: int) -> int:
    """Return the last value after a meeting that is computed by activations, or quantization, and read by one value.

    Quantizers may leave the ReLU to the quantization, of which each reader of the value may then have its own.
    """
    after_layer = {"batch_norm", "batchnormalization", "add"} if steps[place].operation in LAYERS else set()
    while users[place]:
        after = users[place][0]
        step = steps[after]
        is_read_once = len(users[place]) == 1 or all(steps[i].operation in QUANTIZERS for i in users[place])
        if not is_read_once or len(set(step.inputs)) > 1 or step.operation not in POINTWISE | after_layer:
            break
        place = after
    return place


def gates_in(steps: Sequence[Step]) -> list[Gate]:
    """Return the gates, in the order of their products.

    Without a layer with weights, a factor that comes from means is not a gate: a normalization that an exporter writes
    out divides by one. Of two factors after equally many means neither is the map of the other: x * sigmoid(x) after
    the last pooling.
    """
    means = means_before(steps)
    found = []
    for product, step in enumerate(steps):
        factors = sorted(set(step.inputs), key=means.__getitem__)
        if step.operation in PRODUCTS and len(factors) == 2 and means[factors[0]] < means[factors[1]]:
            operations = back_to_means(steps, factors[1])
            if any(steps[i].operation in LAYERS for i in operations):
                found.append(Gate(place=factors[1], product=product, operations=operations))
    return found


def means_before(steps: Sequence[Step]) -> list[int]:
    """Return for each value how many means are at least on a way to it from the images.

    A feature map has as many as there are on the trunk, which may pool by means too, as in DenseNet; its gate has more.
    """
    found: list[int] = []
    for step in steps:
        before = min((found[source] for source in step.inputs), default=0)
        found.append(before + (step.operation in MEANS))
    return found


def back_to_means(steps: Sequence[Step], place: int) -> tuple[int, ...]:
    """Return the positions from a value that comes from means back to these; none if they are too many for a gate."""
    found: set[int] = set()
    waiting = [place]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            if len(found) > MAX_OPERATIONS:
                return ()
            if steps[i].operation not in MEANS:
                waiting += steps[i].inputs
    return tuple(sorted(found))


def in_line(steps: Sequence[Step], places: Sequence[int]) -> bool:
    """Return whether each of some values is computed from the one before it, so that only one order is possible."""
    bits = {place: 1 << i for i, place in enumerate(places)}
    masks: list[int] = []
    for i, step in enumerate(steps):
        mask = bits.get(i, 0)
        for source in step.inputs:
            mask |= masks[source]
        masks.append(mask)
    return all(masks[later] & bits[before] for before, later in pairwise(places))
