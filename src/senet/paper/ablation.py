"""The paper's ablations, Tables 10 to 16, on any recipe: trained run by run, resumable, beside the paper's figures."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

from senet.costs import cost
from senet.errors import SenetError
from senet.factory import from_pretrained
from senet.files import read_jsonl, write_json
from senet.models.catalog import model_card
from senet.models.config import ModelConfig, config_to_dict
from senet.paper.rows import ABLATIONS, Errors, PaperRow
from senet.terminal import Table, console, say
from senet.training.config import TrainConfig
from senet.training.loop import train
from senet.training.run import RunFolder

TABLES = tuple(sorted({row.table for row in ABLATIONS}))
SUBJECTS = {
    10: "reduction",
    11: "squeeze",
    12: "gate",
    13: "stages",
    14: "placement",
    15: "behind the 3x3 convolution",
    16: "no squeeze",
}
RESULTS_FILE = "ablation.json"


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One variant of one table, trained with several seeds.

    Args:
        table: its number in arXiv:1709.01507v4.
        label: the paper's.
        run: name of the folder of its runs.
        model: the network.
        parameters: of it.
        multiply_adds: for one image.
        top1_errors: in %, after the last epoch, one for each seed.
        paper: the paper's errors on ImageNet with SE-ResNet-50.
    """

    table: int
    label: str
    run: str
    model: ModelConfig
    parameters: int
    multiply_adds: int
    top1_errors: tuple[float, ...]
    paper: Errors

    @property
    def mean(self) -> float:
        """Mean error over the seeds, in %."""
        return statistics.fmean(self.top1_errors)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, in percent points; 0 for one seed."""
        return statistics.stdev(self.top1_errors) if len(self.top1_errors) > 1 else 0.0


def plain_twin(name: str) -> str:
    """Return the plain network of one with SE.

    Raises:
        SenetError: there is none.
    """
    card = model_card(name)
    if not card.has_se or card.twin is None:
        raise SenetError(f"{name} has no plain twin; name a network with one, such as se_resnet50 or cifar_se_resnet20")
    return card.twin


def variant(row: PaperRow, config: TrainConfig) -> TrainConfig:
    """Return a recipe with the row's SE options on its own network, or its plain network for the row without SE."""
    if row.model.name == "resnet50":
        return replace(config, model=replace(config.model, name=plain_twin(config.model.name)))
    return replace(config, model=replace(config.model, se=row.model.se))


def ablate(tables: Sequence[int], config: TrainConfig, output: str | Path, *, seeds: int = 3) -> list[AblationRow]:
    """Train every variant of some of the paper's ablations with several seeds; what is there already is not repeated.

    Variants that several tables share are trained once. Blocks have no biases, as in the paper's section 6.

    Args:
        tables: numbers from 10 to 16.
        config: what each variant changes; a network with SE.
        output: folder of the runs, `output/VARIANT/seedN`, and of ablation.json; in it other tables stay.
        seeds: 0, 1, ... of each variant.

    Raises:
        SenetError: no such table, a network without SE or without a variant's option, or runs with other settings in
            the folder.
        TrainingInterrupted: a signal came; the same call goes on.
    """
    folder = Path(output)
    for table in tables:
        if table not in TABLES:
            raise SenetError(f"table is {table}; expected one of {', '.join(map(str, TABLES))}")
    if seeds < 1:
        raise SenetError(f"seeds is {seeds}; expected at least 1")
    rows = [row for row in ABLATIONS if row.table in tables]
    runs = {row.run: variant(row, config) for row in rows}
    errors: dict[str, list[float]] = {run: [] for run in runs}
    todo = [(seed, run) for seed in range(seeds) for run in runs]
    for number, (seed, run) in enumerate(todo, 1):
        path = folder / name_of(run) / f"seed{seed}"
        say(f"{number} of {len(todo)}: {path}", console(stderr=True))
        errors[run].append(trained(replace(runs[run], seed=seed), path))
    models = {run: from_pretrained(folder / name_of(run) / "seed0" / "last") for run in runs}
    costs = {run: cost(model) for run, model in models.items()}
    found = [
        AblationRow(
            table=row.table,
            label=row.label,
            run=name_of(row.run),
            model=models[row.run].config,
            parameters=costs[row.run].parameters,
            multiply_adds=costs[row.run].multiply_adds,
            top1_errors=tuple(errors[row.run]),
            paper=row.paper,
        )
        for row in rows
    ]
    about = {name: version(name) for name in ("senet", "torch")}
    results = folder / RESULTS_FILE
    before = json.loads(results.read_text())["rows"] if results.exists() else []
    described = [row for row in before if row["table"] not in tables]
    described += [asdict(row) | {"model": config_to_dict(row.model)} for row in found]
    described.sort(key=lambda row: row["table"])
    write_json(results, {"date": date.today().isoformat(), "versions": about, "rows": described})
    return found


def name_of(run: str) -> str:
    """Return the folder of a variant; the paper's rows name two after their ImageNet networks."""
    return {"resnet50": "plain", "se_resnet50": "se"}.get(run, run)


def trained(config: TrainConfig, path: Path) -> float:
    """Train a run to its end, or go on with it, or only read it; return its top-1 error in %."""
    folder = RunFolder(path)
    started = (path / "config.json").exists()
    if started:
        folder.check_same_config(config)
    rows = read_jsonl(folder.metrics_file)
    if not rows or rows[-1]["epoch"] < config.epochs:
        train(config, path, resume=started)
        rows = read_jsonl(folder.metrics_file)
    return 100 - float(rows[-1]["top1"])


def tables_of(rows: Sequence[AblationRow]) -> Iterator[Table]:
    """Yield a table to print for each of the paper's."""
    for number in sorted({row.table for row in rows}):
        table = Table(title=f"Table {number}: {SUBJECTS[number]}")
        table.add_column("variant")
        for heading in ("parameters", "MMAdds", "top-1 err., %", "± over seeds", "paper's, %"):
            table.add_column(heading, justify="right")
        for row in (row for row in rows if row.table == number):
            number_of_seeds = len(row.top1_errors)
            spread = f"{row.deviation:.2f} ({number_of_seeds})" if number_of_seeds > 1 else "one seed"
            counts = (f"{row.parameters:,}", f"{row.multiply_adds / 1e6:,.2f}")
            table.add_row(row.label, *counts, f"{row.mean:.2f}", spread, f"{row.paper.top1:.2f}")
        yield table
