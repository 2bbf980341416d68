"""SE blocks for models that exist already: find where they fit, put them in with the outputs kept, take them out."""

from typing import get_args

from torch import nn

from senet.errors import SenetError, check_choice
from senet.nn.attached import attach, attached, build_attachable, detach
from senet.nn.block import Placement, SEOptions
from senet.nn.excitation import ExcitationBlock
from senet.surgery.checks import check_has_values, check_model, check_outputs
from senet.surgery.dataflow import Dataflow, trace_dataflow
from senet.surgery.probe import CannotRunError, ExampleInputs, run_on_example
from senet.surgery.report import InsertionReport, Site, SiteReport
from senet.surgery.selection import Existing, ModuleFilter, named_sites, select_sites
from senet.surgery.sites import sites_of

PLACEMENTS = ("standard", "pre", "post", "3x3")
"""Where in a residual block `insert_se` can put SE; of the paper's placements only "identity" is missing."""


def find_sites(
    model: nn.Module, example_inputs: ExampleInputs | None = None, *, placement: Placement = "standard"
) -> SiteReport:
    """Return where SE blocks fit in a model, without changing it.

    The model runs once, in evaluation mode, to see what it computes from what.

    Args:
        model: any CNN that runs.
        example_inputs: what to run it on: images (N, C, H, W) or whatever its first argument is; a tuple of all
            positional arguments; or a dictionary of keyword arguments. None for random images of the size that the
            model states, or else of the sizes in `senet.surgery.probe.SIZES`.
        placement: see `insert_se`.

    Returns:
        The report: `.sites`, and `.skipped` with the reasons.

    Raises:
        SenetError: the model does not run, or has no convolution.

    >>> from torchvision.models import resnet18
    >>> find_sites(resnet18()).sites[0].module
    'layer1.0.bn2'
    """
    check_model(model)
    check_choice("placement", placement, PLACEMENTS)
    return sites_of(observe(model, example_inputs), placement)


def insert_se(
    model: nn.Module,
    options: SEOptions | None = None,
    *,
    where: ModuleFilter | None = None,
    existing: Existing = "skip",
    preserve_outputs: bool = True,
    example_inputs: ExampleInputs | None = None,
) -> InsertionReport:
    """Put SE blocks into a model, in place; its outputs stay equal, bit for bit, until it is trained.

    A block becomes a new child `se` of an existing module, whose class is replaced by a subclass of its own: `forward`
    methods and all other keys of the state dict stay, and old checkpoints load with `strict=False`. The block starts
    with a gate of exactly 1, from where training moves it; a "sigmoid" gate, which starts at one half, becomes
    "sigmoid_x2".

    If that module is replaced later, for example by a frozen BatchNorm, its replacement gets the block. A change that
    would lose a block raises an error.

    Cost: an SE block makes a network slower although it adds few multiply-adds (SE-ResNet-50 takes 1.1 to 1.4 times the
    time of ResNet-50 on a CPU, docs/speed.md; `optimize_for_inference` takes most of that back). Do not use it without
    fine-tuning afterwards: until it is trained, a block changes nothing.

    Args:
        model: any CNN that runs, in evaluation or training mode.
        options: of the blocks, see `SEOptions`; None for the paper's. Of the gates "tanh" cannot start at 1, and "relu"
            only with biases. `placement` is "standard" (end of the residual branch), "pre" (its start), "post" (after
            the sum and its activation) or "3x3" (after the branch's last convolution with a window larger than 1).
            `stages` are numbered from 2 by the resolution of the feature maps, see `find_sites`; None for all.
        where: only modules whose name matches a shell pattern, one of several patterns, or a predicate; None for all.
            If the model does not run, blocks go after exactly these modules.
        existing: what to do at a branch that has a gate already: "skip" it, or "add" a second gate.
        preserve_outputs: False starts the blocks at random, as in a new network.
        example_inputs: see `find_sites`.

    Returns:
        The report: `.sites`, `.skipped`, `.parameters` and what the blocks cost.

    Raises:
        SenetError: no CNN, no site, a pattern without a match, an option that is wrong or has no effect, a model with
            inserted blocks, or one that is scripted, compiled, quantized or wrapped. The model is then unchanged.

    Source: arXiv:1709.01507v4, sections 3.3 and 6.5.

    >>> from torchvision.models import resnet18
    >>> len(insert_se(resnet18(), SEOptions(reduction=8)).sites)
    8
    """
    options = SEOptions() if options is None else options
    if not isinstance(options, SEOptions):
        raise SenetError(f"options is {options!r}; expected senet.SEOptions(...)")
    check_choice("existing", existing, get_args(Existing))
    check_choice("options.placement", options.placement, PLACEMENTS)
    if preserve_outputs:
        try:
            options = options.starting_as_identity()
        except SenetError as error:
            raise SenetError(f"{error}, or preserve_outputs=False") from error
    check_model(model)
    check_has_values(model)
    flow, candidates = look(model, options, where, example_inputs)
    chosen = select_sites(model, candidates, options, where, existing)
    model_parameters = sum(p.numel() for p in model.parameters())
    blocks = {site: build_block(model, site, options, preserve_outputs) for site in chosen.sites}
    attach(model, {site.module: block for site, block in blocks.items()})
    if flow is not None:
        try:
            check_outputs(model, flow, equal=preserve_outputs)
        except SenetError:
            remove_se(model)
            raise
    names = [f"{site.module}.se.{name}" for site, block in blocks.items() for name, _ in block.named_parameters()]
    return InsertionReport(
        sites=chosen.sites,
        skipped=chosen.skipped,
        options=options,
        parameters=tuple(name.removeprefix(".") for name in names),
        num_parameters=sum(p.numel() for block in blocks.values() for p in block.parameters()),
        multiply_adds=sum(block.multiply_adds(site.side) for site, block in blocks.items()),
        model_parameters=model_parameters,
    )


