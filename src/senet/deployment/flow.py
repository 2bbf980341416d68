"""The ends of a network's blocks, and its gates, found in any graph of it by what is computed from what.

The end of a block is a value through which everything passes and in which several paths meet: the sum of a residual
unit with the activation after it, the concatenation of an Inception module. A gate is a factor that depends on the
images only by way of means over positions, while the other factor is a feature map. Both definitions hold for the
network in PyTorch and for what exporters, rewriting and quantization make of it, so that the ends and the gates of two
graphs correspond one to one in the order of computation, whatever their operators are called.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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
LAYERS = frozenset(["conv2d", "linear", "convolution", "groupconvolution", "conv", "gemm", "matmul"])
SIZES = frozenset(["shape", "shapeof", "size"])
"""What is computed from the sizes of an image only."""


@dataclass(frozen=True, eq=False)
class Step:
    """A value of a graph.

    Args:
        operation: what computes it, in small letters.
        inputs: the positions of the values that it is computed from, without constants.
        key: how its graph calls it.
    """

    operation: str
    inputs: tuple[int, ...]
    key: Any


@dataclass(frozen=True, kw_only=True)
class Points:
    """Where networks can be compared inside.

    Args:
        ends: positions of the ends of blocks, in the order of computation; of a network without blocks, of its layers.
        meetings: for each end, the position of the value in which the paths meet.
        gates: positions of the gates.
        products: for each gate, the position of the product that it is a factor of.
    """

    ends: tuple[int, ...]
    meetings: tuple[int, ...]
    gates: tuple[int, ...]
    products: tuple[int, ...]


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
    products = gates_in(steps, used)
    return Points(
        ends=tuple(end_of(steps, users, i) for i in meetings),
        meetings=tuple(meetings),
        gates=tuple(products.values()),
        products=tuple(products),
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


def gates_in(steps: Sequence[Step], used: Sequence[int]) -> dict[int, int]:
    """Return the position of the gate for each product of a gate and a feature map, in the order of computation."""
    maps: set[int] = set()  # what depends on the images by a path without means
    found = {}
    for i in used:
        step = steps[i]
        if not step.inputs or (step.operation not in MEANS and any(source in maps for source in step.inputs)):
            maps.add(i)
        inputs = list(dict.fromkeys(step.inputs))
        if step.operation in PRODUCTS and len(inputs) == 2:
            factors = [source for source in inputs if source not in maps]
            if len(factors) == 1:
                found[i] = factors[0]
    return found


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
