"""This library's parameters and multiply-adds beside the paper's: they agree, or the cause stands beside them."""

from dataclasses import replace

import pytest
import torch

from senet.costs import cost
from senet.factory import create_model
from senet.paper.costs import CAUSES, CostComparison, compare_costs
from senet.paper.figures import RELEASE, Figures

# Rows per table of the paper that print parameters or multiply-adds of a network that no earlier row has.
ROWS = {"Table 2": 16, "Table 3": 4, "Table 10": 6, "Table 13": 3, "Table 15": 1, "Table 16": 1, "release": 5}
RESNET_50 = 25_557_032
"""Parameters of ResNet-50, as torchvision counts them."""


@pytest.fixture(scope="module")
def comparisons():
    return list(compare_costs())


@pytest.mark.slow
def test_every_figure_of_the_paper_is_there(comparisons):
    tables = [row.printed.source for row in comparisons]
    assert {table: tables.count(table) for table in dict.fromkeys(tables)} == ROWS


@pytest.mark.slow
def test_every_network_agrees_or_its_difference_is_explained(comparisons):
    assert {row.printed.experiment for row in comparisons if not row.agrees} == set(CAUSES)


@pytest.mark.slow
def test_what_agrees_does_so_within_half_a_percent(comparisons):
    differences = [abs(row.difference) for row in comparisons if row.difference is not None and not row.cause]
    assert len(differences) == 18
    assert max(differences) < 0.005


@pytest.mark.slow
def test_the_release_is_counted_to_the_unit(comparisons):
    release = [row for row in comparisons if row.printed in RELEASE]
    assert len(release) == 5
    assert all(f"{row.parameters:,}" == row.printed.figures.parameters for row in release)


def comparison(parameters, printed, multiply_adds=1_000_000, printed_multiply_adds=None, statistics=0):
    row = replace(RELEASE[0], figures=Figures(parameters=printed, multiply_adds=printed_multiply_adds))
    return CostComparison(printed=row, parameters=parameters, moving_statistics=statistics, multiply_adds=multiply_adds)


@pytest.mark.parametrize(
    ("parameters", "printed", "statistics", "counting"),
    [
        (28_088_024, "28.1", 0, "trainable"),
        (28_050_000, "28.1", 0, "trainable"),
        (28_049_999, "28.1", 0, None),
        (28_150_001, "28.1", 0, "truncated"),
        (28_199_999, "28.1", 0, "truncated"),
        (28_200_000, "28.1", 0, None),
        (28_040_000, "28.1", 53_120, "with moving statistics"),
        (1_234_567, "1,234,567", 0, "trainable"),
        (1_234_568, "1,234,567", 0, None),
        (28_088_024, None, 0, None),
    ],
)
def test_rounding(parameters, printed, statistics, counting):
    assert comparison(parameters, printed, statistics=statistics).counting == counting


@pytest.mark.parametrize(
    ("multiply_adds", "agrees"), [(99_010_000, True), (100_990_000, True), (98_900_000, False), (101_100_000, False)]
)
def test_one_percent(multiply_adds, agrees):
    row = comparison(1, None, multiply_adds, 100)
    assert row.agrees is agrees
    assert row.difference == pytest.approx(multiply_adds / 1e8 - 1)


@pytest.mark.slow
def test_the_ablations_have_the_parameters_of_section_4(comparisons):
    """2/r sum N C^2 weights without biases, on those of ResNet-50."""
    counted = {row.printed.experiment: row.parameters for row in comparisons if row.printed.table >= 10}
    squares = {2: 3 * 256**2, 3: 4 * 512**2, 4: 6 * 1024**2, 5: 3 * 2048**2}
    expected = {f"reduction{r}": 2 * sum(squares.values()) // r for r in (2, 4, 8, 32)}
    expected |= {f"stage{i}": squares[i] // 8 for i in (2, 3, 4)}
    expected |= {"plain": 0, "se": sum(squares.values()) // 8, "nosqueeze": sum(squares.values()) // 8}
    expected |= {"3x3": sum(squares.values()) // 16 // 8}  # C / 4 channels
    assert counted == {experiment: RESNET_50 + added for experiment, added in expected.items()}


def test_the_figures_in_the_cause_of_inception_resnet():
    with torch.device("meta"):
        model = create_model("inception_resnet_v2")
    counts = [cost(model, 299), cost(model, 297)]
    model.repeat, model.repeat_2 = model.repeat[:5], model.repeat_2[:4]  # block8 is the fifth
    for counted in (*counts, cost(model, 299)):
        assert f"{round(counted.multiply_adds / 1e6):,}" in CAUSES["inception_resnet_v2"]
