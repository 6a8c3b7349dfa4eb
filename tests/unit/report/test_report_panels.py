"""What a panel shows of estimates that have an interval, half of one, or none."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcdo.report.figures import FEW_LINES, draw, faults
from mcdo.report.panels import interval_panel, ranked_panel
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import ErrorbarContainer
    from matplotlib.figure import Figure
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
    assert {text.get_text() for text in legend.get_texts()} == set(names)
    assert [text.get_text() for text in axes.texts] == ["bar 0.3"], "named where it ends"
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def lines(*names: str, ends: float = 1.0, spread: float = 0.0) -> Figure:
    """Lines of these names that end at the same height, or ``spread`` apart."""

    def panel(axes: Axes) -> None:
        for place, name in enumerate(names):
            axes.plot([0, ends], [0, 1 + spread * place], label=name)
        axes.set_xlim(0, 1.05)
        axes.legend()

    return draw([panel], "a figure")


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.3])
def test_few_lines_are_named_where_they_end_and_no_name_lies_on_another(spread: float) -> None:
    from matplotlib.colors import to_hex
    from matplotlib.text import Annotation, Text

    names = [f"line {i}" for i in range(FEW_LINES)]
    figure = lines(*names, spread=spread)
    assert faults(figure) == []
    (axes,), (place,) = figure.axes, figure.subfigs
    assert place.legends == []
    assert sorted(text.get_text() for text in axes.texts) == names
    heights = [Text.get_window_extent(text).y0 for text in axes.texts]
    assert heights == sorted(heights), "in the order of the lines"
    colours = {line.get_label(): line.get_color() for line in axes.lines}
    for text in axes.texts:
        assert isinstance(text, Annotation)
        assert text.arrow_patch is not None
        assert to_hex(text.arrow_patch.get_edgecolor()) == to_hex(colours[text.get_text()])
        assert Text.get_window_extent(text).x0 > axes.get_window_extent().x1, "beside the panel, off the data"


@pytest.mark.parametrize(
    ("names", "ends"), [(["a"] * 1 + list("bcde"), 1.0), (["one", "two"], 0.4), ([" ".join(["long"] * 30)], 1.0)]
)
def test_many_lines_or_ends_amid_the_panel_or_long_names_stand_in_a_legend(names: list[str], ends: float) -> None:
    figure = lines(*names, ends=ends)
    (axes,), (place,) = figure.axes, figure.subfigs
    assert not axes.texts
    assert [text.get_text() for text in place.legends[0].get_texts()] == names


def test_the_largest_is_on_top_and_what_has_no_interval_is_hollow() -> None:
    estimates = {"low": Estimate(0.1, 0.0, 0.2, 9), "bare": BARE, "high": KNOWN, "undefined": UNDEFINED}
    figure = draw([lambda axes: ranked_panel(axes, {**estimates, "high": Estimate(0.9, 0.8, 1, 9)}, 0.5, "x")], "t")
    assert faults(figure) == []
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["low", "bare", "high"]
    hollow = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [float(x) for line in hollow for x in np.asarray(line.get_xdata())] == [0.6]


def test_faults_of_a_figure_are_found() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o", label="data")
    axes.set(xlim=(0, 2), ylim=(-1, 2), ylabel="a label that is far too long for this axis " * 4)
    axes.legend()
    for name in ("one", "two"):
        axes.annotate(name, (0.5, 0.5), (0.6, 0.6), arrowprops={"arrowstyle": "-"})
    words = " ".join(faults(figure))
    assert all(
        said in words for said in ("legend lies on", "point lies on the frame", "'one' lies over 'two'", "leaves")
    )
