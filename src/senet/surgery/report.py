"""Sites, and what `find_sites`, `insert_se` and `remove_se` return."""

from dataclasses import dataclass

from senet.errors import counted
from senet.nn.block import SEOptions
from senet.terminal import Table, text_of


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place for an SE block.

    Args:
        module: name of the module that the block is attached to.
        before: True if the block scales that module's input (it runs before the module), False for its output.
        kind: "residual branch", "decoder branch", "after the sum", "dense branch", "concatenation", "plain
            convolution", "block without a sum"; or, where the model was not run, "named module" or "removed block".
        unit: name of the module whose forward pass computes the sum or concatenation.
        channels: of the feature map.
        side: spatial size of the feature map, such as (height, width), in pixels; () where the model was not run.
        gated: whether the branch multiplies its channels by a gate already.
        stage: the rank of the feature map's resolution among those of all sites, from 2 as in the paper, whose stage 1
            is the stem; 0 where the model was not run.
    """

    module: str
    before: bool
    kind: str
    unit: str
    channels: int
    side: tuple[int, ...]
    gated: bool = False
    stage: int = 0


@dataclass(frozen=True)
class Skipped:
    """A place without a block, and why: `place` is the name of a module."""

    place: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SiteReport:
    """The sites of SE blocks in a model; printing it shows a table.

    Args:
        sites: from `find_sites`: where blocks fit; from `insert_se`: where they are now; from `remove_se`: where they
            were. In the order of computation.
        skipped: the other places that were considered, each with the reason.
    """

    sites: tuple[Site, ...]
    skipped: tuple[Skipped, ...] = ()

    def summary(self) -> str:
        """Return the line below the table."""
        return f"{counted(len(self.sites), 'site')}, {len(self.skipped)} skipped"

    def __str__(self) -> str:
        """Return the report as a table."""
        table = Table("module", "scaled", "channels", "side", "stage", "kind")
        for site in self.sites:
            side, stage = "x".join(map(str, site.side)), str(site.stage) if site.stage else ""
            scaled = "input" if site.before else "output"
            table.add_row(site.module, scaled, str(site.channels), side, stage, site.kind)
        for skip in self.skipped:
            table.add_row(skip.place, "", "", "", "", f"skipped: {skip.reason}", style="dim")
        return text_of(table) + self.summary()


@dataclass(frozen=True, kw_only=True)
class InsertionReport(SiteReport):
    """The sites of the blocks that `insert_se` put in, and what the blocks cost.

    Args:
        options: of the blocks.
        parameters: the names of the new parameters, for an optimizer's parameter groups.
        num_parameters: how many numbers these parameters hold.
        multiply_adds: of all blocks, for one image of the size of the example inputs.
        model_parameters: how many numbers the model's parameters held before.
    """

    options: SEOptions
    parameters: tuple[str, ...]
    num_parameters: int
    multiply_adds: int
    model_parameters: int

    def summary(self) -> str:
        """Return the line below the table."""
        share = 100 * self.num_parameters / max(1, self.model_parameters)
        return (
            f"{counted(len(self.sites), 'SE block')}, {self.num_parameters:,} parameters ({share:+.2f} %), "
            f"{self.multiply_adds / 1e6:,.2f} million multiply-adds an image"
        )
