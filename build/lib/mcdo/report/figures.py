"""How figures are drawn and written: panels in rows, no global state, the same bytes for the same data."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcdo.names import printable
from mcdo.report.files import written

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.container import Container
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Text
    from matplotlib.typing import ColorType

Panel = Callable[["Axes"], None]
"""Draws one panel on the axes it is given."""

PANEL_SIZE = (5.6, 5.0)
"""Inches."""
LEGEND_LETTERS = 72
"""Letters of a legend's text that stand beside each other below a panel."""
AXIS_LETTERS = 38
"""Letters of a vertical axis' label that stand beside each other along a panel."""
FEW_LINES = 4
"""Lines that are named at their ends; of more, a legend says which is which."""
NAME_LETTERS, NAME_LINES = 18, 3
"""Of a line's name at its end."""
NAME_HEIGHT = 0.045
"""Of one line of such a name, as a share of a panel's height."""
ON_FRAME = 0.003
"""Share of a panel's width or height nearer than which to its edge a point is half hidden."""


def draw(panels: Sequence[Panel], title: str, columns: int = 3) -> Figure:
    """``panels`` in rows of at most ``columns``, under ``title``.

    Few lines are named where they end, beside the panel; other names are in a legend below it, off the data.
    """
    from matplotlib.figure import Figure  # half a second that only those who draw should wait

    rows = math.ceil(len(panels) / columns)
    across = min(columns, len(panels))
    figure = Figure(figsize=(PANEL_SIZE[0] * across, PANEL_SIZE[1] * rows), layout="constrained")
    figure.suptitle(title)
    places = figure.subfigures(rows, across, squeeze=False).ravel()
    for panel, place in zip(panels, places, strict=False):
        axes = place.subplots()
        panel(axes)
        for each in place.axes:
            each.set_ylabel(textwrap.fill(each.get_ylabel(), AXIS_LETTERS, break_long_words=False))
        _name(axes, place)
    return figure


def _name(axes: Axes, place: SubFigure) -> None:
    legend = axes.get_legend()
    if legend is None:
        return
    named = list(zip(*axes.get_legend_handles_labels(), strict=True))
    lines = {label: end for handle, label in named if (end := _end(axes, handle, label)) is not None}
    if len(lines) <= FEW_LINES:
        _name_ends(axes, lines)
        named = [(handle, label) for handle, label in named if label not in lines]
    legend.remove()
    if named:
        _put_legend_below(place, named, legend.get_title().get_text())


@dataclass(frozen=True)
class _End:
    """Where a line ends, as shares of the panel's width and height, and its colour."""

    x: float
    y: float
    colour: ColorType
    name: str


