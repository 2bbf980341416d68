"""The paper's ablations, Tables 10 to 16, with any recipe: one run for each variant and seed, resumable."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

from senet.costs import cost
from senet.errors import SenetError
from senet.factory import from_pretrained
from senet.files import parse_json, read_jsonl, write_json, writing_to
from senet.models.catalog import model_card
from senet.models.config import ModelConfig, config_to_dict
from senet.paper.figures import ABLATIONS, Row
from senet.processes import Team, shared_work
from senet.training.config import TrainConfig
from senet.training.interrupt import TrainingInterrupted
from senet.training.loop import resume, train
from senet.training.processes import training_alone
from senet.training.run import RunFolder
from senet.training.state import STATE_KEYS

SUBJECTS = {
    10: "reduction",
    11: "squeeze",
    12: "gate",
    13: "stages",
    14: "placement",
    15: "after the 3x3 convolution",
    16: "no squeeze",
}
"""What each table varies."""
TABLES = tuple(SUBJECTS)
RESULTS_FILE = "ablation.json"

logger = logging.getLogger(__name__)


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
    """

    table: int
    label: str
    run: str
    model: ModelConfig
    parameters: int
    multiply_adds: int
    top1_errors: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean error over the seeds, in %."""
        return statistics.fmean(self.top1_errors)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds, in percent points; 0 for one seed."""
        return statistics.stdev(self.top1_errors) if len(self.top1_errors) > 1 else 0.0

    @property
    def paper_error(self) -> float | None:
        """The paper's top-1 error in %, of SE-ResNet-50 on ImageNet."""
        return paper_error(self.table, self.label)


def paper_error(table: int, label: str) -> float | None:
    """Return the paper's top-1 error of a variant in %, None if it has no such row."""
    rows = (row for row in ABLATIONS if (row.table, row.label) == (table, label))
    return next((row.figures.top1 for row in rows), None)


def plain_twin(name: str) -> str:
    """Return the name of the plain network of one with SE.

    Raises:
        SenetError: there is none.
    """
    card = model_card(name)
    if not card.has_se or card.twin is None:
        raise SenetError(f"{name} has no plain twin; name a network with one, such as se_resnet50 or cifar_se_resnet20")
    return card.twin


def variant(row: Row, config: TrainConfig) -> TrainConfig:
    """Return a recipe with the row's SE options on its own network, or its plain network for the row without SE."""
    if row.se is None:
        return replace(config, model=replace(config.model, name=plain_twin(config.model.name)))
    return replace(config, model=replace(config.model, se=row.se))


def reproduce_ablations(
    tables: Sequence[int], config: TrainConfig, output: str | Path, *, seeds: int = 3
) -> list[AblationRow]:
    """Train every variant of some of the paper's ablations with several seeds; finished runs are read, not repeated.

    Variants that several tables share are trained once. Blocks have no biases, as in the paper's section 6.

    Args:
        tables: numbers from 10 to 16.
        config: what each variant changes; a network with SE.
        output: folder of the runs, `output/VARIANT/seedN`, and of ablation.json, in which other tables stay.
        seeds: 0, 1, ... of each variant.

    Raises:
        SenetError: no table or an unknown one, a network without SE or without a variant's option, or runs with other
            settings in the folder.
        TrainingInterrupted: a signal came; the same call goes on.

    Under torchrun the runs are distributed: each is trained by one process, so that it is the same run, bit for bit, as
    in one process alone, and may be gone on with by any number of them. Processes that trained each run together
    would have larger batches and other statistics of BatchNorm, and would wait for each other at every step.
    """
    folder = Path(output)
    if not tables:
        raise SenetError(f"tables is empty; name at least one of {', '.join(map(str, TABLES))}")
    for table in tables:
        if table not in TABLES:
            raise SenetError(f"table is {table}; expected one of {', '.join(map(str, TABLES))}")
    if seeds < 1:
        raise SenetError(f"seeds is {seeds}; expected at least 1")
    rows = [row for row in ABLATIONS if row.table in tables]
    runs = {row.experiment: variant(row, config) for row in rows}
    paths = {(seed, run): folder / run / f"seed{seed}" for seed in range(seeds) for run in runs}
    with shared_work() as team:
        for number, ((seed, run), path) in team.taken(enumerate(paths.items(), 1)):
            logger.info("%d of %d: %s", number, len(paths), path)
            train_alone(replace(runs[run], seed=seed), path, team)
        team.meet()
        return team.from_first(lambda: written_results(folder, tables, rows, runs, seeds))


def train_alone(config: TrainConfig, path: Path, team: Team) -> None:
    """Train a run in this process alone, whatever others of its team do meanwhile."""
    with training_alone() if team.size > 1 else nullcontext():
        try:
            train_to_end(config, path)
        except TrainingInterrupted:
            team.check_others()  # a failure there is why torchrun stops this process
            raise


def written_results(
    folder: Path, tables: Sequence[int], rows: Sequence[Row], runs: Mapping[str, TrainConfig], seeds: int
) -> list[AblationRow]:
    """Write and return the rows of some tables whose runs are trained."""
    models = {run: from_pretrained(folder / run / "seed0" / "last") for run in runs}
    costs = {run: cost(model) for run, model in models.items()}
    errors = {run: [top1_error(folder / run / f"seed{seed}") for seed in range(seeds)] for run in runs}
    reports = [
        AblationRow(
            table=row.table,
            label=row.label,
            run=row.experiment,
            model=models[row.experiment].config,
            parameters=costs[row.experiment].parameters,
            multiply_adds=costs[row.experiment].multiply_adds,
            top1_errors=tuple(errors[row.experiment]),
        )
        for row in rows
    ]
    write_results(folder / RESULTS_FILE, tables, reports)
    return reports


def write_results(file: Path, tables: Sequence[int], rows: Sequence[AblationRow]) -> None:
    """Write the rows of some tables to ablation.json; rows of other tables stay."""
    before = parse_json(file.read_text())["rows"] if file.exists() else []
    described = [row for row in before if row["table"] not in tables]
    described += [asdict(row) | {"model": config_to_dict(row.model)} for row in rows]
    described.sort(key=lambda row: row["table"])
    versions = {name: version(name) for name in ("senet", "torch")}
    with writing_to(file, "make room or permit it, then the same command goes on"):
        write_json(file, {"date": date.today().isoformat(), "versions": versions, "rows": described})


def train_to_end(config: TrainConfig, path: Path) -> None:
    """Train a run to its end, or go on with it, unless it is finished."""
    folder = RunFolder(path)
    started = (path / "config.json").exists()
    if started:
        folder.check_same_config(config)
    state = None
    with suppress(SenetError):  # `resume` says what is wrong with it
        state = folder.load_state(STATE_KEYS, lazily=True) if started else None
    if state is None or state["position"]["epoch"] < config.epochs:  # a killed run may have written metrics of more
        resume(path) if started else train(config, path)
    else:
        folder.clean()


def top1_error(path: Path) -> float:
    """Return the error of a finished run in %."""
    return 100 - float(read_jsonl(RunFolder(path).metrics_file)[-1]["top1"])
