"""`senet models`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar

import tyro
from tyro.conf import Positional

from senet.cli.names import LISTING
from senet.cli.parsing import Command
from senet.errors import SenetError
from senet.terminal import Table, console, say, tracked


@dataclass(frozen=True, kw_only=True)
class ModelsCommand(Command):
    """List the networks: parameters and multiply-adds beside the paper's figures.

    Examples:
        senet models
        senet models 'se_res*' --json
        senet models --paper
        senet models --weights
    """

    elsewhere: ClassVar[Mapping[str, str]] = LISTING
    pattern: Annotated[Positional[str], tyro.conf.arg(metavar="PATTERN")] = "*"
    """which networks: a shell pattern such as 'se_*'"""
    paper: bool = False
    """only what the paper and its release give figures of, each with the cause of a difference"""
    weights: bool = False
    """only the networks with public weights, and the names of these"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> None:
        """Print the networks with their costs and the paper's figures."""
        from senet.cli.tables import model_rows, print_models

        if self.paper and self.weights:
            raise SenetError("paper and weights are both given; choose one of --paper and --weights")
        if self.paper or self.weights:
            (print_paper if self.paper else print_weights)(self)
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
    from senet.cli.tables import comparison_table
    from senet.paper.costs import LEGEND, compare_costs, printed_costs

    number = sum(fnmatchcase(row.network, command.pattern) for row in printed_costs())
    rows = list(tracked(compare_costs(command.pattern), "Counting", number))
    if not rows:
        raise SenetError(f"the paper gives no costs of networks that match {command.pattern!r}; leave the pattern out")
    if command.json:
        derived = ({"agrees": row.agrees, "counting": row.counting, "cause": row.cause} for row in rows)
        print(json.dumps([asdict(row) | more for row, more in zip(rows, derived, strict=True)]))
        return
    console().print(comparison_table(rows))
    say(LEGEND)


def print_weights(command: ModelsCommand) -> None:
    """Print the networks that have public weights, with the names of these."""
    from senet.models.catalog import list_models, model_card

    rows = {name: model_card(name).weights for name in list_models(command.pattern)}
    rows = {name: weights for name, weights in rows.items() if weights}
    if not rows:
        raise SenetError(f"no network that matches {command.pattern!r} has public weights; leave the pattern out")
    if command.json:
        print(json.dumps([{"name": name, "weights": weights} for name, weights in rows.items()]))
        return
    table = Table("network", "weights, the best first")
    for name, weights in rows.items():
        table.add_row(name, ", ".join(weights))
    console().print(table)
    say(
        "The first is what create_model(NETWORK, pretrained=True) loads, any is for weights=...; "
        "one with a slash also names a model: senet predict IMAGE --model timm/seresnet50.ra2_in1k"
    )
