"""Where SE blocks belong in a model: the modules that make or take the tensors that they would scale.

- The end of every residual branch, before its sum, and of a decoder's branch that is added to a map of the encoder.
- The new part of a dense concatenation (DenseNet), and the result of one of parallel branches (Inception) or of maps of
  a decoder and an encoder (U-Net).
- In a model with none of these, what each convolution's activation makes (VGG); depthwise convolutions are left out,
  for the pointwise ones after them end the unit.

A block is attached to a module, after its output or before its input, so a site is a tensor that some module makes or
takes, alone and once; each module takes one block.

Source: arXiv:1709.01507v4, sections 3.3 and 4 (Figures 2 and 3: Inception and residual modules; plain networks).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from senet.nn.attached import can_carry
from senet.nn.block import Placement
from senet.surgery.dataflow import Call, Dataflow, Value
from senet.surgery.structure import CONVOLUTIONS, PRODUCTS, ROOT, Merge, Skipped, Structure, at_or_within, mask, within

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
BY_CLASS = ("residual branch", "decoder branch", "behind the sum")
"""Kinds of sites that blocks of the same class without a sum have too."""
NO_MODULE = "no free module makes or takes this tensor alone, so that no block can be attached to it"


@dataclass(frozen=True)
class Site:
    """A place for an SE block.

    Args:
        module: name of the module that it is attached to.
        before: whether it scales that module's input instead of its output.
        kind: "residual branch", "decoder branch", "behind the sum", "dense branch", "concatenation", "plain
            convolution", "block without a sum", or "named module" where the model was not run.
        unit: name of the module in whose forward pass the sum or concatenation is.
        channels: of the feature map.
        side: of the feature map, (height, width), or as many numbers as it has.
        gated: whether the branch multiplies channels by a gate already.
        stage: number of the feature map's resolution among those of the sites, from 2 as in the paper, whose stage 1 is
            the stem.
    """

    module: str
    before: bool
    kind: str
    unit: str
    channels: int
    side: tuple[int, ...]
    gated: bool = False
    stage: int = 0


class Places:
    """The modules of a model that its blocks can be attached to.

    Args:
        structure: of the model.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure, self.flow = structure, structure.flow
        self.taken: set[str] = set()

    def place(self, value: Value, kind: str, unit: str, gated: bool) -> Site | None:
        """Return the site at a value, or at one that differs from it by a factor; None where no module has it."""
        candidates = [value]
        while candidates[-1].operation in THROUGH and len(candidates[-1].inputs) == 1:
            candidates.append(candidates[-1].inputs[0])
        for candidate in reversed(candidates):
            if not self.structure.is_map(candidate):
                continue
            takers = [call for call in self.structure.takers[candidate] if takes_alone(call, candidate)]
            for calls, before in ((self.structure.makers[candidate], False), (takers, True)):
                for call in filter(self.is_free, calls):
                    return site_at(call, before, kind, unit, candidate, gated)
        return None

    def is_free(self, call: Call) -> bool:
        """Whether a block can be attached to a module: it is called once, and has no block."""
        return self.structure.times[call.name] == 1 and call.name not in self.taken and can_carry(call.module)

    def behind(self, value: Value) -> Value:
        """Return what the norms and the activation after a value make of it, where nothing else reads it."""
        value = self.behind_norms(value)
        closed = len(value.users) == 1 and value.users[0].operation in ACTIVATIONS
        return value.users[0] if closed else value

    def site_of(self, merge: Merge, placement: Placement) -> Site | None:
        """Return the site of a merge; a sum's may have to be after it."""
        unit, gated = merge.value.scope, self.structure.gated(merge.region)
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
        """Return the site before the first module of a branch."""
        for call in self.flow.calls:
            value, out = call.input, call.output
            if value is None or out is None or not self.structure.is_map(value) or merge.region >> value.index & 1:
                continue
            if merge.region >> out.index & 1 and within(call.name, unit) and self.is_free(call):
                return site_at(call, True, merge.kind, unit, value, gated)
        return None

    def is_spatial(self, value: Value) -> bool:
        """Whether a value is made by a convolution with a window."""
        modules = [call.module for call in self.structure.makers[value]]
        return any(isinstance(m, nn.modules.conv._ConvNd) and max(m.kernel_size) > 1 for m in modules)

    def behind_norms(self, value: Value) -> Value:
        """Return what the norms after a value make of it, those that turn the map around for it included."""
        last = value
        while len(value.users) == 1 and value.users[0].operation in NORMS | TURNS:
            value = value.users[0]
            last = value if value.shape == last.shape else last
        return last

    def plain(self) -> tuple[list[Site], list[Skipped]]:
        """Return the sites after the activation of every convolution that is not depthwise."""
        sites, skipped = [], []
        for conv in reversed(self.flow.values):  # the last has the least choice, for nothing may take what it makes
            if conv.operation not in CONVOLUTIONS or not self.structure.is_map(conv) or math.prod(conv.shape[2:]) == 1:
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
                self.taken.add(site.module)
        return sites, skipped[::-1]

    def depthwise(self, conv: Value) -> bool:
        """Whether a convolution works on each channel alone."""
        groups = conv.arguments.get("groups", conv.arguments.get("6", 1))
        return isinstance(groups, int) and groups > 1 and groups == conv.inputs[0].shape[1]

    def with_siblings(self, sites: list[Site]) -> list[Site]:
        """Return sites with those of their siblings, which go before concatenations inside them."""
        by_class = [site for site in sites if site.kind in BY_CLASS]
        self.taken = {site.module for site in by_class}
        siblings = list(self.siblings(by_class or sites))
        kept = [s for s in sites if s in by_class or not any(within(s.module, other.unit) for other in siblings)]
        self.taken = {site.module for site in kept}
        return kept + [site for site in siblings if site.module not in self.taken]

    def siblings(self, sites: list[Site]) -> Iterator[Site]:
        """Yield sites in blocks of the same classes without a sum, as where a residual network halves its maps."""
        calls = {call.name: call for call in self.flow.calls if self.structure.times[call.name] == 1}
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
            value = None if at is None else at.input if site.before else at.output
            if (
                at is None
                or value is None
                or not self.structure.is_map(value)
                or type(at.module) is not type(there.module)
            ):
                continue
            if not self.is_free(at):
                continue
            own = mask(v for v in self.flow.values if at_or_within(v.scope, name))
            yield site_at(at, site.before, "block without a sum", name, value, self.structure.gated(own))