def _end(axes: Axes, handle: Artist | Container, label: str) -> _End | None:
    """Where the line of ``handle`` ends, if it is one, ends at the right, and has a name that fits there."""
    from matplotlib.container import ErrorbarContainer
    from matplotlib.lines import Line2D

    line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
    name = textwrap.fill(label, NAME_LETTERS, break_long_words=False)
    if not isinstance(line, Line2D) or line.get_linestyle() == "None" or name.count("\n") >= NAME_LINES:
        return None
    points = np.asarray(line.get_xydata(), dtype=np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None
    axes.get_xlim(), axes.get_ylim()  # which brings the limits up to date
    at = axes.transAxes.inverted().transform(line.get_transform().transform(points[np.argmax(points[:, 0])]))
    if not 0.8 <= at[0] <= 1.001 or not -0.001 <= at[1] <= 1.001:
        return None
    return _End(float(at[0]), float(at[1]), line.get_color(), name)


def _name_ends(axes: Axes, lines: Mapping[str, _End]) -> None:
    """Names beside the panel, in the order of the lines' ends and none over another, each tied to its line."""
    ordered = sorted(lines.values(), key=lambda end: end.y)
    need = [NAME_HEIGHT * (end.name.count("\n") + 1.4) for end in ordered]
    heights: list[float] = []
    for end, tall in zip(ordered, need, strict=True):  # each as low as it may stand
        least = heights[-1] + (need[len(heights) - 1] + tall) / 2 if heights else 0.0
        heights.append(max(end.y, least))
    above = 1.0
    for i in reversed(range(len(heights))):  # and none beyond the top
        heights[i] = min(heights[i], above - need[i] / 2)
        above = heights[i] - need[i] / 2
    for end, height in zip(ordered, heights, strict=True):
        axes.annotate(
            end.name, (end.x, end.y), (1.03, height), xycoords="axes fraction", textcoords="axes fraction",
            va="center", fontsize="small", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 1, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip


def _put_legend_below(place: SubFigure, named: Sequence[tuple[Artist | Container, str]], title: str) -> None:
    handles, labels = zip(*named, strict=True)
    widest = max(map(len, labels), default=1)
    place.legend(
        handles, labels, loc="outside lower center", ncols=max(1, min(len(labels), LEGEND_LETTERS // (widest + 6))),
        fontsize="small", title=title or None,
    )  # fmt: skip


def faults(figure: Figure) -> list[str]:
    """What a reader could not see or read in ``figure``, as drawn by :func:`draw`: in words, one for each fault.

    A legend over data, a point on the frame or outside it, a name over another, and text that leaves the figure.
    """
    from matplotlib.text import Text

    figure.draw_without_rendering()
    found = []
    for axes in figure.axes:
        where = repr(axes.get_title() or axes.get_ylabel() or axes.get_xlabel())
        if axes.get_legend() is not None:
            found.append(f"{where}: a legend lies on the data")
        for x, y in _marked(axes):
            if not (ON_FRAME < x < 1 - ON_FRAME and ON_FRAME < y < 1 - ON_FRAME):
                found.append(f"{where}: a point lies on the frame, at {x:.3f} and {y:.3f} of it")
        names = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
        boxes = [Text.get_window_extent(text) for text in names]
        found += [
            f"{where}: {a.get_text()!r} lies over {b.get_text()!r}"
            for (a, box), (b, other) in combinations(zip(names, boxes, strict=True), 2)
            if box.overlaps(other)
        ]
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *names):
            box = Text.get_window_extent(text)
            if text.get_text() and not (
                box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            ):
                found.append(f"{where}: {text.get_text()!r} leaves the figure")
    return found


def _marked(axes: Axes) -> Iterator[tuple[float, float]]:
    """Points that are drawn as markers, as shares of the panel's width and height; caps of intervals are none."""
    from matplotlib.collections import PathCollection

    clouds = [
        line.get_xydata()
        for line in axes.lines
        if line.get_marker() not in ("None", None, "", " ", 0, 1, 2, 3, "|", "_")
    ]
    clouds += [cloud.get_offsets() for cloud in axes.collections if isinstance(cloud, PathCollection)]
    for cloud in clouds:
        points = np.ma.filled(np.ma.asarray(cloud, dtype=np.float64), np.nan).reshape(-1, 2)
        points = points[np.isfinite(points).all(axis=1)]
        yield from axes.transAxes.inverted().transform(axes.transData.transform(points)).tolist() if len(points) else ()


FORMATS = {"png": {"Software": ""}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Formats of a figure, and what of their metadata would differ from run to run."""
MOST_POINTS = 500
"""Points above which a cloud is one picture inside a vector file."""


def save_figure(figure: Figure, path: Path) -> Path:
    """Write ``figure`` to ``path`` (PNG), and as SVG and PDF beside it; as :func:`mcdo.report.files.written`.

    Titles hold names from outside: a dollar in one starts no formula, and a letter that the font lacks is a box and a
    warning, never an error.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for text in _texts(figure):
        said = text.get_text()
        if "$" in said and not said.startswith("$\\mathdefault"):  # which powers of ten on a logarithmic axis are
            text.set_parse_math(False)
        text.set_text(printable(said, kept="\n"))

    for cloud in figure.findobj(lambda artist: _points(artist) > MOST_POINTS):
        cloud.set_rasterized(True)

    def draw(part: Path) -> None:
        form = part.suffix[1:]
        FigureCanvasAgg(figure).print_figure(part, format=form, dpi=120, bbox_inches="tight", metadata=FORMATS[form])

    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "mcdo"}):
        warnings.simplefilter("default")
        first, *_ = [written(path.with_suffix(f".{form}"), draw) for form in FORMATS]
        return first


def _points(artist: Artist) -> int:
    if hasattr(artist, "get_xydata"):
        return len(artist.get_xydata())
    return len(artist.get_offsets()) if hasattr(artist, "get_offsets") else 0


def _texts(figure: Figure) -> list[Text]:
    from matplotlib.text import Text

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_majorticklabels()]  # which are made when they are asked for
        shown = [printable(label) for label in labels]
        if shown != labels:
            axis.set_ticks(axis.get_majorticklocs(), shown)
    return list(figure.findobj(Text))
