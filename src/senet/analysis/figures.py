"""The paper's Figures 6 and 7 for any recording."""

from collections.abc import Mapping, Sequence
from html import escape
from types import MappingProxyType
from typing import Any

from torch import Tensor

from senet.analysis.measures import sampled_channels
from senet.analysis.recording import Recording
from senet.errors import SenetError, nearest, needed_for

with needed_for("a figure"):
    import plotly.graph_objects as go

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which color-blind readers can tell apart (jfly.uni-koeln.de/color)."""
ALL = "#808080"
LAYOUT: Mapping[str, Any] = MappingProxyType(
    {
        "template": "plotly_white",
        "legend": {"orientation": "h", "y": -0.25},
        "margin": {"l": 50, "r": 10, "t": 50, "b": 40},
    }
)
"""The layout that all figures share."""


def class_index(recording: Recording, name: str) -> int:
    """Return the number of a class.

    Raises:
        SenetError: the recording has no classes, or none of that name.
    """
    if not recording.class_names:
        raise SenetError("the recording has no classes, for its images have no labels")
    if name not in recording.class_names:
        raise SenetError(f"there is no class {name!r}; the nearest are {nearest(name, recording.class_names)}")
    return recording.class_names.index(name)


def default_classes(recording: Recording, number: int = 4) -> tuple[str, ...]:
    """Return some classes, evenly spaced in the list of those that have images."""
    seen = [name for name, n in zip(recording.class_names, recording.blocks[0].count.tolist(), strict=False) if n]
    step = max(1, len(seen) // number)
    return tuple(seen[::step][:number])


def escaped(name: str) -> str:
    """Escape a name for plotly, which interprets tags and entities in any text."""
    return escape(name, quote=False)


def line(x: Tensor, y: Tensor, name: str, color: str, width: float = 1.5) -> go.Scatter:
    """Return a line that shows gates over channels."""
    hover = "channel %{x}: %{y:.3f}"
    style = {"color": color, "width": width}
    return go.Scatter(x=x.tolist(), y=y.tolist(), name=escaped(name), mode="lines", line=style, hovertemplate=hover)


def with_axes(figure: go.Figure, recording: Recording, block: str, title: str) -> go.Figure:
    """Give a figure its title and axes."""
    at = recording[block].block
    figure.update_layout(
        title=f"{at.name}: {escaped(title)}",
        xaxis_title=f"channel (of {at.channels})",
        yaxis_title="gate",
        yaxis_range=[at.low, at.high],
        **LAYOUT,
    )
    return figure


def class_figure(
    recording: Recording, block: str, classes: Sequence[str] | None = None, *, channels: int = 50
) -> go.Figure:
    """Draw the mean gates of some classes, and those of all images, over the channels.

    Args:
        recording: of `senet.record_excitations`.
        block: the block's name, such as "SE_4_6", or its module's.
        classes: names; None for four, evenly spaced.
        channels: number of channels to draw, evenly spaced.

    Raises:
        SenetError: no such block or class.

    Source: arXiv:1709.01507v4, Figure 6.
    """
    record = recording[block]
    chosen = sampled_channels(record.block.channels, channels)
    figure = go.Figure(line(chosen, record.overall_mean[chosen], "all images", ALL, 3))
    names = default_classes(recording) if classes is None else classes
    for i, name in enumerate(names):
        mean = record.mean[class_index(recording, name)]
        figure.add_trace(line(chosen, mean[chosen], name, COLORS[i % len(COLORS)]))
    return with_axes(figure, recording, block, "mean gate by class")


def spread_figure(recording: Recording, block: str, class_name: str | None = None, *, channels: int = 50) -> go.Figure:
    """Draw mean and standard deviation of the gates over the images of one class.

    Args:
        recording: of `senet.record_excitations`.
        block: see `class_figure`.
        class_name: None for all images.
        channels: see `class_figure`.

    Raises:
        SenetError: no such block or class.

    Source: arXiv:1709.01507v4, Figure 7.
    """
    record = recording[block]
    chosen = sampled_channels(record.block.channels, channels)
    if class_name is None:
        mean, variance = record.overall_mean, record.overall_variance
    else:
        index = class_index(recording, class_name)
        mean, variance = record.mean[index], record.variance[index]
    mean, deviation = mean[chosen], variance[chosen].sqrt()
    color = ALL if class_name is None else COLORS[0]
    upper = line(chosen, mean + deviation, "mean + deviation", color, 0)
    lower = line(chosen, mean - deviation, "mean - deviation", color, 0)
    lower.update(fill="tonexty", opacity=0.4)
    for edge in (upper, lower):
        edge.update(showlegend=False, hoverinfo="skip", hovertemplate=None)
    name = class_name or "all images"
    figure = go.Figure([upper, lower, line(chosen, mean, f"{name}: mean, with one standard deviation", color, 2)])
    return with_axes(figure, recording, block, f"gates within {name}")
