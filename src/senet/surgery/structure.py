"""Which sums and concatenations of a model end a branch that an SE block may scale, found from its dataflow.

Of the two summands of a residual block, the branch is the one with more convolutions since their common ancestor. Of
the inputs of a concatenation only new ones count, which no earlier concatenation contains: a single one is a dense
branch (DenseNet), several are parallel branches (Inception).

Decoders merge maps of the encoder with upsampled ones, across many blocks of both. Such a merge is no residual block,
and the blocks on the way to it are sites of their own. Its branch is what the module that computes the sum adds itself
(LinkNet). If both summands come from layers of that module, or neither does (the top-down sums of feature pyramids),
there is no branch.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from senet.surgery.dataflow import Call, Dataflow, Value
from senet.surgery.report import Skipped

SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__"})
PRODUCTS = frozenset({"mul", "__mul__", "__rmul__", "__imul__"})
JOINS = frozenset({"cat", "concat", "concatenate"})
UPSAMPLINGS = frozenset({"interpolate", "upsample", "pixel_shuffle", "max_unpool2d", "grid_sample"}) | frozenset(
    f"conv_transpose{n}d" for n in (1, 2, 3)
)
CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)) | {"deform_conv2d"}
LAYERS = CONVOLUTIONS | {"linear", "einsum", "matmul"}
POOLS = frozenset({"mean", "amax", "sum"}) | frozenset(
    f"{adaptive}{kind}_pool{n}d" for adaptive in ("", "adaptive_") for kind in ("avg", "max") for n in (1, 2, 3)
)
NOT_RESIDUAL = "a sum of parallel branches, none of them residual"
PYRAMID = "a sum of maps of several levels, none of them the branch of a block"
AROUND_BLOCKS = "a skip around whole blocks, which are sites of their own"


@dataclass(frozen=True, eq=False)
class Merge:
    """A sum or concatenation of feature maps.

    Args:
        value: the result.
        branch: what gets the block: a summand, an input of a concatenation, or its result.
        region: a bit mask of the values that were computed for this branch only.
        kind: see `senet.surgery.report.Site`.
        crosses: True if the branch passes through layers of other modules and an upsampling, as in a decoder.
    """

    value: Value
    branch: Value
    region: int
    kind: str
    crosses: bool = False


class Structure:
    """The sums, concatenations and gates in the dataflow of a model.

    Args:
        flow: of one run.

    Attributes:
        times: how often each module was called, by name.
        makers: the calls whose output a value is.
        takers: the calls whose first input a value is.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        self.times: dict[str, int] = defaultdict(int)
        self.makers: dict[Value, list[Call]] = defaultdict(list)
        self.takers: dict[Value, list[Call]] = defaultdict(list)
        for call in flow.calls:
            self.times[call.name] += 1
            if call.output is not None and call.output is not call.input:
                self.makers[call.output].append(call)
            if call.input is not None:
                self.takers[call.input].append(call)
        dimensions = {v.tensor.dim() for v in flow.values if v.operation in CONVOLUTIONS}
        self.dimensions = next((n for n in (4, 5, 3) if n in dimensions), 4)
        self.layers = mask(v for v in flow.values if v.operation in LAYERS)
        self.convolutions = mask(v for v in flow.values if v.operation in CONVOLUTIONS | {"linear"} and self.is_map(v))
        self.upsamplings = mask(v for v in flow.values if v.operation in UPSAMPLINGS)
        self.pools = [v for v in flow.values if v.operation in POOLS]

    def is_map(self, value: Value) -> bool:
        """Return whether a value is a feature map (N, C, ...): floating, with the dimensions of the convolutions."""
        return value.tensor.dim() == self.dimensions and value.tensor.is_floating_point()

    def is_gate(self, value: Value) -> bool:
        """Return whether a value has one number per channel and scales a larger map, without a layer in between."""
        if not self.is_map(value) or math.prod(value.shape[2:]) > 1:
            return False
        return any(
            user.tensor.numel() > value.tensor.numel()
            if user.operation in PRODUCTS
            else user.operation not in LAYERS | SUMS and self.is_gate(user)
            for user in value.users
        )

    def depth(self, values: int) -> int:
        """Count the convolutions among the values of a bit mask."""
        return (values & self.convolutions).bit_count()

    def local(self, values: int, module: str) -> int:
        """Return the values of a bit mask that are computed inside a module."""
        return values & mask(v for v in self.flow.values if at_or_within(v.scope, module))

    # ---- merges ------------------------------------------------------------------------------------------------------

    def merges(self) -> tuple[list[Merge], list[Skipped]]:
        """Return the sums and concatenations whose branches may get a block, and those that have no branch."""
        merges: list[Merge] = []
        skipped: list[Skipped] = []
        joined: set[Value] = set()
        for value in self.flow.values:
            maps = [v for v in value.inputs if self.is_map(v)]
            if value.operation in SUMS and len(maps) == 2 and maps[0].shape == maps[1].shape == value.shape:
                merge = None if self.is_gate(value) else self.sum_of(value, *maps)
                if isinstance(merge, Merge):
                    merges.append(merge)
                elif merge is not None:
                    skipped.append(Skipped(value.scope or ROOT, merge))
            elif value.operation in JOINS and len(maps) > 1 and sum(v.shape[1] for v in maps) == value.shape[1]:
                merges.extend(self.join_of(value, maps, joined))
                joined.update(maps)
        return merges, skipped

    def sum_of(self, value: Value, a: Value, b: Value) -> Merge | str | None:
        """Return the sum with its branch, or why it has none; None if neither summand comes from a convolution."""
        of_a, of_b = a.ancestors & ~b.ancestors, b.ancestors & ~a.ancestors
        if self.depth(of_a) < self.depth(of_b):
            a, b, of_a, of_b = b, a, of_b, of_a
        if self.depth(of_a) == self.depth(of_b):
            return NOT_RESIDUAL if self.depth(of_a) else None
        if not self.crosses(of_a, value.scope):
            return Merge(value, a, of_a, "residual branch")
        own = self.local(of_a, value.scope)
        if not self.depth(own) or self.depth(self.local(of_b, value.scope)):
            return PYRAMID
        return Merge(value, a, own, "decoder branch", crosses=True)

    def crosses(self, region: int, scope: str) -> bool:
        """Return whether a branch passes through layers and an upsampling outside the module of the merge."""
        outside = not scope or self.depth(region & ~self.local(region, scope)) > 0
        return outside and bool(region & self.upsamplings)

    def join_of(self, value: Value, maps: list[Value], joined: set[Value]) -> Iterator[Merge]:
        """Yield what gets a block in a concatenation: its result if several inputs are new, else the new input."""
        everything = 0
        for v in maps:
            everything |= v.ancestors
        common = everything
        for v in maps:
            common &= v.ancestors
        new = [v for v in maps if v not in joined and self.depth(v.ancestors & ~common)]
        region = (everything & ~common) | (1 << value.index)
        if new and self.crosses(region, value.scope):
            yield Merge(value, value, self.local(region, value.scope), "concatenation", crosses=True)
        elif len(new) > 1:
            yield Merge(value, value, region, "concatenation")
        elif len(new) == 1:
            others = 0
            for v in maps:
                others |= 0 if v is new[0] else v.ancestors
            yield Merge(value, new[0], new[0].ancestors & ~others, "dense branch")

    def without_nested(self, merges: list[Merge]) -> tuple[list[Merge], list[Skipped]]:
        """Drop merges nested in another merge's branch, and long skips that span several blocks."""
        dropped: dict[Merge, str] = {}
        for outer in merges:
            inner = [m for m in merges if inside(m, outer)]
            blocks = [m for m in inner if within(m.value.scope, outer.value.scope)]
            residual = {m.value.scope for m in blocks if m.kind == "residual branch"}
            units = {m.value.scope for m in blocks if m.kind == outer.kind}
            if not outer.crosses and (residual if outer.kind == "residual branch" else residual or len(units) > 1):
                dropped[outer] = AROUND_BLOCKS
        for outer in merges:
            if outer not in dropped and not outer.crosses:
                reason = f"inside the branch of {outer.value.scope or ROOT}, which is a site itself"
                dropped |= {m: reason for m in merges if inside(m, outer)} | dropped
        skipped = [Skipped(m.value.scope or ROOT, f"{m.kind}: {reason}") for m, reason in dropped.items()]
        return [m for m in merges if m not in dropped], skipped

    def gated(self, region: int) -> bool:
        """Return whether a region has channel attention: a product with a gate that layers compute from a pool."""
        for value in self.flow.values:
            if not region >> value.index & 1 or value.operation not in PRODUCTS or not self.is_map(value):
                continue
            for gate in value.inputs:
                others = [v for v in value.inputs if v is not gate]
                for pool in self.pools:
                    between = gate.ancestors & ~pool.ancestors
                    if (
                        others
                        and gate.ancestors >> pool.index & 1
                        and region >> pool.index & 1
                        and pool.tensor.numel() < value.tensor.numel()
                        and between & self.layers
                        and not others[0].ancestors >> pool.index & 1
                    ):
                        return True
        return False


ROOT = "the model"


def mask(values: Iterable[Value]) -> int:
    """Return a bit mask with one bit for each value, at its index."""
    bits = 0
    for value in values:
        bits |= 1 << value.index
    return bits


def inside(inner: Merge, outer: Merge) -> bool:
    """Return whether a merge and its branch lie in another merge's region."""
    return inner is not outer and bool(outer.region >> inner.value.index & outer.region >> inner.branch.index & 1)


def within(name: str, module: str) -> bool:
    """Return whether a module, by name, is inside another."""
    return name != module and (module == "" or name.startswith(f"{module}."))


def at_or_within(name: str, module: str) -> bool:
    """Return whether a module, by name, is another or inside it."""
    return name == module or within(name, module)
