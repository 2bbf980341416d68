"""How to train each row of the paper's Tables 2-6, 9 and 10-16: recipe, network and command."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from senet.models.catalog import model_card
from senet.models.config import ModelConfig
from senet.nn.block import SEOptions
from senet.paper import figures
from senet.recipes import get_recipe
from senet.training.config import TrainConfig

RECIPES = {
    2: "imagenet",
    3: "imagenet_mobile",
    4: "cifar10",
    5: "cifar100",
    6: "places365",
    9: "imagenet_senet154_320",
    **dict.fromkeys(range(10, 17), "imagenet_ablation"),
}
"""The recipe of each table."""
OWN_RECIPES = {"inception_resnet": "_inception_resnet", "wide_resnet": "_wrn", "shake": "_shake"}
"""The suffix of the recipe for families that have their own."""
PROCESSES = {
    **dict.fromkeys(("cifar10", "cifar100", "cifar10_wrn", "cifar100_wrn"), 1),
    **dict.fromkeys(("cifar10_shake", "cifar100_shake"), 2),
}
"""The number of processes that share a recipe's batch, where that is not 8."""


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the paper with what trains it; rows of several tables that one run answers share its folder.

    Args:
        printed: the row.
        recipe: name of the recipe.
    """

    printed: figures.Row
    recipe: str

    @property
    def model(self) -> ModelConfig:
        """The network."""
        return ModelConfig(name=self.printed.network, se=self.printed.se or SEOptions())

    @property
    def run(self) -> str:
        """Name of the run's folder within the recipe's."""
        return self.printed.experiment

    @property
    def num_processes(self) -> int:
        """Number of processes over which the recipe's batch is spread."""
        return PROCESSES.get(self.recipe, 8)

    def config(self) -> TrainConfig:
        """Return the whole configuration."""
        config: TrainConfig = get_recipe(self.recipe)
        return replace(config, model=self.model)

    def command(self) -> str:
        """Return the command line that trains the row."""
        start = f"torchrun --nproc-per-node {self.num_processes} -m " if self.num_processes > 1 else ""
        words = (
            f"{start}senet train {self.recipe} --output runs/{self.recipe}/{self.run}",
            *overrides("--model", get_recipe(self.recipe).model, self.model),
        )
        return " ".join(words)


def overrides(prefix: str, before: Any, after: Any) -> Iterator[str]:
    """Yield the arguments that turn one configuration into another of the same class, field by field."""
    for field in fields(after):
        name, old, new = field.name, getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if is_dataclass(new):
            yield from overrides(f"{prefix}.{name}", old, new)
        elif isinstance(new, bool):
            yield f"{prefix}.{name}" if new else f"{prefix}.no-{name}"
        else:
            yield f"{prefix}.{name}"
            yield from map(str, new if isinstance(new, tuple) else (new,))


def trained(printed: figures.Row, recipe: str) -> PaperRow:
    """Return a row with its recipe, the table's or that of the network's family."""
    family = model_card(printed.network).family
    return PaperRow(printed=printed, recipe=recipe + OWN_RECIPES.get(family, ""))


PAPER_ROWS: tuple[PaperRow, ...] = tuple(
    trained(row, RECIPES[row.table]) for row in figures.ROWS if row.table in RECIPES
)
"""Every row that a recipe trains. Table 8 is SENet-154 as `imagenet_senet154` trains it, at other crops."""
