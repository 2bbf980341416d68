"""Choosing which of a model's sites get a block."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from senet.errors import SenetError
from senet.nn.attached import can_carry
from senet.nn.block import SEOptions
from senet.surgery.report import Site, SiteReport, Skipped
from senet.surgery.sites import IN_RESIDUAL_BLOCKS

ModuleFilter = str | Sequence[str] | Callable[[str], bool]
"""Modules by name: a shell pattern such as "layer4.*", several patterns, or a predicate of the name."""
Existing = Literal["skip", "add"]
"""What to do at a branch that has a gate already: skip it, or add a second gate."""


def matches(name: str, where: ModuleFilter | None) -> bool:
    """Return whether a module's name passes a filter; None lets every name pass."""
    if where is None:
        return True
    if callable(where):
        return bool(where(name))
    patterns = [where] if isinstance(where, str) else where
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def select_sites(
    model: nn.Module, candidates: SiteReport, options: SEOptions, where: ModuleFilter | None, existing: Existing
) -> SiteReport:
    """Return the sites among the candidates that get a block; the others join the skipped.

    Raises:
        SenetError: none gets one, or an option has no effect on this model.
    """
    sites, skipped = [], list(candidates.skipped)
    for site in candidates.sites:
        reason = reason_to_skip(site, options, where, existing)
        if reason is None:
            sites.append(site)
        else:
            skipped.append(Skipped(site.module, reason))
    if not sites:
        raise no_site_left(model, candidates, skipped, options, where)
    if options.placement != "standard" and not any(site.kind in IN_RESIDUAL_BLOCKS for site in sites):
        raise SenetError(
            f"options.placement is {options.placement!r}, but {type(model).__name__} has no residual block there for "
            "which it would mean anything; leave it out"
        )
    return SiteReport(sites=tuple(sites), skipped=tuple(skipped))


def reason_to_skip(site: Site, options: SEOptions, where: ModuleFilter | None, existing: Existing) -> str | None:
    """Return why a site gets no block, or None if it gets one."""
    if not matches(site.module, where):
        return "its name does not match where"
    if options.stages is not None and site.stage not in options.stages:
        return f"stage {site.stage}"
    if site.gated and existing == "skip":
        return "its branch has a gate already"
    if site.channels < options.min_channels:
        return f"{site.channels} channels are fewer than the reduction {options.reduction}"
    return None


def no_site_left(
    model: nn.Module,
    candidates: SiteReport,
    skipped: Sequence[Skipped],
    options: SEOptions,
    where: ModuleFilter | None,
) -> SenetError:
    """Return the error that says why no site gets a block."""
    name, sites = type(model).__name__, candidates.sites
    if not sites:
        reasons = f" ({skipped[0].place}: {skipped[0].reason})" if skipped else ""
        return SenetError(f"{name} has no place for an SE block: no residual sum, concatenation or activation{reasons}")
    if where is not None and not any(matches(site.module, where) for site in sites):
        return SenetError(f"where matches none of the {len(sites)} sites of {name}, such as {sites[0].module}")
    if options.stages is not None and not any(site.stage in options.stages for site in sites):
        stages = ", ".join(str(stage) for stage in sorted({site.stage for site in sites}))
        return SenetError(f"options.stages is {options.stages}, but the sites of {name} are in the stages {stages}")
    if all(site.gated for site in sites):
        return SenetError(f"every branch of {name} has a gate already; pass existing='add' for a second one")
    if all(site.channels < options.min_channels for site in sites):
        widest = max(site.channels for site in sites)
        return SenetError(
            f"options.reduction is {options.reduction}, but the widest site of {name} has {widest} channels"
        )
    reason = skipped[-len(sites)].reason
    return SenetError(f"no site of {name} is left; the first of {len(sites)} is skipped: {reason}")


def named_sites(model: nn.Module, where: ModuleFilter, options: SEOptions) -> SiteReport:
    """Return a site after every module that `where` names, for a model that cannot be run.

    Raises:
        SenetError: it names no module, or one that cannot carry a block; or an option needs the model to run.
    """
    name = type(model).__name__
    for option, value, default in (("stages", options.stages, None), ("placement", options.placement, "standard")):
        if value != default:
            raise SenetError(
                f"options.{option} is {value!r}, but {name} does not run, so that where alone names the modules; pass "
                f"example_inputs that it accepts, or leave {option} out"
            )
    sites = tuple(sites_by_name(model, where))
    if not sites:
        raise SenetError(f"where matches no module of {name}")
    return SiteReport(sites=sites)


def sites_by_name(model: nn.Module, where: ModuleFilter) -> Iterator[Site]:
    """Yield a site after every module that `where` names, see `named_sites`."""
    for name, module in model.named_modules():
        if not name or not matches(name, where):
            continue
        kind = type(module).__name__
        if not can_carry(module):
            raise SenetError(f"where matches {name}, a {kind}, which cannot run an SE block")
        attributes = ("out_channels", "num_features", "num_channels")
        channels = next((getattr(module, key) for key in attributes if hasattr(module, key)), None)
        if not isinstance(channels, int):
            raise SenetError(
                f"where matches {name}, a {kind} whose channels are unknown because the model does not run; "
                "pass example_inputs, or match convolutions and BatchNorms only"
            )
        yield Site(module=name, before=False, kind="named module", unit=name, channels=channels, side=())
