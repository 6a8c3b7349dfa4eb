"""What a panel shows of estimates that have an interval, half of one, or none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mcdo.report.figures import draw
from mcdo.report.panels import interval_panel
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.lines import Line2D

KNOWN = Estimate(0.5, 0.4, 0.7, 20)
BARE = Estimate(0.6, math.nan, math.nan, 20)
UNDEFINED = Estimate(math.nan, math.nan, math.nan, 20)


def heights(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def drawn(*series: dict[str, Estimate]) -> Axes:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    interval_panel(axes, {f"series {i}": of for i, of in enumerate(series)}, 0.3, "figure")
    return axes


def bars(axes: Axes) -> list[ErrorbarContainer]:
    from matplotlib.container import ErrorbarContainer

    return [one for one in axes.containers if isinstance(one, ErrorbarContainer)]


def panel(*series: dict[str, Estimate]) -> tuple[list[str], list[float], list[float]]:
    """Words of the legend, heights of filled and of hollow markers."""
    axes = drawn(*series)
    legend = axes.get_legend()
    assert legend is not None
    filled = [y for box in bars(axes) for y in heights(box.lines[0])]
    hollow = [y for line in axes.lines if line.get_fillstyle() == "none" for y in heights(line)]
    return [text.get_text() for text in legend.get_texts()], filled, hollow


def test_a_value_without_interval_is_hollow_and_named() -> None:
    words, filled, hollow = panel({"a": KNOWN, "b": BARE}, {"a": UNDEFINED, "b": KNOWN})
    assert words == ["no interval", "bar 0.3", "series 0", "series 1"]
    assert filled == [0.5, 0.5]
    assert hollow == [0.6]


def test_nothing_is_said_where_all_have_intervals_or_no_value() -> None:
    words, filled, hollow = panel({"a": KNOWN, "b": UNDEFINED})
    assert "no interval" not in words
    assert (filled, hollow) == ([0.5], [])


def test_nothing_but_values_without_interval() -> None:
    words, filled, hollow = panel({"a": BARE})
    assert "no interval" in words
    assert (filled, hollow) == ([], [0.6])


def test_an_arm_without_end_is_an_arrow() -> None:
    (box,) = bars(drawn({"a": Estimate(1.0, 0.5, math.inf, 20)}))
    markers = {cap.get_marker() for cap in box.lines[1] if heights(cap)}
    assert heights(box.lines[0]) == [1.0]
    assert len(markers) == 2, "a cap below, an arrow above"


def test_no_legend_lies_on_data() -> None:
    names = [f"score {i}" for i in range(7)]
    estimates = {name: {"clip_tiny": Estimate(i, i - 0.5, i + 0.5, 9)} for i, name in enumerate(names)}
    figure = draw([lambda axes: interval_panel(axes, estimates, 0.3, "ρ")], "a figure")
    figure.draw_without_rendering()
    (axes,), (place,) = figure.axes, figure.subfigs
    (legend,) = place.legends
    assert axes.get_legend() is None
    assert {text.get_text() for text in legend.get_texts()} == {*names, "bar 0.3"}
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert legend.get_window_extent().x1 <= figure.bbox.x1
