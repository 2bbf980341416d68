"""Arguments of the commands that run a network on data."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import tyro
from torch import nn
from tyro.conf import Positional

from senet.cli.parsing import Command, parse
from senet.data.config import DataConfig
from senet.detection.opening import detects
from senet.errors import SenetError
from senet.evaluation.batches import check_found, open_model, run_data
from senet.weights.words import names_a_network, refuse_unknown

DATA_OF_THE_RUN = "of-the-run"
"""The default of --data: the data that the run was trained on."""


@dataclass(frozen=True, kw_only=True)
class OnData(Command):
    """A command that runs a network on data; for a run these are by default the data that it was trained on."""

    in_processes: ClassVar[Literal["share"]] = "share"
    model: Annotated[Positional[str], tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """the network"""
    data: DataConfig = field(default_factory=lambda: DataConfig(dataset=DATA_OF_THE_RUN))
    """the data; a run's own settings are the defaults"""
    batch_size: int = 64
    """images at once"""

    @classmethod
    def read(cls, argv: Sequence[str], prog: str) -> Self:
        """Read the arguments; data settings that are left out are those of the run.

        Raises:
            SenetError: the network's name is misspelled, it detects, or no data are named for what is no run.
        """
        command = parse(cls, argv, prog)
        check_name(command.model)  # report a misspelled name before missing data
        if detects(command.model):
            raise SenetError(
                f"{command.model} detects objects, and `{prog}` takes networks that classify; `senet evaluate "
                f"{command.model} --report page.html` shows what its gates do"
            )
        trained_on = run_data(command.model)
        if trained_on is not None:
            command = parse(cls, argv, prog, default=replace(command, data=trained_on))
            if command.data.dataset == trained_on.dataset:
                check_found(command.model, trained_on)
        elif command.data.dataset == DATA_OF_THE_RUN:
            absent = f"; {command.model} is no run here, whose data would be taken"
            absent = "" if Path(command.model).exists() else absent
            raise SenetError(f"data is missing: say what to look at, such as --data digits or a folder{absent}")
        if command.data.augmentation != (trained_on or DataConfig()).augmentation:
            raise SenetError("data.augmentation has no effect here, where nothing is trained; leave it out")
        return replace(command, data=command.data.after(trained_on))

    def load(self) -> nn.Module:
        """Return the network, on a GPU if there is one."""
        return open_model(self.model)


def check_name(model: str) -> None:
    """Raise a SenetError for a word that is no network's name and no file or folder."""
    if not (Path(model).exists() or names_a_network(model)):
        refuse_unknown(model)