def takes_alone(call: Call, value: Value) -> bool:
    """Whether nothing but a module reads its input, or the module passes it on as it is."""
    inside = all(at_or_within(user.scope, call.name) for user in value.users)
    return inside or call.output is value


def site_at(call: Call, before: bool, kind: str, unit: str, value: Value, gated: bool) -> Site:
    """Return the site on a module that makes or takes a value."""
    return Site(call.name, before, kind, unit, value.shape[1], value.shape[2:], gated)


def sites_of(flow: Dataflow, placement: Placement = "standard") -> tuple[list[Site], list[Skipped]]:
    """Return where SE blocks belong, in the order of computation, and where none does."""
    structure = Structure(flow)
    places = Places(structure)
    merges, skipped = structure.merges()
    found = {merge: places.site_of(merge, placement) for merge in merges}
    chosen, nested = structure.without_nested([merge for merge in merges if found[merge] is not None])
    sites = []
    for merge in merges:
        site = found[merge]
        if site is not None and merge in chosen:
            site = places.site_of(merge, placement) if site.module in places.taken else site
            if site is not None:
                sites.append(site)
                places.taken.add(site.module)
        if site is None:
            skipped.append(Skipped(merge.value.scope or ROOT, f"{merge.kind}: {NO_MODULE}"))
    sites = places.with_siblings(sites)
    if not sites:
        sites, plain_skipped = places.plain()
        skipped += plain_skipped
    units = {site.unit for site in sites}
    return in_order(flow, sites), [skip for skip in skipped + nested if skip.place not in units]


def in_order(flow: Dataflow, sites: list[Site]) -> list[Site]:
    """Sort sites by when their modules run, and number the stages."""
    when = {call.name: i for i, call in enumerate(flow.calls)}
    sides = sorted({site.side for site in sites}, reverse=True)
    ordered = sorted(sites, key=lambda site: when[site.module])
    return [replace(site, stage=2 + sides.index(site.side)) for site in ordered]
