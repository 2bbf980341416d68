"""`senet record | explain | prune`."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from senet.analysis.measures import block_statistics, statistics_table
from senet.analysis.pruning import prune_se
from senet.analysis.recording import Recording, check_recording, record_excitations
from senet.cli.data import OnData
from senet.cli.parsing import check_new, print_report
from senet.files import check_page
from senet.launch import is_first
from senet.nn.precision import Precision
from senet.terminal import console, say
from senet.weights.folder import save_pretrained

CONSTANT = "constant"
"""The value of --blocks that means all blocks whose gate is constant."""


@dataclass(frozen=True, kw_only=True)
class RecordCommand(OnData):
    """Record what the gates of a network do on a data set: for each block, class and channel, in one file.

    RUN_OR_MODEL is as for `senet evaluate`.

    Examples:
        senet record runs/digits --output runs/digits/gates.safetensors
        senet record timm/seresnet50.ra2_in1k --data imagenet --output gates.safetensors
        torchrun --nproc-per-node 2 -m senet record runs/se50 --output gates.safetensors
    """

    output: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """the file to write, .safetensors"""
    precision: Precision = "fp32"
    """of the arithmetic; auto is bf16 where the hardware computes it; tf32 and fp16 need a GPU"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Record, print the statistics, and write the file."""
        if is_first():
            check_recording(self.output)
        found = recorded(self.load(), self, self.precision)
        if not is_first():
            return
        found.save(self.output)
        if self.json:
            print(json.dumps([asdict(row) for row in block_statistics(found)]))
        else:
            console().print(statistics_table(found))
            say(f"{self.output} holds the gates of {found.num_images:,} images")


@dataclass(frozen=True, kw_only=True)
class ExplainCommand(OnData):
    """Write a page about what the gates of a network do: figures, numbers, how much each gate contributes, examples.

    The page is one file that needs no network connection. RUN_OR_MODEL is as for `senet evaluate`.

    Examples:
        senet explain runs/digits --output report.html
        senet explain runs/se50 --data imagenet --recording gates.safetensors --no-knockout --output report.html
    """

    output: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html")
    """the page to write"""
    recording: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """a file of `senet record`; None records now"""
    knockout: bool = True
    """measure how much each gate contributes by replacing it with its mean: one evaluation for each block, and one"""
    examples: int = 10
    """classes of which an image is shown"""

    def run(self) -> None:
        """Write the page."""
        from senet.analysis.report import explain  # the other commands need no plotly

        if is_first():
            check_page(self.output)
        model = self.load()
        page = explain(
            model,
            self.data,
            self.output,
            recording=recorded(model, self) if self.recording is None else Recording.load(self.recording),
            knockout=self.knockout,
            num_examples=self.examples,
            run=self.model,
            batch_size=self.batch_size,
        )
        say(f"{page} is the report; open it in a browser")


@dataclass(frozen=True, kw_only=True)
class PruneCommand(OnData):
    """Take SE blocks out of a network: each one's mean gate becomes part of the layer before it or after it.

    RUN_OR_MODEL is as for `senet evaluate`. The mean gates are those on the data.

    Examples:
        senet prune runs/digits --blocks SE_4_2 SE_4_3 --output models/digits_pruned
    """

    output: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """the model folder to write; it must not exist yet"""
    blocks: tuple[str, ...] = (CONSTANT,)
    """names of blocks as `senet record` prints them, or the word constant for all whose gate is constant"""
    recording: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """a file of `senet record`; None records now"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Prune, print the report, and write the model folder."""
        if is_first():
            check_new(self.output)
        model = self.load()
        recording = recorded(model, self) if self.recording is None else Recording.load(self.recording)
        blocks = "constant" if self.blocks == (CONSTANT,) else self.blocks
        report = prune_se(model, recording, blocks, data=self.data, batch_size=self.batch_size)
        if is_first():
            save_pretrained(model, self.output)
        print_report(report, self.json, f"{self.output} holds the model")


def recorded(model: nn.Module, command: OnData, precision: Precision = "fp32") -> Recording:
    """Record a network's gates; the recording names what the network was opened from."""
    found = record_excitations(model, command.data, batch_size=command.batch_size, precision=precision)
    return replace(found, provenance={**found.provenance, "weights": command.model})
