"""How figures are drawn and written: panels in rows, no global state, the same bytes for the same data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mcdo.names import printable
from mcdo.report.files import written

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Text

Panel = Callable[["Axes"], None]
"""Draws one panel on the axes it is given."""

PANEL_SIZE = (5.6, 5.0)
"""Inches."""
LEGEND_LETTERS = 72
"""Letters of a legend's text that stand beside each other below a panel."""


def draw(panels: Sequence[Panel], title: str, columns: int = 3) -> Figure:
    """``panels`` in rows of at most ``columns``, under ``title``; each panel's legend stands below it, off the data."""
    from matplotlib.figure import Figure  # half a second that only those who draw should wait

    rows = math.ceil(len(panels) / columns)
    across = min(columns, len(panels))
    figure = Figure(figsize=(PANEL_SIZE[0] * across, PANEL_SIZE[1] * rows), layout="constrained")
    figure.suptitle(title)
    places = figure.subfigures(rows, across, squeeze=False).ravel()
    for panel, place in zip(panels, places, strict=False):
        axes = place.subplots()
        panel(axes)
        _put_legend_below(axes, place)
    return figure


def _put_legend_below(axes: Axes, place: SubFigure) -> None:
    legend = axes.get_legend()
    if legend is None:
        return
    handles, labels = axes.get_legend_handles_labels()
    legend.remove()
    widest = max(map(len, labels), default=1)
    place.legend(
        handles, labels, loc="outside lower center", ncols=max(1, min(len(labels), LEGEND_LETTERS // (widest + 6))),
        fontsize="small", title=legend.get_title().get_text() or None,
    )  # fmt: skip


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
