"""Every row of the paper's tables: its network, its configuration and its command."""

import inspect
import json
import re
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from torch import nn

from networks import on_meta
from senet.cli import main
from senet.models.catalog import CARDS
from senet.models.config import ModelConfig, config_from_dict, config_to_dict
from senet.nn.block import SEBlock, SEOptions
from senet.paper.rows import PAPER_ROWS, PaperRow, overrides
from senet.recipes import RECIPES, get_recipe
from senet.training.run import RunFolder

TABLES = sorted({row.printed.table for row in PAPER_ROWS})
ROWS = pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda row: f"{row.printed.table}-{row.printed.label}")


def rows_of(table: int) -> list[PaperRow]:
    return [row for row in PAPER_ROWS if row.printed.table == table]


def network(row: PaperRow) -> nn.Module:
    return on_meta(row.model.name, se=row.model.se if CARDS[row.model.name].has_se else None)


def test_every_row_is_there_once() -> None:
    assert Counter(row.printed.table for row in PAPER_ROWS) == Counter(
        {2: 16, 3: 4, 4: 8, 5: 8, 6: 2, 9: 1, 10: 6, 11: 2, 12: 3, 13: 5, 14: 4, 15: 2, 16: 3}
    )
    assert len({(row.printed.table, row.printed.label) for row in PAPER_ROWS}) == len(PAPER_ROWS) == 64


