"""Where SE blocks belong in a model: found in what it computes.

- The end of every residual branch, in front of its sum. Of two summands the branch is the one with more convolutions
  since they parted.
- The new part of a dense concatenation (DenseNet), and the result of one of parallel branches (Inception).
- In a model with neither, what each convolution's activation makes (VGG); depthwise convolutions are left out, for the
  pointwise ones behind them end the unit.

A block hangs on a module, behind its output or in front of its input, so a site is a tensor that some module makes or
takes, alone and once.

Source: arXiv:1709.01507v4, sections 3.3 and 4 (Figures 2 and 3: Inception and residual modules; plain networks).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from senet.attachment import NAME
from senet.block import Placement
from senet.insertion.dataflow import Call, Dataflow, Value

SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__"})
PRODUCTS = frozenset({"mul", "__mul__", "__rmul__", "__imul__"})
JOINS = frozenset({"cat", "concat", "concatenate"})
CONVOLUTIONS = frozenset({"conv2d", "conv_transpose2d", "deform_conv2d"})
LAYERS = CONVOLUTIONS | {"conv1d", "linear", "einsum", "matmul"}
POOLS = frozenset({"mean", "adaptive_avg_pool2d", "avg_pool2d", "adaptive_max_pool2d", "max_pool2d", "amax", "sum"})
NORMS = frozenset({"batch_norm", "group_norm", "layer_norm", "instance_norm", "sync_batch_norm"})
ACTIVATIONS = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "rrelu", "threshold", "clamp", "elu", "selu", "celu", "gelu"}
) | frozenset({"silu", "mish", "softplus", "hardswish", "hardtanh", "hardsigmoid", "tanh", "sigmoid"})
TURNS = frozenset({"permute", "transpose", "contiguous"})
PARTS = frozenset({"__getitem__", "split", "chunk", "tensor_split", "narrow"})
THROUGH = (
    PRODUCTS | PARTS | {"dropout", "dropout2d", "feature_dropout", "clone", "contiguous", "to", "div", "__truediv__"}
)
"""What may lie between the end of a branch and its sum: LayerScale, stochastic depth, dropout, a split (DPN)."""


@dataclass(frozen=True)
class Site:
    """A place for an SE block.

    Args:
        module: name of the module that it hangs on.
        in_front: whether it scales that module's input instead of its output.
        kind: "residual branch", "behind the sum", "dense branch", "concatenation", "plain convolution" or "block
            without a sum".
        unit: name of the module in whose forward pass the sum or concatenation is.
        channels: of the feature map.
        side: of the feature map, (height, width).
        gated: whether the branch multiplies channels by a gate already.
        stage: number of the feature map's resolution among those of the sites, from 2 as in the paper, whose stage 1 is
            the stem.
    """

    module: str
    in_front: bool
    kind: str
    unit: str
    channels: int
    side: tuple[int, int]
    gated: bool = False
    stage: int = 0


@dataclass(frozen=True)
class Skipped:
    """A place without a block, and why."""

    place: str
    reason: str


@dataclass(eq=False)
class Merge:
    """A sum or concatenation of feature maps.

    Args:
        value: the result.
        branch: what gets the block: a summand, a part of a concatenation, or its result.
        region: what was computed on the way to it alone, one bit for each value.
        kind: see `Site`.
    """

    value: Value
    branch: Value
    region: int
    kind: str


class Structure:
    """What the dataflow of a model says about its blocks."""

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
        self.layers = mask(v for v in flow.values if v.operation in LAYERS)
        self.convolutions = mask(
            v for v in flow.values if v.operation in CONVOLUTIONS or (v.operation == "linear" and is_map(v))
        )
        self.pools = [v for v in flow.values if v.operation in POOLS]

    # ---- merges ------------------------------------------------------------------------------------------------------

    def merges(self) -> tuple[list[Merge], list[Skipped]]:
        """Return the sums and concatenations whose branches may get a block."""
        found: list[Merge] = []
        skipped: list[Skipped] = []
        joined: set[Value] = set()
        for value in self.flow.values:
            maps = [v for v in value.inputs if is_map(v)]
            if value.operation in SUMS and len(maps) == 2 and maps[0].shape == maps[1].shape == value.shape:
                merge = self.sum_of(value, *maps)
                if merge is not None:
                    found.append(merge)
                elif self.parallel(*maps):
                    skipped.append(Skipped(value.scope or ROOT, "a sum of parallel branches, none of them residual"))
            elif value.operation in JOINS and len(maps) > 1 and sum(v.shape[1] for v in maps) == value.shape[1]:
                found.extend(self.join_of(value, maps, joined))
                joined.update(maps)
        return found, skipped

    def depth(self, values: int) -> int:
        """Count the convolutions among values."""
        return (values & self.convolutions).bit_count()

    def parallel(self, a: Value, b: Value) -> bool:
        """Whether both have convolutions of their own."""
        return self.depth(a.ancestors & ~b.ancestors) > 0 and self.depth(b.ancestors & ~a.ancestors) > 0

    def sum_of(self, value: Value, a: Value, b: Value) -> Merge | None:
        """Return the residual sum that this is, if one summand has more convolutions of its own."""
        of_a, of_b = a.ancestors & ~b.ancestors, b.ancestors & ~a.ancestors
        if self.depth(of_a) == self.depth(of_b):
            return None
        branch, region = (a, of_a) if self.depth(of_a) > self.depth(of_b) else (b, of_b)
        return Merge(value, branch, region, "residual branch")

    def join_of(self, value: Value, maps: list[Value], joined: set[Value]) -> Iterator[Merge]:
        """Yield what gets a block in a concatenation: the result if it has several new parts, else the new part."""
        everything = 0
        for v in maps:
            everything |= v.ancestors
        common = everything
        for v in maps:
            common &= v.ancestors
        new = [v for v in maps if v not in joined and self.depth(v.ancestors & ~common)]
        if len(new) > 1:
            yield Merge(value, value, (everything & ~common) | (1 << value.index), "concatenation")
        elif len(new) == 1:
            others = 0
            for v in maps:
                others |= 0 if v is new[0] else v.ancestors
            yield Merge(value, new[0], new[0].ancestors & ~others, "dense branch")

    def without_nested(self, merges: list[Merge]) -> list[Merge]:
        """Leave out what is inside another's branch, and what holds whole blocks: a skip over several of them."""
        dropped: set[Merge] = set()
        for outer in merges:
            inner = [m for m in merges if inside(m, outer)]
            blocks = [m for m in inner if within(m.value.scope, outer.value.scope)]
            residual = {m.value.scope for m in blocks if m.kind == "residual branch"}
            units = {m.value.scope for m in blocks if m.kind == outer.kind}
            if residual if outer.kind == "residual branch" else residual or len(units) > 1:
                dropped.add(outer)
        for outer in merges:
            if outer not in dropped:
                dropped.update(m for m in merges if inside(m, outer))
        return [m for m in merges if m not in dropped]

    # ---- sites -------------------------------------------------------------------------------------------------------

    def gated(self, region: int) -> bool:
        """Whether channels are multiplied, within these values, by what a layer computes from their means."""
        for value in self.flow.values:
            if not region >> value.index & 1 or value.operation not in PRODUCTS or not is_map(value):
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

    def place(self, value: Value, kind: str, unit: str, gated: bool) -> Site | None:
        """Return the site at a value, or at one that differs from it by a factor; None where no module has it."""
        candidates = [value]
        while candidates[-1].operation in THROUGH and len(candidates[-1].inputs) == 1:
            candidates.append(candidates[-1].inputs[0])
        for candidate in reversed(candidates):
            if not is_map(candidate):
                continue
            takers = [call for call in self.takers[candidate] if takes_alone(call, candidate)]
            for calls, in_front in ((self.makers[candidate], False), (takers, True)):
                for call in filter(self.is_free, calls):
                    return site_at(call, in_front, kind, unit, candidate, gated)
        return None

    def is_free(self, call: Call) -> bool:
        """Whether a block can hang on a module: it is called once, has no child `se`, and runs no child unasked."""
        runs_all = isinstance(call.module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        return self.times[call.name] == 1 and not hasattr(call.module, NAME) and not runs_all

    def behind(self, value: Value) -> Value:
        """Return what the norms and the activation behind a value make of it, where nothing else reads it."""
        value = self.behind_norms(value)
        closed = len(value.users) == 1 and value.users[0].operation in ACTIVATIONS
        return value.users[0] if closed else value

    def site_of(self, merge: Merge, placement: Placement) -> Site | None:
        """Return the site of a merge; a sum's may have to be behind it."""
        unit, gated = merge.value.scope, self.gated(merge.region)
        if merge.kind != "residual branch" or placement == "standard":
            site = self.place(merge.branch, merge.kind, unit, gated)
            if site is not None or merge.kind != "residual branch":
                return site
        if placement == "pre":
            return self.first(merge, unit, gated)
        if placement == "3x3":
            wide = [v for v in self.flow.values if merge.region >> v.index & 1 and self.is_spatial(v)]
            return self.place(self.behind_norms(wide[-1]), merge.kind, unit, gated) if wide else None
        result = self.behind(merge.value)
        kind = "behind the sum"
        return self.place(result, kind, unit, gated) or self.place(merge.value, kind, unit, gated)

    def first(self, merge: Merge, unit: str, gated: bool) -> Site | None:
        """Return the site in front of the first module of a branch."""
        for call in self.flow.calls:
            value, out = call.input, call.output
            if value is None or out is None or not is_map(value) or merge.region >> value.index & 1:
                continue
            if merge.region >> out.index & 1 and within(call.name, unit) and self.is_free(call):
                return site_at(call, True, merge.kind, unit, value, gated)
        return None

    def is_spatial(self, value: Value) -> bool:
        """Whether a value is made by a convolution with a window."""
        modules = [call.module for call in self.makers[value]]
        return any(isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1 for m in modules)

    def behind_norms(self, value: Value) -> Value:
        """Return what the norms behind a value make of it, those that turn the map around for it included."""
        last = value
        while len(value.users) == 1 and value.users[0].operation in NORMS | TURNS:
            value = value.users[0]
            last = value if value.shape == last.shape else last
        return last

    def plain(self) -> tuple[list[Site], list[Skipped]]:
        """Return the sites behind the activation of every convolution that is not depthwise."""
        sites, skipped = [], []
        for conv in self.flow.values:
            if conv.operation not in CONVOLUTIONS or not is_map(conv) or conv.shape[2] * conv.shape[3] == 1:
                continue
            activation = self.behind(conv)
            if activation.operation not in ACTIVATIONS or self.depthwise(conv):
                continue
            values = (activation, self.behind_norms(conv))
            site = next(filter(None, (self.place(v, "plain convolution", conv.scope, False) for v in values)), None)
            if site is None:
                skipped.append(Skipped(conv.scope, NO_MODULE))
            else:
                sites.append(site)
        return sites, skipped

    def depthwise(self, conv: Value) -> bool:
        """Whether a convolution works on each channel alone."""
        groups = conv.arguments.get("groups", conv.arguments.get("6", 1))
        return isinstance(groups, int) and groups > 1 and groups == conv.inputs[0].shape[1]

    def siblings(self, sites: list[Site]) -> Iterator[Site]:
        """Yield sites in blocks of the same classes without a sum, as where a residual network halves its maps."""
        calls = {call.name: call for call in self.flow.calls if self.times[call.name] == 1}
        units = {site.unit for site in sites}
        patterns: dict[type[nn.Module], Site] = {}
        for site in sites:
            if site.unit in calls and within(site.module, site.unit):
                patterns[type(calls[site.unit].module)] = site
        for name, call in calls.items():
            if type(call.module) not in patterns or name in units or any(within(unit, name) for unit in units):
                continue
            site = patterns[type(call.module)]
            at = calls.get(name + site.module[len(site.unit) :])
            there = calls[site.module]
            value = None if at is None else at.input if site.in_front else at.output
            if at is None or value is None or not is_map(value) or type(at.module) is not type(there.module):
                continue
            if not self.is_free(at):
                continue
            own = mask(v for v in self.flow.values if at_or_within(v.scope, name))
            yield site_at(at, site.in_front, "block without a sum", name, value, self.gated(own))


ROOT = "the model"
NO_MODULE = "no module makes or takes this tensor alone, so that no block can hang on it"


def mask(values: Iterator[Value]) -> int:
    """Return a number with one bit for each value."""
    bits = 0
    for value in values:
        bits |= 1 << value.index
    return bits


def inside(inner: Merge, outer: Merge) -> bool:
    """Whether a merge and its branch are computed on the way to another's branch."""
    return inner is not outer and bool(outer.region >> inner.value.index & outer.region >> inner.branch.index & 1)


def is_map(value: Value) -> bool:
    """Whether a value is a feature map (N, C, H, W)."""
    return value.tensor.dim() == 4 and value.tensor.is_floating_point()


def side_of(value: Value) -> tuple[int, int]:
    """Return height and width of a feature map."""
    return value.shape[2], value.shape[3]


def takes_alone(call: Call, value: Value) -> bool:
    """Whether nothing but a module reads its input, or the module passes it on as it is."""
    inside = all(at_or_within(user.scope, call.name) for user in value.users)
    return inside or call.output is value


def within(name: str, module: str) -> bool:
    """Whether a module's name is inside another's."""
    return name != module and (module == "" or name.startswith(f"{module}."))


def at_or_within(name: str, module: str) -> bool:
    """Whether a name is a module's or of one inside it."""
    return name == module or within(name, module)


def site_at(call: Call, in_front: bool, kind: str, unit: str, value: Value, gated: bool) -> Site:
    """Return the site on a module that makes or takes a value."""
    return Site(call.name, in_front, kind, unit, value.shape[1], side_of(value), gated)


def sites_of(flow: Dataflow, placement: Placement = "standard") -> tuple[list[Site], list[Skipped]]:
    """Return where SE blocks belong, in the order of computation, and where none does."""
    structure = Structure(flow)
    merges, skipped = structure.merges()
    found = {merge: structure.site_of(merge, placement) for merge in merges}
    placed = structure.without_nested([merge for merge, site in found.items() if site is not None])
    sites = [site for merge in placed if (site := found[merge]) is not None]
    for merge, site in found.items():
        if site is None and not any(inside(merge, outer) for outer in placed):
            skipped.append(Skipped(merge.value.scope or ROOT, f"{merge.kind}: {NO_MODULE}"))
    residual = [site for site in sites if site.kind in ("residual branch", "behind the sum")]
    siblings = list(structure.siblings(residual or sites))
    sites = [
        s for s in sites if s in residual or not any(within(s.module, other.unit) for other in siblings)
    ] + siblings
    if not sites:
        sites, plain_skipped = structure.plain()
        skipped += plain_skipped
    units = {site.unit for site in sites}
    return in_order(flow, sites), [skip for skip in skipped if skip.place not in units]


def in_order(flow: Dataflow, sites: list[Site]) -> list[Site]:
    """Sort sites by when their modules run, number the stages, and keep one of each."""
    when = {call.name: i for i, call in enumerate(flow.calls)}
    unique = {(site.module, site.in_front): site for site in sites}.values()
    ordered = sorted(unique, key=lambda site: when[site.module])
    sides = sorted({site.side for site in ordered}, reverse=True)
    return [replace(site, stage=2 + sides.index(site.side)) for site in ordered]
