"""Every row of the paper's tables: its figures, its network, its configuration and its command."""

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
from senet.data.config import data_config_from_dict
from senet.models.catalog import CARDS
from senet.models.config import ModelConfig, config_from_dict, config_to_dict
from senet.nn.block import SEBlock, SEOptions
from senet.paper.rows import PAPER_ROWS, PaperRow, overrides
from senet.recipes import RECIPES, get_recipe
from senet.training.run import RunFolder

PRINTED = {
    2: "24.80/7.48 23.29/6.62 23.17/6.52 22.38/6.07 22.42/6.34 21.57/5.73 22.11/5.90 21.10/5.49 21.18/5.57 20.70/5.01 "
    "27.02/8.81 25.22/7.70 25.38/7.89 24.23/7.14 20.37/5.21 19.80/4.79",
    3: "28.4/9.4 25.3/7.7 32.6/12.5 31.0/11.1",
    4: "6.37 5.21 5.46 4.39 4.27 3.88 2.56 2.12",
    5: "26.88 23.85 24.33 21.31 20.43 19.14 15.85 15.41",
    6: "41.15/11.61 40.37/11.01",
    9: "16.88/3.58",
    10: "22.29/6.00 22.25/6.09 22.26/5.99 22.28/6.03 22.72/6.20 23.30/6.55",
    11: "22.57/6.09 22.28/6.03",
    12: "23.47/6.98 23.00/6.38 22.28/6.03",
    13: "23.30/6.55 23.03/6.48 23.04/6.32 22.68/6.22 22.28/6.03",
    14: "22.28/6.03 22.23/6.00 22.78/6.35 22.20/6.15",
    15: "22.28/6.03 22.48/6.02",
    16: "23.30/6.55 22.93/6.39 22.28/6.03",
}
"""The paper's figures row by row, the plain network before its SE twin."""

ROWS = pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda row: f"{row.table}-{row.label}")


def rows_of(table: int) -> list[PaperRow]:
    return [row for row in PAPER_ROWS if row.table == table]


def network(row: PaperRow) -> nn.Module:
    return on_meta(row.model.name, se=row.model.se if CARDS[row.model.name].has_se else None)


def test_every_row_is_there_once() -> None:
    assert Counter(row.table for row in PAPER_ROWS) == Counter(
        {2: 16, 3: 4, 4: 8, 5: 8, 6: 2, 9: 1, 10: 6, 11: 2, 12: 3, 13: 5, 14: 4, 15: 2, 16: 3}
    )
    assert len({(row.table, row.label) for row in PAPER_ROWS}) == len(PAPER_ROWS) == 64


@pytest.mark.parametrize("table", PRINTED)
def test_the_figures_are_the_paper_s(table: int) -> None:
    printed = [tuple(map(float, figures.split("/"))) for figures in PRINTED[table].split()]
    assert [tuple(error for error in row.paper if error is not None) for row in rows_of(table)] == printed


def test_the_figures_agree_with_the_cards() -> None:
    compared = 0
    for card in CARDS.values():
        table = re.fullmatch(r"Table (\d+)", card.paper.source or "")
        if card.paper.top1_error is None or table is None or not rows_of(int(table[1])):
            continue
        (row,) = (row for row in rows_of(int(table[1])) if row.model.name == card.name)
        assert row.paper == (card.paper.top1_error, card.paper.top5_error)
        compared += 1
    assert compared >= 24


@ROWS
def test_a_row_s_network_has_the_blocks_that_the_row_asks_for(row: PaperRow) -> None:
    model = network(row)
    assert model.config.se == row.model.se
    blocks = [module for module in model.modules() if isinstance(module, SEBlock)]
    is_se = "se_" in row.model.name or row.model.name == "senet154"
    assert bool(blocks) == is_se
    if row.table < 10:
        assert is_se == row.label.startswith("SE")
    bias = row.table < 10  # section 6: the ablations have none
    for block in blocks:
        assert block.fc1.out_channels == max(1, block.channels // row.model.se.reduction)
        assert (block.fc1.bias is not None, block.fc2.bias is not None) == (bias, bias)


STANDARD = (256,) * 3 + (512,) * 4 + (1024,) * 6 + (2048,) * 3
"""Channels of SE-ResNet-50's sixteen blocks, Table 1 of the paper."""
BEFORE = (64, *STANDARD[:-1])
"""Channels that enter its units."""
INSIDE = tuple(channels // 4 for channels in STANDARD)
"""Channels behind their 3x3 convolutions."""

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
    rows = {(row.table, row.label): row for row in PAPER_ROWS if row.table >= 10}
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
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config_from_dict(stored["model"]) == config.model
    assert config_from_dict(json.loads(json.dumps(config_to_dict(row.model)))) == row.model
    assert data_config_from_dict(stored["data"]) == config.data


@ROWS
def test_the_command_line_understands_a_row_s_command(row: PaperRow, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr("senet.training.loop.train", lambda config, output, resume: runs.append((config, output)))
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
    datasets = {table: {row.config().data.dataset for row in rows_of(table)} for table in PRINTED}
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
