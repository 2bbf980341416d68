"""The table nobody can argue with: our parameters and multiply-adds beside the paper's."""

import pytest
import torch

from senet.costs import cost
from senet.factory import create_model
from senet.nn.block import SEOptions
from senet.paper.costs import CostComparison, PrintedCost, compare_costs

# Rows per table of the paper that print parameters or multiply-adds of a network.
ROWS = {"Table 2": 16, "Table 3": 4, "release": 5, "Table 10": 6, "Table 13": 4, "Table 15": 1, "Table 16": 1}


@pytest.fixture(scope="module")
def comparisons():
    return list(compare_costs())


def test_every_figure_of_the_paper_is_there(comparisons):
    tables = [row.printed.table for row in comparisons]
    assert {table: tables.count(table) for table in dict.fromkeys(tables)} == ROWS
    of_table_2 = {r.printed.name: r.printed.multiply_adds for r in comparisons if r.printed.table == "Table 2"}
    assert of_table_2["vgg16_bn"] == "15470"
    assert of_table_2["se_vgg16_bn"] == "15480"
    assert of_table_2["bn_inception"] == "2030"
    assert of_table_2["se_inception_resnet_v2"] == "11760"


def test_every_network_agrees_or_its_difference_is_explained(comparisons):
    unexplained = [row.printed.label for row in comparisons if not row.agrees and not row.printed.note]
    assert not unexplained


def test_nothing_is_explained_that_agrees(comparisons):
    needless = [row.printed.label for row in comparisons if row.agrees and row.printed.note]
    assert not needless


def test_what_does_not_agree_is_what_we_know(comparisons):
    assert {row.printed.label for row in comparisons if not row.agrees} == {
        "shufflenet_v1_g3",
        "se_shufflenet_v1_g3",
        "inception_resnet_v2",
        "se_inception_resnet_v2",
        "reduction 8",
    }


def test_the_release_is_counted_to_the_unit(comparisons):
    release = [row for row in comparisons if row.printed.table == "release"]
    assert all(f"{row.parameters:,}" == row.printed.parameters for row in release)


def comparison(parameters, printed, multiply_adds=1_000_000, printed_multiply_adds=None, statistics=0):
    row = PrintedCost(
        table="Table 0", label="x", name="x", parameters=printed, multiply_adds=printed_multiply_adds, note="why"
    )
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
        (28_088_024, "28,088,024", 0, "trainable"),
        (28_088_025, "28,088,024", 0, None),
        (28_088_024, None, 0, None),
    ],
)
def test_rounding(parameters, printed, statistics, counting):
    assert comparison(parameters, printed, statistics=statistics).counting == counting


@pytest.mark.parametrize(
    ("multiply_adds", "agrees"), [(99_010_000, True), (100_990_000, True), (98_900_000, False), (101_100_000, False)]
)
def test_one_percent(multiply_adds, agrees):
    row = comparison(1, None, multiply_adds, "100")
    assert row.agrees is agrees
    assert row.difference == pytest.approx(multiply_adds / 1e8 - 1)


def test_the_se_options_of_a_row_are_used(comparisons):
    by_label = {row.printed.label: row for row in comparisons}
    # 2/r sum N C^2 weights without biases, on the 25,557,032 of ResNet-50 (paper, section 4)
    squares = 3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2
    for ratio in (2, 4, 8, 16, 32):
        assert by_label[f"reduction {ratio}"].parameters == 25_557_032 + 2 * squares // ratio
    assert by_label["stage 4 only"].printed.se == SEOptions(stages=(4,), bias=False)
    assert by_label["stage 4 only"].parameters == 25_557_032 + 2 * 6 * 1024**2 // 16


def test_the_figures_in_the_note_on_inception_resnet():
    with torch.device("meta"):
        model = create_model("inception_resnet_v2")
    assert round(cost(model, 299).multiply_adds / 1e6) == 13_156
    assert round(cost(model, 297).multiply_adds / 1e6) == 11_732
    model.repeat, model.repeat_2 = model.repeat[:5], model.repeat_2[:4]  # block8 is the fifth
    assert round(cost(model, 299).multiply_adds / 1e6) == 11_756
