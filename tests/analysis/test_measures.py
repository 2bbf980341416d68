"""Each number against its formula on all gates at once."""

from dataclasses import replace
from html import unescape

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from senet import SenetError
from senet.analysis.figures import class_figure, spread_figure
from senet.analysis.gates import GateBlock
from senet.analysis.measures import block_statistics, sampled_channels
from senet.analysis.recording import BlockRecord, Recording, Tally


def recorded(
    gates: np.ndarray, labels: np.ndarray, num_classes: int, high: float = 1.0, named: bool = True
) -> Recording:
    """A recording of given gates (images, C)."""
    block = GateBlock("SE_2_1", "se", gates.shape[1], (7, 7), 0.0, high)
    tally = Tally(block, num_classes, 20, torch.device("cpu"))
    for start in range(0, len(gates), 16):
        tally.add(torch.tensor(gates[start : start + 16]), torch.tensor(labels[start : start + 16]))
    record: BlockRecord = tally.record(torch.tensor(np.bincount(labels, minlength=num_classes)))
    names = tuple(f"class {k}" for k in range(num_classes)) if named else ()
    return Recording(blocks=(record,), class_names=names, provenance={"model": "test"})


GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, 200)
GATES = 0.5 + 0.1 * GENERATOR.normal(size=(200, 12)) + 0.1 * GENERATOR.normal(size=(4, 12))[LABELS]


def test_formulas():
    (found,) = block_statistics(recorded(GATES, LABELS, 5, high=2.0))  # class 4 has no image
    means = np.stack([GATES[k == LABELS].mean(0) for k in range(4)])
    counts = np.bincount(LABELS, minlength=4)
    between = (counts[:, None] * (means - GATES.mean(0)) ** 2).sum()
    assert found.specificity == pytest.approx(between / ((GATES - GATES.mean(0)) ** 2).sum(), rel=1e-9)
    assert found.spread == pytest.approx(np.sqrt(GATES.var(0).mean()) / 2, rel=1e-9)
    assert found.effect == pytest.approx(np.sqrt(means[LABELS].var(0).mean()) / 2, rel=1e-9)
    assert found.effect == pytest.approx(found.spread * found.specificity**0.5, rel=1e-9)
    correlations = np.corrcoef(means)[np.triu_indices(4, 1)]
    assert found.agreement == pytest.approx(correlations.mean(), rel=1e-9)
    assert found.mean == pytest.approx(GATES.mean(), rel=1e-9)
    assert found.low == pytest.approx((GATES < 0.2).mean())
    assert found.high == pytest.approx((GATES >= 1.8).mean())


def test_ends_of_the_scales():
    alone = np.eye(4)[LABELS]
    (found,) = block_statistics(recorded(alone, LABELS, 4))
    assert found.specificity == pytest.approx(1)
    assert (found.low, found.high) == (0.75, 0.25)
    shared = np.broadcast_to(np.linspace(0.2, 0.8, 12), (200, 12)) * (1 + 0.2 * LABELS[:, None]) / 2
    assert block_statistics(recorded(shared, LABELS, 4))[0].agreement == pytest.approx(1)
    by_chance = GENERATOR.random((200, 500))
    (found,) = block_statistics(recorded(by_chance, LABELS, 4))
    assert found.specificity == pytest.approx(3 / 199, rel=0.1)
    assert found.agreement == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("gates", "verdict"),
    [
        (np.full((200, 12), 0.3), "constant"),
        (np.where(GENERATOR.random((200, 12)) < 0.5, 0.01, 0.99), "saturated"),
        (GATES, "class-specific"),
        (GENERATOR.random((200, 12)), "class-agnostic"),
        (0.9 + 0.1 * (GATES - GATES.mean(0)), "class-agnostic"),  # as large a share of a movement that nobody sees
    ],
)
def test_verdicts(gates, verdict):
    assert block_statistics(recorded(gates, LABELS, 4))[0].verdict == verdict