def remove_se(model: nn.Module) -> SiteReport:
    """Take out every block that `insert_se` put in.

    The model is then what it was before the insertion, apart from what its other layers have learned since.

    Returns:
        The report: `.sites` where the blocks were; without running the model, their `side` is () and their `stage` 0.

    Raises:
        SenetError: there is none.
    """
    blocks = {name: block for name, module in model.named_modules() if (block := attached(module)) is not None}
    if not blocks:
        raise SenetError(f"{type(model).__name__} has no SE blocks from insert_se")
    detach(model, blocks)
    return SiteReport(
        sites=tuple(
            Site(
                module=name,
                before=se.attached_at == "input",
                kind="removed block",
                unit=name,
                channels=se.channels,
                side=(),
            )
            for name, se in blocks.items()
        )
    )


def observe(model: nn.Module, example_inputs: ExampleInputs | None) -> Dataflow:
    """Run a model in evaluation mode and return what it computes from what."""
    return run_on_example(model, example_inputs, lambda inputs: trace_dataflow(model, inputs))


def look(
    model: nn.Module, options: SEOptions, where: ModuleFilter | None, example_inputs: ExampleInputs | None
) -> tuple[Dataflow | None, SiteReport]:
    """Return the dataflow and the sites of a model; if it does not run, None and sites at the modules in `where`.

    Raises:
        SenetError: the model does not run, and `where` is None or fits no module.
    """
    try:
        flow = observe(model, example_inputs)
    except CannotRunError as error:
        if where is None:
            raise SenetError(f"{error}, or where to name the modules") from error
        return None, named_sites(model, where, options)
    return flow, sites_of(flow, options.placement)


def build_block(model: nn.Module, site: Site, options: SEOptions, start_as_identity: bool) -> ExcitationBlock:
    """Build the block for a site, on the device, in the dtype and in the mode of the module there."""
    block = build_attachable(site.channels, options, before=site.before)
    if start_as_identity:
        block.start_as_identity()
    module = model.get_submodule(site.module)
    like = next(module.parameters(), next(model.parameters()))
    return block.to(like.device, like.dtype).train(module.training)


__all__ = ["InsertionReport", "SEOptions", "Site", "SiteReport", "find_sites", "insert_se", "remove_se"]
