"""What a panel shows of estimates that have an interval, half of one, or none."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mcdo.report.figures import FEW_LINES, PALETTE, TITLE_LETTERS, draw, faults, known_faults, save_figure
from mcdo.report.panels import band, correlation_panel, interval_panel, ranked_panel
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
        axes.set(xlim=(0, 1.05), xlabel="passes T", ylabel="ρ")
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


def test_a_colour_by_its_number_is_of_the_palette_in_every_file(tmp_path: Path) -> None:
    def panel(axes: Axes) -> None:
        axes.errorbar([1, 2], [1, 2], yerr=0.1, fmt="o", color="C1")
        axes.set(xlim=(0, 3), xlabel="x", ylabel="y")

    figure = draw([panel], "a figure")
    assert faults(figure) == []
    svg = save_figure(figure, tmp_path / "a.png").with_suffix(".svg").read_text(encoding="utf-8")
    assert PALETTE[1].lower() in svg
    assert "#ff7f0e" not in svg


def test_faults_of_a_figure_are_found() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.suptitle("a title that is far too long for one panel " * 4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o", color="red", label="data")
    axes.errorbar([1, 1.5], [1, 1], yerr=0.2, label="first")
    axes.errorbar([1, 1.6], [1.1, 1], yerr=0.2, label="second")
    axes.set(xlim=(0, 2), ylim=(-1, 2), ylabel="a label that is far too long for this axis " * 4)
    axes.set_xticks([0.5, 0.6], ["a long name", "another name"])
    axes.legend()
    for name in ("one", "two"):
        axes.annotate(name, (0.5, 0.5), (0.6, 0.6), fontsize=7, arrowprops={"arrowstyle": "-"})
    words = " ".join(faults(figure))
    for said in (
        "legend lies on", "point lies on the frame", "'one' lies over 'two'", "'a long name' lies over 'another name'",
        "intervals of 'first' and 'second' lie on each other", "x axis has no label", "the colour #ff0000",
        "'two' is written in 7.0 points", "this axis ' leaves", "one panel ' leaves",
    ):  # fmt: skip
        assert said in words
    assert "y axis has no label" not in words


@pytest.mark.parametrize(("count", "found"), [(6, False), (12, False), (60, True)])
def test_names_along_an_axis_have_room_or_are_a_fault(count: int, found: bool) -> None:
    estimates = {"score": {f"a_score_called_{i}": KNOWN for i in range(count)}}
    assert (
        any("lies over" in fault for fault in faults(draw([lambda a: interval_panel(a, estimates, 0.3, "ρ")], "t")))
        is found
    )


def test_what_was_not_measured_is_marked_so() -> None:
    axes = drawn({"a": KNOWN, "b": UNDEFINED}, {"a": UNDEFINED})
    marked = [(text.get_position()[0], text.get_text()) for text in axes.texts]
    assert marked == [(1, "not measured")]


def test_a_correlation_above_1_is_written_as_it_is_and_an_undefined_one_is_a_dash() -> None:
    matrix = [[1.0, 1.07], [math.nan, 1.0]]
    figure = draw([lambda axes: correlation_panel(axes, ["a", "b"], matrix, "corrected", "score")], "a figure")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "1.07", "–", "1.00"]
    assert faults(figure) == []


def test_a_long_title_is_broken_and_short_brackets_are_not() -> None:
    label = "a label of a good length here [95 %]"
    figure = draw([lambda axes: interval_panel(axes, {"series": {"a": KNOWN}}, None, label)], "word " * 20)
    assert faults(figure) == []
    assert max(map(len, figure.get_suptitle().splitlines())) <= TITLE_LETTERS
    assert "[95\N{NO-BREAK SPACE}%]" in figure.axes[0].get_ylabel()


def test_three_panels_beside_each_other_take_the_width_of_two_and_name_their_lines() -> None:
    def panel(axes: Axes) -> None:
        for i in range(FEW_LINES):
            band(axes, [1.0, 2.0], [KNOWN, Estimate(0.6, 0.5, 0.8, 20)], f"line {i}")
        axes.set(xlim=(0.8, 2.1), ylim=(0, 1), xlabel="cost", ylabel="ρ")
        axes.legend()

    figure = draw([panel] * 3, "a figure", columns=3)
    assert faults(figure) == []
    assert figure.get_figwidth() == pytest.approx(draw([panel] * 2, "a figure").get_figwidth())
    assert [len(axes.texts) for axes in figure.axes] == [FEW_LINES] * 3


def test_a_band_is_as_high_as_the_intervals() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    band(axes, [1.0, 2.0], [KNOWN, Estimate(0.6, 0.45, 0.8, 20)], "line")
    (line,), (area,) = axes.lines, axes.collections
    assert heights(line) == [0.5, 0.6]
    edge = np.asarray(area.get_paths()[0].vertices)
    assert {(x, y) for x, y in edge.tolist()} == {(1.0, 0.4), (1.0, 0.7), (2.0, 0.45), (2.0, 0.8)}


def test_a_figure_is_judged_alike_before_and_after_it_is_saved(tmp_path: Path) -> None:
    def panel(axes: Axes) -> None:
        axes.plot([0.0, 1.0], [0.0, 1.0], "o-", color="#123456", label="one")
        axes.text(1.0, 0.5, "a text that is too long for the panel on which it begins", in_layout=False)
        axes.legend()

    figure = draw([panel, panel], "two")
    fresh = faults(figure)
    assert {"colour", "leaves"} <= {word for found in fresh for word in found.split()}
    save_figure(figure, tmp_path / "a.png", ("png",))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert faults(figure) == fresh == known_faults(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-100])
    assert known_faults(tmp_path / "a.png") == ["a.png is no whole picture"]


def _saved(folder: Path, points: Sequence[float], formats: Sequence[str] = ("png", "svg", "pdf")) -> dict[str, int]:
    """When each file of a figure of these points was written, after it is saved once more."""

    def panel(axes: Axes) -> None:
        axes.plot(points, "o-", label="one")
        axes.set(xlabel="x", ylabel="y")

    save_figure(draw([panel, panel], "two"), folder / "a.png", formats)
    return {path.suffix: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    _saved(folder, [1, 2])
    return folder


@pytest.fixture
def first(drawn_once: Path, tmp_path: Path) -> dict[str, int]:
    """When each file of the figure of 1 and 2 was written that lies in the folder."""
    shutil.copytree(drawn_once, tmp_path, dirs_exist_ok=True)
    return {path.suffix: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_an_equal_figure_is_not_drawn_again(first: dict[str, int], tmp_path: Path) -> None:
    assert set(first) == {".png", ".svg", ".pdf"}
    assert _saved(tmp_path, [1, 2]) == first


def test_another_figure_is_drawn_whatever_differs(first: dict[str, int], tmp_path: Path) -> None:
    second = _saved(tmp_path, [1, 2 + 1e-12])
    assert all(second[form] > first[form] for form in first)
    alone = _saved(tmp_path, [1, 2], ("png",))  # which leaves the others as they were
    assert alone[".png"] > second[".png"]
    assert alone[".svg"] == second[".svg"]
    whole = _saved(tmp_path, [1, 2])
    assert all(whole[form] > alone[form] for form in alone)


@pytest.mark.parametrize("form", [".png", ".svg", ".pdf"])
def test_a_file_of_a_figure_that_is_missing_is_drawn_again(form: str, first: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / f"a{form}").unlink()
    second = _saved(tmp_path, [1, 2])
    assert all(second[form] > first[form] for form in first)


def test_a_picture_that_ends_early_is_drawn_again(first: dict[str, int], tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    whole = png.read_bytes()
    png.write_bytes(whole[: len(whole) // 2])
    assert all(at > first[form] for form, at in _saved(tmp_path, [1, 2]).items())
    assert png.read_bytes() == whole


@pytest.mark.usefixtures("first")
def test_drawing_that_is_stopped_between_two_formats_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FigureCanvasSVG, "print_svg", stopped)
        with pytest.raises(KeyboardInterrupt):
            _saved(tmp_path, [1, 3])
    before = {path.suffix: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert all(at > before[form] for form, at in _saved(tmp_path, [1, 3]).items())


def test_a_figure_that_holds_a_nameless_function_is_always_drawn(tmp_path: Path) -> None:
    def save() -> int:
        def panel(axes: Axes) -> None:
            axes.plot([1, 2])
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} of 2")
            axes.set(xlabel="x", ylabel="y")

        save_figure(draw([panel], "one"), tmp_path / "a.png", ("png",))
        return (tmp_path / "a.png").stat().st_mtime_ns

    assert save() < save()
