"""SE blocks for models that exist already: where they fit, put in with the outputs kept, taken out again."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import nn

from senet.errors import SenetError, check_choice
from senet.nn.attached import AttachedSE, attach, attached, can_carry, detach
from senet.nn.block import Gate, Placement, SEOptions, Squeeze
from senet.surgery.dataflow import Dataflow, record, tensors
from senet.surgery.probe import CannotRunError, Example, as_written, on_example, run_on
from senet.surgery.sites import Site, sites_of
from senet.surgery.structure import Skipped
from senet.terminal import Table, text_of

Where = str | Sequence[str] | Callable[[str], bool]
Gated = Literal["skip", "double"]
PLACEMENTS = ("standard", "pre", "post", "3x3")


@dataclass(frozen=True)
class InsertionReport:
    """What `insert_se` did.

    Args:
        sites: where blocks are now, in the order of computation.
        skipped: where none is, and why.
        options: of the blocks.
        parameters: the names of the new parameters, for an optimizer's groups.
        num_parameters: how many numbers these hold.
        multiply_adds: what the blocks add for one image of the example's size.
        model_parameters: numbers in the model's parameters before.
    """

    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...]
    options: SEOptions
    parameters: tuple[str, ...]
    num_parameters: int
    multiply_adds: int
    model_parameters: int

    def __str__(self) -> str:
        """Return the report as a table."""
        table = Table("module", "", "channels", "side", "stage", "where")
        for site in self.sites:
            side = "x".join(map(str, site.side))
            row = (site.module, "input" if site.before else "output", str(site.channels), side, str(site.stage))
            table.add_row(*row, site.kind)
        for skip in self.skipped:
            table.add_row(skip.place, "", "", "", "", f"skipped: {skip.reason}", style="dim")
        share = 100 * self.num_parameters / max(1, self.model_parameters)
        return (
            f"{text_of(table)}{len(self.sites)} SE blocks, {self.num_parameters:,} parameters ({share:+.2f} %), "
            f"{self.multiply_adds / 1e6:,.2f} million multiply-adds an image"
        )


def find_sites(
    model: nn.Module, example: Example | None = None, *, placement: Placement = "standard"
) -> tuple[tuple[Site, ...], tuple[Skipped, ...]]:
    """Say where SE blocks belong in a model, and where they would but cannot be; the model stays as it is.

    The model runs once, in evaluation mode, to see what it computes from what.

    Args:
        model: any CNN that runs.
        example: what to run it on: images (N, C, H, W), or whatever its first argument is; a tuple of all its
            arguments, or a dictionary by keyword. None for noise of the size that the model says it takes, or of the
            sizes in `senet.surgery.probe.SIZES`.
        placement: see `insert_se`.

    Raises:
        SenetError: the model cannot be run, or has no convolution.
    """
    check_model(model)
    check_choice("placement", placement, PLACEMENTS)
    sites, skipped = sites_of(observe(model, example), placement)
    return tuple(sites), tuple(skipped)


def insert_se(
    model: nn.Module,
    *,
    reduction: int = 16,
    squeeze: Squeeze = "avg",
    gate: Gate = "sigmoid",
    bias: bool = True,
    placement: Placement = "standard",
    stages: Sequence[int] | None = None,
    where: Where | None = None,
    gated: Gated = "skip",
    preserve_outputs: bool = True,
    example: Example | None = None,
) -> InsertionReport:
    """Put SE blocks into a model, which changes in place; its outputs stay what they are, bit for bit.

    A block is a new child `se` of a module that the model has, whose class then derives from its own: forward passes
    and all keys of the state dict stay, and old checkpoints load with `strict=False`. It starts with a gate of exactly
    1: its last layer is zero, so that a sigmoid is one half, and the gate carries a constant factor of 2.

    Where another layer replaces that module later, such as a frozen BatchNorm, the block goes over to it. A change that
    would lose a block raises an error.

    Args:
        model: any CNN that runs; in evaluation or training mode.
        reduction: r of every block, see `SEBlock`.
        squeeze: see `SEBlock`.
        gate: see `SEBlock`; "tanh" cannot start at 1, "relu" only with biases.
        bias: see `SEBlock`.
        placement: "standard" (end of the residual branch), "pre" (its start), "post" (after the sum and its
            activation) or "3x3" (after the branch's last convolution with a window); without effect where there is no
            residual branch.
        stages: only blocks of these stages, numbered by resolution from 2, see `find_sites`; None for all.
        where: only on modules whose names match a shell pattern, or one of several, or a predicate. If the model cannot
            be run, blocks go after exactly these modules.
        gated: whether branches with a gate of their own are skipped, or get a second gate ("double").
        preserve_outputs: False starts the blocks at random, as in a new network.
        example: see `find_sites`.

    Returns:
        The report; printing it shows a table.

    Raises:
        SenetError: no CNN, no site, a pattern without a match, wrong options, a model with inserted blocks, or one that
            is scripted, compiled, quantized or wrapped. The model is then as it was.

    Source: arXiv:1709.01507v4, sections 3.3 and 6.5.

    >>> from torchvision.models import resnet18
    >>> len(insert_se(resnet18()).sites)
    8
    """
    check_choice("gated", gated, get_args(Gated))
    check_choice("placement", placement, PLACEMENTS)
    check_choice("gate", gate, get_args(Gate))
    options = SEOptions(
        reduction=reduction,
        squeeze=squeeze,
        gate=gate,
        bias=bias,
        factor=start_factor(gate, bias) if preserve_outputs else 1.0,
        placement=placement,
        stages=None if stages is None else tuple(stages),
    )
    check_model(model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise SenetError(
            f"{type(model).__name__} is on the meta device, where blocks would have no values to start from; give it "
            "memory and its weights first (to_empty, load_state_dict); find_sites looks without"
        )
    flow: Dataflow | None = None
    try:
        flow = observe(model, example)
        sites, skipped = sites_of(flow, placement)
    except CannotRunError as error:
        if where is None:
            raise SenetError(f"{error}, or where to name the modules") from error
        sites, skipped = list(named_sites(model, where)), []
        if not sites:
            raise SenetError(f"where matches no module of {type(model).__name__}") from None
    chosen = [site for site in sites if wanted(site, options, where, gated, skipped)]
    check_chosen(model, chosen, sites, skipped, options, where)
    model_parameters = sum(p.numel() for p in model.parameters())
    blocks = []
    for site in chosen:
        block = AttachedSE(site.channels, options, site.before)
        if preserve_outputs:
            start_at_one(block)
        like = next(model.get_submodule(site.module).parameters(), next(model.parameters()))
        blocks.append(block.to(like.device, like.dtype).train(model.get_submodule(site.module).training))
    attach(model, {site.module: block for site, block in zip(chosen, blocks, strict=True)})
    if flow is not None:
        try:
            check_outputs(model, flow, equal=preserve_outputs)
        except SenetError:
            remove_se(model)
            raise
    names = [
        f"{site.module}.se.{name}"
        for site, block in zip(chosen, blocks, strict=True)
        for name, _ in block.named_parameters()
    ]
    return InsertionReport(
        sites=tuple(chosen),
        skipped=tuple(skipped),
        options=options,
        parameters=tuple(name.removeprefix(".") for name in names),
        num_parameters=sum(p.numel() for block in blocks for p in block.parameters()),
        multiply_adds=sum(multiply_adds(block, site) for block, site in zip(blocks, chosen, strict=True)),
        model_parameters=model_parameters,
    )


def remove_se(model: nn.Module) -> int:
    """Take out every block that `insert_se` put in; return their number.

    What is left is the model as it was before, whatever the blocks have learned.

    Raises:
        SenetError: there is none.
    """
    names = [name for name, module in model.named_modules() if attached(module)]
    if not names:
        raise SenetError(f"{type(model).__name__} has no SE blocks from insert_se")
    detach(model, names)
    return len(names)


def start_factor(gate: Gate, bias: bool) -> float:
    """Return the constant factor with which a gate starts at exactly 1.

    Raises:
        SenetError: no factor does.
    """
    if gate in ("sigmoid", "hard_sigmoid"):
        return 2.0
    if gate == "relu" and bias:
        return 1.0
    without = "" if gate == "tanh" else " without biases"
    raise SenetError(f"a {gate} gate{without} cannot start at 1; choose another gate, or preserve_outputs=False")


@torch.no_grad()
def start_at_one(block: AttachedSE) -> None:
    """Set the last layer of a block so that its gate is exactly 1."""
    block.fc2.weight.zero_()
    if block.fc2.bias is not None:
        block.fc2.bias.fill_(1.0 if block.gate_function == "relu" else 0.0)


def multiply_adds(block: AttachedSE, site: Site) -> int:
    """Count the multiply-adds of a block for one image."""
    positions = math.prod(site.side) if block.squeeze == "none" else 1
    return 2 * block.channels * block.hidden_channels * positions


def check_outputs(model: nn.Module, flow: Dataflow, equal: bool) -> None:
    """Raise a SenetError if a model does not run each of its blocks once, or gives other outputs than it did.

    Args:
        model: with blocks.
        flow: of the model without them.
        equal: whether the outputs must be what they were, bit for bit.
    """
    name = type(model).__name__
    times = dict.fromkeys((module for module in model.modules() if isinstance(module, AttachedSE)), 0)

    def count(block: AttachedSE, _: object, __: object) -> None:
        times[block] += 1

    handles = [block.register_forward_hook(count) for block in times]
    try:
        with as_written(model), torch.no_grad():
            outputs = run_on(model, flow.example)
    except Exception:  # whatever somebody's model may raise
        outputs = ()
    finally:
        for handle in handles:
            handle.remove()
    pairs = list(zip(tensors(flow.outputs), tensors(outputs), strict=False))
    if not pairs or (equal and not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)):
        raise SenetError(
            f"{name} does not run with blocks in it, or gives other outputs, with them or from run to run; leave "
            "modules out by where, or pass preserve_outputs=False"
        )
    sites = [(place, attached(module)) for place, module in model.named_modules()]
    wrong = [place for place, block in sites if block is not None and times[block] != 1]
    if wrong:
        raise SenetError(f"{name} does not run the block at {wrong[0]} exactly once; leave that module out by where")


# ---- choosing --------------------------------------------------------------------------------------------------------


def wanted(site: Site, options: SEOptions, where: Where | None, gated: Gated, skipped: list[Skipped]) -> bool:
    """Whether a site gets a block; notes why not."""
    reason = None
    if not matches(site.module, where):
        reason = "its name does not match where"
    elif options.stages is not None and site.stage not in options.stages:
        reason = f"stage {site.stage}"
    elif site.gated and gated == "skip":
        reason = "its branch has a gate already"
    elif site.channels < options.reduction:
        reason = f"{site.channels} channels are fewer than the reduction {options.reduction}"
    if reason is not None:
        skipped.append(Skipped(site.module, reason))
    return reason is None


def matches(name: str, where: Where | None) -> bool:
    """Whether a module's name is one of those that were asked for."""
    if where is None:
        return True
    if callable(where):
        return bool(where(name))
    patterns = [where] if isinstance(where, str) else where
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_chosen(
    model: nn.Module,
    chosen: Sequence[Site],
    sites: Sequence[Site],
    skipped: Sequence[Skipped],
    options: SEOptions,
    where: Where | None,
) -> None:
    """Raise a SenetError if no block would be put in."""
    if chosen:
        return
    name = type(model).__name__
    if not sites:
        reasons = f" ({skipped[0].place}: {skipped[0].reason})" if skipped else ""
        raise SenetError(f"{name} has no place for an SE block: no residual sum, concatenation or activation{reasons}")
    if where is not None and not any(matches(site.module, where) for site in sites):
        raise SenetError(f"where matches none of the {len(sites)} sites of {name}, such as {sites[0].module}")
    if options.stages is not None and not any(site.stage in options.stages for site in sites):
        stages = ", ".join(str(stage) for stage in sorted({site.stage for site in sites}))
        raise SenetError(f"stages is {options.stages}, but the sites of {name} are in the stages {stages}")
    if all(site.gated for site in sites):
        raise SenetError(f"every branch of {name} has a gate already; pass gated='double' to add SE all the same")
    if all(site.channels < options.reduction for site in sites):
        most = max(site.channels for site in sites)
        raise SenetError(f"reduction is {options.reduction}, but the widest site of {name} has {most} channels")
    raise SenetError(f"no site of {name} is left; the first of {len(sites)} is skipped: {skipped[-len(sites)].reason}")


def named_sites(model: nn.Module, where: Where) -> Iterator[Site]:
    """Yield a site after every module that was named, for a model that cannot be run."""
    for name, module in model.named_modules():
        if name and matches(name, where):
            channels = next(
                (
                    getattr(module, key)
                    for key in ("out_channels", "num_features", "num_channels")
                    if hasattr(module, key)
                ),
                None,
            )
            if not can_carry(module):
                raise SenetError(f"where matches {name}, a {type(module).__name__}, which cannot run an SE block")
            if not isinstance(channels, int):
                raise SenetError(
                    f"where matches {name}, a {type(module).__name__} whose channels are unknown because "
                    "the model cannot be run; pass example, or match convolutions and BatchNorms alone"
                )
            yield Site(name, False, "named module", name, channels, (1, 1), stage=2)


# ---- looking ---------------------------------------------------------------------------------------------------------


def observe(model: nn.Module, example: Example | None) -> Dataflow:
    """Run a model in evaluation mode and return what it computes from what."""
    return on_example(model, example, lambda images: record(model, images))


def check_model(model: nn.Module) -> None:
    """Raise a SenetError for what blocks cannot be put into."""
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise SenetError(f"{name} is scripted; put SE into the model that it was made from")
    if hasattr(model, "_orig_mod"):
        raise SenetError("the model is compiled; put SE into it first (model._orig_mod) and compile it afterwards")
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise SenetError(f"{name} wraps the model; put SE into it first (model.module) and wrap it afterwards")
    if any(".quantized" in type(m).__module__ for m in model.modules()):
        raise SenetError(f"{name} is quantized; put SE into the model that it was made from")
    inserted = sum(isinstance(m, AttachedSE) for m in model.modules())
    if inserted:
        raise SenetError(f"{name} has {inserted} SE blocks from insert_se already; senet.remove_se takes them out")
    if not any(isinstance(m, nn.modules.conv._ConvNd) for m in model.modules()):
        raise SenetError(f"{name} has no convolution; SE is for CNNs")


__all__ = ["InsertionReport", "Site", "Skipped", "find_sites", "insert_se", "remove_se"]