@pytest.mark.parametrize("apart", [0.005, 0.01, 0.02, 0.03, 0.05, 0.2])
def test_a_block_is_class_specific_where_the_lines_of_figure_6_part(apart):
    """Two classes at `apart` to either side: an eye wants three of the widest line's widths between them."""
    center = np.linspace(0.3, 0.7, 12)
    gates = center + apart * np.where(LABELS % 2, 1, -1)[:, None] + 0.02 * GENERATOR.normal(size=(200, 12))
    recording = recorded(gates, LABELS % 2, 2)
    figure = class_figure(recording, "SE_2_1", recording.class_names)
    lines = np.array([trace.y for trace in figure.data[1:]])
    width_of_a_line = 3 / 200  # pixels of the line of all images, and of the picture's height
    seen = (lines.max(0) - lines.min(0)).mean() > 3 * width_of_a_line
    (found,) = block_statistics(recording)
    assert (found.verdict == "class-specific") == (seen and found.specificity >= 0.25)


def test_without_labels():
    (found,) = block_statistics(recorded(GATES, np.zeros(200, int), 1, named=False))
    assert (found.specificity, found.effect, found.agreement, found.verdict) == (None,) * 4
    assert found.spread == pytest.approx(np.sqrt(GATES.var(0).mean()), rel=1e-9)


def test_figure_6_holds_the_means():
    recording = recorded(GATES, LABELS, 4)
    figure = class_figure(recording, "SE_2_1", ["class 2", "class 0"], channels=5)
    assert isinstance(figure, go.Figure)
    assert [trace.name for trace in figure.data] == ["all images", "class 2", "class 0"]
    assert figure.data[0].x == (0, 3, 6, 8, 11)
    chosen = np.array([0, 3, 6, 8, 11])
    np.testing.assert_allclose(figure.data[0].y, GATES.mean(0)[chosen])
    np.testing.assert_allclose(figure.data[1].y, GATES[LABELS == 2].mean(0)[chosen])


def test_figures_show_names_as_they_are():
    recording = replace(recorded(GATES, LABELS, 4), class_names=("<b>a</b>", "b", "R&amp;D", "d"))
    figure = class_figure(recording, "SE_2_1", recording.class_names)
    assert [unescape(trace.name) for trace in figure.data] == ["all images", *recording.class_names]
    assert figure.data[1].name == "&lt;b&gt;a&lt;/b&gt;"
    assert spread_figure(recording, "SE_2_1", "<b>a</b>").layout.title.text.endswith("&lt;b&gt;a&lt;/b&gt;")


def test_figure_7_holds_mean_and_deviation():
    figure = spread_figure(recorded(GATES, LABELS, 4), "se", "class 1")
    of = GATES[LABELS == 1]
    upper, lower, middle = figure.data
    np.testing.assert_allclose(middle.y, of.mean(0))
    np.testing.assert_allclose(upper.y, of.mean(0) + of.std(0))
    np.testing.assert_allclose(lower.y, of.mean(0) - of.std(0))
    everything = spread_figure(recorded(GATES, LABELS, 4), "se")
    np.testing.assert_allclose(everything.data[0].y, GATES.mean(0) + GATES.std(0))


def test_channels_are_sampled_evenly():
    assert sampled_channels(8).tolist() == list(range(8))
    sampled = sampled_channels(2048)
    assert (len(sampled), sampled[0], sampled[-1]) == (50, 0, 2047)
    assert set(sampled.diff().tolist()) <= {41, 42}


def test_bad_names():
    recording = recorded(GATES, LABELS, 4)
    with pytest.raises(SenetError, match="there is no class 'clas 1'; the nearest are class 1"):
        class_figure(recording, "SE_2_1", ["clas 1"])
    with pytest.raises(SenetError, match="there is no block 'SE_7_1'; the nearest are SE_2_1"):
        class_figure(recording, "SE_7_1")
    with pytest.raises(SenetError, match="the recording has no classes, for its images have no labels"):
        spread_figure(recorded(GATES, LABELS * 0, 1, named=False), "SE_2_1", "class 1")