@pytest.mark.quick_every(4)
@ROWS
def test_a_row_s_network_has_the_blocks_that_the_row_asks_for(row: PaperRow) -> None:
    model = network(row)
    assert model.config.se == row.model.se
    blocks = [module for module in model.modules() if isinstance(module, SEBlock)]
    is_se = CARDS[row.model.name].has_se
    assert bool(blocks) == is_se
    if row.printed.table < 10:
        assert is_se == row.printed.label.startswith("SE")
    bias = row.printed.table < 10  # section 6: the ablations have none
    for block in blocks:
        assert block.fc1.out_channels == max(1, block.channels // row.model.se.reduction)
        assert (block.fc1.bias is not None, block.fc2.bias is not None) == (bias, bias)


STANDARD = (256,) * 3 + (512,) * 4 + (1024,) * 6 + (2048,) * 3
"""Channels of SE-ResNet-50's sixteen blocks, Table 1 of the paper."""
BEFORE = (64, *STANDARD[:-1])
"""Channels that enter its units."""
INSIDE = tuple(channels // 4 for channels in STANDARD)
"""Channels after their 3x3 convolutions."""

ABLATIONS = {
    **{(10, f"ratio {r}"): (SEOptions(reduction=r, bias=False), STANDARD) for r in (2, 4, 8, 16, 32)},
    (11, "Max"): (SEOptions(squeeze="max", bias=False), STANDARD),
    (11, "Avg"): (SEOptions(squeeze="avg", bias=False), STANDARD),
    (12, "ReLU"): (SEOptions(gate="relu", bias=False), STANDARD),
    (12, "Tanh"): (SEOptions(gate="tanh", bias=False), STANDARD),
    (12, "Sigmoid"): (SEOptions(gate="sigmoid", bias=False), STANDARD),
    (13, "SE Stage 2"): (SEOptions(stages=(2,), bias=False), (256,) * 3),
    (13, "SE Stage 3"): (SEOptions(stages=(3,), bias=False), (512,) * 4),
    (13, "SE Stage 4"): (SEOptions(stages=(4,), bias=False), (1024,) * 6),
    (13, "SE All"): (SEOptions(bias=False), STANDARD),
    (14, "SE"): (SEOptions(bias=False), STANDARD),
    (14, "SE-PRE"): (SEOptions(placement="pre", bias=False), BEFORE),
    (14, "SE-POST"): (SEOptions(placement="post", bias=False), STANDARD),
    (14, "SE-Identity"): (SEOptions(placement="identity", bias=False), STANDARD),
    (15, "SE"): (SEOptions(bias=False), STANDARD),
    (15, "SE 3x3"): (SEOptions(placement="3x3", bias=False), INSIDE),
    (16, "NoSqueeze"): (SEOptions(squeeze="none", bias=False), STANDARD),
    (16, "SE"): (SEOptions(bias=False), STANDARD),
}


def test_the_ablations_vary_what_the_paper_varied() -> None:
    rows = {(row.printed.table, row.printed.label): row for row in PAPER_ROWS if row.printed.table >= 10}
    plain = {(10, "original"), (13, "ResNet-50"), (16, "ResNet-50")}
    assert rows.keys() == ABLATIONS.keys() | plain
    for key in plain:
        assert rows[key].model == ModelConfig(name="resnet50")
    for key, (se, channels) in ABLATIONS.items():
        assert rows[key].model == ModelConfig(name="se_resnet50", se=se)
        blocks = [module for module in network(rows[key]).modules() if isinstance(module, SEBlock)]
        assert tuple(block.channels for block in blocks) == channels
        assert {(block.squeeze, block.gate_name) for block in blocks} == {(se.squeeze, se.gate)}
    assert {row.recipe for row in rows.values()} == {"imagenet_ablation"}


@ROWS
def test_a_row_s_configuration_is_its_recipe_with_its_network_and_survives_json(row: PaperRow, tmp_path: Path) -> None:
    config, recipe = row.config(), get_recipe(row.recipe)
    assert config.model == row.model
    assert asdict(config) | {"model": None} == asdict(recipe) | {"model": None}

    folder = RunFolder(tmp_path / "run")
    folder.start(config)
    folder.check_same_config(row.config())
    assert folder.read_config() == config
    assert config_from_dict(json.loads(json.dumps(config_to_dict(row.model)))) == row.model


@pytest.mark.quick_every(4)
@ROWS
def test_the_command_line_understands_a_row_s_command(row: PaperRow, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr("senet.cli.training.train", lambda config, output, progress: runs.append((config, output)))
    before, senet, after = row.command().partition("senet ")
    assert senet
    assert main(shlex.split(after)) == 0
    assert runs == [(row.config(), Path("runs") / row.recipe / row.run)]
    assert before == ("" if row.num_processes == 1 else f"torchrun --nproc-per-node {row.num_processes} -m ")


@ROWS
def test_a_row_runs_on_as_many_processes_as_its_recipe_says(row: PaperRow) -> None:
    said = re.search(r"--nproc-per-node (\d+)", inspect.getdoc(RECIPES[row.recipe]) or "")
    assert row.num_processes == (int(said[1]) if said else 1)


def test_rows_share_a_folder_if_and_only_if_one_run_answers_them() -> None:
    runs = [((row.recipe, row.run), row.config()) for row in PAPER_ROWS]
    for folder, config in runs:
        assert all((folder == other) == (config == others) for other, others in runs)
    assert len({folder for folder, _ in runs}) == 56


def test_tables_and_datasets() -> None:
    datasets = {table: {row.config().data.dataset for row in rows_of(table)} for table in TABLES}
    assert {table: datasets.pop(table) for table in (4, 5, 6)} == {4: {"cifar10"}, 5: {"cifar100"}, 6: {"places365"}}
    assert set().union(*datasets.values()) == {"imagenet"}


def test_overrides_name_what_differs_and_nothing_else() -> None:
    before = ModelConfig(name="se_resnet50", se=SEOptions(bias=True))
    after = ModelConfig(name="se_resnet101", in_channels=1, se=SEOptions(stages=(2, 4), bias=False, placement="pre"))
    assert list(overrides("--model", before, before)) == []
    words = " ".join(overrides("--model", before, after)).split(" --")
    assert {word.removeprefix("--") for word in words} == {
        "model.name se_resnet101",
        "model.in_channels 1",
        "model.se.stages 2 4",
        "model.se.no-bias",
        "model.se.placement pre",
    }
