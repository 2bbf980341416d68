"""`senet models`."""

import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Annotated

import tyro
from tyro.conf import Positional

from senet.cli.parsing import Command
from senet.errors import SenetError
from senet.terminal import console, say


@dataclass(frozen=True, kw_only=True)
class ModelsCommand(Command):
    """List the networks: parameters and multiply-adds beside the paper's figures.

    Examples:
        senet models
        senet models 'se_res*' --json
        senet models --paper
    """

    pattern: Annotated[Positional[str], tyro.conf.arg(metavar="PATTERN")] = "*"
    """which networks: a shell pattern such as 'se_*'"""
    paper: bool = False
    """only what the paper and its release give figures of, each with the cause of a difference"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Print the networks with their costs and the paper's figures."""
        from senet.cli.tables import model_rows, print_models

        if self.paper:
            print_paper(self)
            return
        rows = model_rows(self.pattern)
        if not rows:
            raise SenetError(f"no network matches {self.pattern!r}; `senet models` lists them all")
        if self.json:
            print(json.dumps(rows))
        else:
            print_models(rows)


def print_paper(command: ModelsCommand) -> None:
    """Print the comparison with the paper's parameters and multiply-adds."""
    from senet.paper.costs import LEGEND, compare_costs, paper_table

    rows = [row for row in compare_costs() if fnmatchcase(row.printed.name, command.pattern)]
    if not rows:
        raise SenetError(f"the paper gives no costs of networks that match {command.pattern!r}; leave the pattern out")
    if command.json:
        print(json.dumps([asdict(row) | {"agrees": row.agrees, "counting": row.counting} for row in rows]))
        return
    console().print(paper_table(rows))
    say(LEGEND)
