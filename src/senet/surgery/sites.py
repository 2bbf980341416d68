"""Where SE blocks fit in a model: the tensors to scale, and the modules whose output or input these are.

- The end of every residual branch, before its sum, and of a decoder's branch that is added to a map of the encoder.
- The new part of a dense concatenation (DenseNet), and the result of concatenating parallel branches (Inception) or
  the maps of a decoder and an encoder (U-Net).
- In a model with none of these, the output of each convolution's activation (VGG), except after depthwise
  convolutions: the pointwise convolution that follows ends the unit.

A block scales the output or the input of a module that runs once, and a module takes one block. So a tensor is a site
only if it is the output or input of such a module and nothing else reads it before it is scaled.

Source: arXiv:1709.01507v4, sections 3.3 and 4 (Figures 2 and 3: Inception and residual modules; plain networks).
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from senet.nn.attached import can_carry
from senet.nn.block import Placement
from senet.surgery.dataflow import Call, Dataflow, Value
from senet.surgery.report import Site, SiteReport, Skipped
from senet.surgery.structure import CONVOLUTIONS, PRODUCTS, ROOT, Merge, Structure, at_or_within, mask, within

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
BY_CLASS = ("residual branch", "decoder branch", "after the sum")
"""Kinds of sites that blocks of the same class without a sum have too."""
IN_RESIDUAL_BLOCKS = ("residual branch", "after the sum", "block without a sum")
"""Kinds of sites that depend on the placement."""
NO_MODULE = "no module without a block has this tensor as its only output or input, so no block can be attached"


class Places:
    """Finds the module of a model to which a block for a given tensor can be attached.

    Args:
        structure: of the model.

    Attributes:
        taken: names of the modules that have been given a block.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure, self.flow = structure, structure.flow
        self.taken: set[str] = set()

    def place(self, value: Value, kind: str, unit: str, gated: bool) -> Site | None:
        """Return the site at a value, or at an earlier one that only dropout, scaling or the like separates from it.

        None if no free module has such a value as its output or input.
        """
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
        """Return whether a block can be attached to a module: it is called once and has no block yet."""
        return self.structure.times[call.name] == 1 and call.name not in self.taken and can_carry(call.module)

    def after_activation(self, value: Value) -> Value:
        """Return the value after the norms and the activation that follow, as far as nothing else reads it."""
        value = self.after_norms(value)
        closed = len(value.users) == 1 and value.users[0].operation in ACTIVATIONS
        return value.users[0] if closed else value

    def site_of(self, merge: Merge, placement: Placement) -> Site | None:
        """Return the site of a merge: for a residual sum by placement, or after the sum if its branch has none."""
        unit, gated = merge.value.scope, self.structure.gated(merge.region)
        if merge.kind != "residual branch" or placement == "standard":
            site = self.place(merge.branch, merge.kind, unit, gated)
            if site is not None or merge.kind != "residual branch":
                return site
        if placement == "pre":
            return self.first(merge, unit, gated)
        if placement == "3x3":
            wide = [v for v in self.flow.values if merge.region >> v.index & 1 and self.is_spatial(v)]
            return self.place(self.after_norms(wide[-1]), merge.kind, unit, gated) if wide else None
        result = self.after_activation(merge.value)
        kind = "after the sum"
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
        """Return whether a value is the output of a convolution with a window larger than 1."""
        modules = [call.module for call in self.structure.makers[value]]
        return any(isinstance(m, nn.modules.conv._ConvNd) and max(m.kernel_size) > 1 for m in modules)

    def after_norms(self, value: Value) -> Value:
        """Return the value after the norms that follow, including those that permute to channels-last and back."""
        last = value
        while len(value.users) == 1 and value.users[0].operation in NORMS | TURNS:
            value = value.users[0]
            last = value if value.shape == last.shape else last
        return last

    def plain(self) -> tuple[list[Site], list[Skipped]]:
        """Return the sites after the activation of every convolution that is not depthwise."""
        sites, skipped = [], []
        for conv in reversed(self.flow.values):  # the last one first: its output may have no module that takes it
            if conv.operation not in CONVOLUTIONS or not self.structure.is_map(conv) or math.prod(conv.shape[2:]) == 1:
                continue
            activation = self.after_activation(conv)
            if activation.operation not in ACTIVATIONS or self.depthwise(conv):
                continue
            values = (activation, self.after_norms(conv))
            site = next(filter(None, (self.place(v, "plain convolution", conv.scope, False) for v in values)), None)
            if site is None:
                skipped.append(Skipped(conv.scope, NO_MODULE))
            else:
                sites.append(site)
                self.taken.add(site.module)
        return sites, skipped[::-1]

    def depthwise(self, conv: Value) -> bool:
        """Return whether a convolution is depthwise: each output channel depends on one input channel."""
        groups = conv.arguments.get("groups", conv.arguments.get("6", 1))
        return isinstance(groups, int) and groups > 1 and groups == conv.inputs[0].shape[1]

    def with_siblings(self, sites: list[Site]) -> list[Site]:
        """Add the sites in sibling blocks, and drop the concatenation sites inside these."""
        by_class = [site for site in sites if site.kind in BY_CLASS]
        self.taken = {site.module for site in by_class}
        siblings = list(self.siblings(by_class or sites))
        kept = [s for s in sites if s in by_class or not any(within(s.module, other.unit) for other in siblings)]
        self.taken = {site.module for site in kept}
        return kept + [site for site in siblings if site.module not in self.taken]

    def siblings(self, sites: list[Site]) -> Iterator[Site]:
        """Yield sites in blocks of the same class that have no sum, as where a residual network halves its maps."""
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
    """Return whether only this module reads its input, or returns it unchanged."""
    inside = all(at_or_within(user.scope, call.name) for user in value.users)
    return inside or call.output is value


def site_at(call: Call, before: bool, kind: str, unit: str, value: Value, gated: bool) -> Site:
    """Return the site on a module whose output or input is a value."""
    channels, *side = value.shape[1:]
    return Site(module=call.name, before=before, kind=kind, unit=unit, channels=channels, side=tuple(side), gated=gated)


def sites_of(flow: Dataflow, placement: Placement = "standard") -> SiteReport:
    """Return where SE blocks fit, in the order of computation, and which places were left out."""
    structure = Structure(flow)
    places = Places(structure)
    merges, skipped = structure.merges()
    first_choice = {merge: places.site_of(merge, placement) for merge in merges}
    chosen, nested = structure.without_nested([merge for merge in merges if first_choice[merge] is not None])
    sites = []
    for merge in merges:
        site = first_choice[merge]
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
    left_out = tuple(skip for skip in skipped + nested if skip.place not in units)
    return SiteReport(sites=in_order(flow, sites), skipped=left_out)


def in_order(flow: Dataflow, sites: list[Site]) -> tuple[Site, ...]:
    """Sort sites by when their modules run, and number the stages."""
    when = {call.name: i for i, call in enumerate(flow.calls)}
    sides = sorted({site.side for site in sites}, reverse=True)
    ordered = sorted(sites, key=lambda site: when[site.module])
    return tuple(replace(site, stage=2 + sides.index(site.side)) for site in ordered)
