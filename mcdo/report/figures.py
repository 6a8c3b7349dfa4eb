"""How figures are drawn and written: panels in rows, no global state, the same bytes for the same data."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mcdo.names import printable
from mcdo.report.files import written
from mcdo.store.fingerprint import code_fingerprint

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.container import Container, ErrorbarContainer
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Text
    from matplotlib.typing import ColorType

Panel = Callable[["Axes"], None]
"""Draws one panel on the axes it is given."""

PANEL_SIZE = (5.6, 5.0)
"""Inches, of one of two beside each other; of more, all are as wide together."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of lines and points, beside black and greys: told apart with any colour vision (Okabe and Ito 2008)."""
LINES = ("-", "--", "-.")
"""Of the first lines that have all colours, of the next, …"""
LEAST_LETTERS = 8.0
"""Points of the smallest text."""
TITLE_LETTERS = 56
"""Letters of a figure's title above one panel."""
LEGEND_LETTERS = 72
"""Letters of a legend's text that stand beside each other below a panel."""
AXIS_LETTERS = 38
"""Letters of a vertical axis' label that stand beside each other along a panel."""
FEW_LINES = 4
"""Lines that are named at their ends; of more, a legend says which is which."""
NAME_LETTERS, NAME_LINES = 18, 3
"""Of a line's name at its end."""
NAME_HEIGHT = 0.045
"""Of one line of such a name, as a share of the height of one of two panels beside each other."""
ON_FRAME = 0.003
"""Share of a panel's width or height nearer than which to its edge a point is half hidden."""


def draw(panels: Sequence[Panel], title: str, columns: int = 2) -> Figure:
    """``panels`` in rows of at most ``columns`` (at least two), under ``title``.

    Few lines are named where they end, beside the panel; other names are in a legend below it, off the data.
    """
    from matplotlib.figure import Figure  # half a second that only those who draw should wait

    rows = math.ceil(len(panels) / columns)
    across = min(columns, len(panels))
    width, height = (2 / columns * side for side in PANEL_SIZE)
    figure = Figure(figsize=(width * across, height * rows), layout="constrained")
    figure.suptitle(_filled(title, int(TITLE_LETTERS * across * 2 / columns)))
    places = figure.subfigures(rows, across, squeeze=False).ravel()
    with _style():
        for panel, place in zip(panels, places, strict=False):
            axes = place.subplots()
            panel(axes)
            for each in place.axes:
                each.set_xlabel(_filled(each.get_xlabel(), AXIS_LETTERS + 10))
                each.set_ylabel(_filled(each.get_ylabel(), AXIS_LETTERS))
            _name(axes, place, NAME_HEIGHT * columns / 2)
    return figure


def _style() -> AbstractContextManager[None]:
    """In which figures are made and drawn: ``"C1"`` is looked up when it is drawn."""
    from cycler import cycler
    from matplotlib import rc_context

    return rc_context({"axes.prop_cycle": cycler(linestyle=LINES) * cycler(color=PALETTE), "svg.hashsalt": "mcdo"})


def _filled(text: str, letters: int) -> str:
    """``text`` in lines of at most ``letters``, short brackets such as [95 %] unbroken."""
    kept = re.sub(r"[(\[][^()\[\]]{1,12}[)\]]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    return "\n".join(textwrap.fill(line, letters, break_long_words=False) for line in kept.splitlines())


def _name(axes: Axes, place: SubFigure, line: float) -> None:
    legend = axes.get_legend()
    if legend is None:
        return
    named = list(zip(*axes.get_legend_handles_labels(), strict=True))
    lines = {label: end for handle, label in named if (end := _end(axes, handle, label)) is not None}
    if len(lines) <= FEW_LINES:
        _name_ends(axes, lines, line)
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
    name = _filled(label, NAME_LETTERS)
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


def _name_ends(axes: Axes, lines: Mapping[str, _End], line: float) -> None:
    """Names beside the panel, in the order of the lines' ends and none over another, each tied to its line.

    ``line`` is the height of one line of a name, as a share of the panel's.
    """
    ordered = sorted(lines.values(), key=lambda end: end.y)
    need = [line * (end.name.count("\n") + 1.4) for end in ordered]
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
    """What a reader could not see, tell apart or read in ``figure``, one phrase for each fault.

    A legend over data, a point on the frame or outside it, an interval or a name over another, an axis without label,
    a colour that is not of :data:`PALETTE`, two lines that look the same, and text that is small or leaves the figure.
    """
    from matplotlib.text import Text

    with _style():
        figure.draw_without_rendering()
    found = []
    for axes in figure.axes:
        where = repr(axes.get_title() or axes.get_ylabel() or axes.get_xlabel())
        names = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
        if axes.get_legend() is not None:
            found.append(f"{where}: a legend lies on the data")
        for x, y in _marked(axes):
            if not (ON_FRAME < x < 1 - ON_FRAME and ON_FRAME < y < 1 - ON_FRAME):
                found.append(f"{where}: a point lies on the frame, at {x:.3f} and {y:.3f} of it")
        found += [f"{where}: {a!r} lies over {b!r}" for a, b in _crowded(axes, names)]
        found += [f"{where}: intervals of {a!r} and {b!r} lie on each other" for a, b in _on_each_other(axes)]
        if axes.get_label() != "<colorbar>":
            found += [f"{where}: its {a} axis has no label" for a in "xy" if not getattr(axes, f"get_{a}label")()]
        found += [f"{where}: the colour {colour} is none of the palette" for colour in sorted(_foreign_colours(axes))]
        found += [f"{where}: {a!r} and {b!r} look the same" for a, b in _alike(axes)]
    for text in _read(figure):
        said, box = text.get_text(), Text.get_window_extent(text)
        if (size := float(text.get_fontsize())) < LEAST_LETTERS:
            found.append(f"{said!r} is written in {size:.1f} points")
        if not (box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1):
            found.append(f"{said!r} leaves the figure")
    return found


def _read(figure: Figure) -> Iterator[Text]:
    """Every text that is seen; ticks beyond the ends of their axis are not."""
    legends = [text for place in (figure, *figure.subfigs) for legend in place.legends for text in legend.get_texts()]
    found = [*figure.texts, *legends]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        found += [label for axis in (axes.xaxis, axes.yaxis) for _, label in _ticks(axis)]
    return (text for text in found if text.get_text().strip())


def _ticks(axis: Axis) -> list[tuple[float, Text]]:
    """Places and labels along an axis, of those that are seen."""
    low, high = sorted(axis.get_view_interval())
    every = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
    return [(float(place), label) for place, label in every if low <= place <= high and label.get_text()]


def _crowded(axes: Axes, names: Sequence[Text]) -> Iterator[tuple[str, str]]:
    """Names of lines, and neighbouring labels along an axis, of which one lies over the other."""
    from matplotlib.text import Text

    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in names]  # without their arrows
    yield from ((a, b) for (a, box), (b, other) in combinations(boxes, 2) if box.overlaps(other))
    for axis, across in ((axes.xaxis, 0), (axes.yaxis, 1)):
        for (here, a), (there, b) in pairwise(_ticks(axis)):
            gap = abs(np.diff(axes.transData.transform([(here, here), (there, there)])[:, across])[0])
            turned = math.radians(a.get_rotation()) + (math.pi / 2 if across else 0.0)
            height = float(a.get_fontsize()) * axes.figure.dpi / 72
            beside = gap * abs(math.cos(turned)) >= (_length(a) + _length(b)) / 2
            if not beside and gap * abs(math.sin(turned)) < 0.8 * height:
                yield a.get_text(), b.get_text()


def _length(label: Text) -> float:
    """Of a label along the direction in which it is written, in pixels."""
    turned, box = math.radians(label.get_rotation()), label.get_window_extent()
    ends = ((box.width, abs(math.cos(turned))), (box.height, abs(math.sin(turned))))
    return float(min(extent / part for extent, part in ends if part > 0.1))


def _on_each_other(axes: Axes) -> Iterator[tuple[str, str]]:
    """Series whose intervals cannot be told apart, because they stand at the same place."""
    from matplotlib.container import ErrorbarContainer

    found = [box for box in axes.containers if isinstance(box, ErrorbarContainer)]
    series = [(str(box.get_label()), list(_segments(axes, box))) for box in found]
    for (one, mine), (other, its) in combinations(series, 2):
        if any(_cover(a, b) for a in mine for b in its):
            yield one, other


def _segments(axes: Axes, series: ErrorbarContainer) -> Iterator[NDArray[np.float64]]:
    """Each interval's ends in pixels, [2, 2]."""
    for bars in series.lines[2]:
        for segment in bars.get_segments():
            ends = axes.transData.transform(segment)
            if len(ends) == 2 and np.isfinite(ends).all():
                yield ends


def _cover(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Whether two upright or two level intervals share a line and a stretch of it."""
    for across, along in ((0, 1), (1, 0)):
        if np.ptp(a[:, across]) < 1 and np.ptp(b[:, across]) < 1 and abs(a[0, across] - b[0, across]) < 1:
            return bool(min(a[:, along].max(), b[:, along].max()) - max(a[:, along].min(), b[:, along].min()) > 1)
    return False


def _alike(axes: Axes) -> Iterator[tuple[str, str]]:
    """Labels of joined points that have one colour, one kind of line and one marker."""
    from matplotlib.colors import to_hex
    from matplotlib.container import ErrorbarContainer
    from matplotlib.lines import Line2D

    seen: dict[tuple[str, ...], str] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        if isinstance(line, Line2D) and line.get_linestyle() not in ("None", "", " "):
            look = to_hex(line.get_color()), str(line.get_linestyle()), str(line.get_marker())
            if (before := seen.setdefault(look, label)) != label:
                yield before, label


def _foreign_colours(axes: Axes) -> set[str]:
    """Colours of lines, points and areas that are neither of the palette nor grey; those of a scale are left out."""
    from matplotlib.colors import to_hex, to_rgb

    used: list[ColorType] = [colour for line in axes.lines for colour in (line.get_color(), line.get_markerfacecolor())]
    for group in axes.collections:
        if group.get_array() is None:
            used += [*group.get_facecolor(), *group.get_edgecolor()]
    used += [patch.get_facecolor() for patch in axes.patches]
    known = {colour.lower() for colour in PALETTE}
    with _style():
        shown = {to_hex(colour) for colour in used if not (isinstance(colour, str) and colour == "none")}
    return {colour for colour in shown if colour not in known and len(set(to_rgb(colour))) > 1}


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


FORMATS: Mapping[str, dict[str, str | None]] = {
    "png": {"Software": ""},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Formats of a figure, and what of their metadata would differ from run to run."""
DPI = 120
MARGIN = 0.1
"""Inches around what is drawn."""
MOST_POINTS = 500
"""Points above which a cloud is one picture inside a vector file."""
DRAWN, FAULTS = "Drawn from", "Faults"
"""Fields of a PNG that say of which figure it is, and what :func:`faults` that has."""


def save_figure(figure: Figure, path: Path, formats: Sequence[str] = tuple(FORMATS)) -> Path:
    """Write ``figure`` to ``path`` (PNG), and other ``formats`` beside it; as :func:`mcdo.report.files.written`.

    Titles hold names from outside: a dollar in one starts no formula, and a letter that the font lacks is a box and a
    warning, never an error. Files that were drawn from an equal figure are left as they are: drawing takes longer than
    most of what is drawn.
    """
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
        metadata = FORMATS[form] | ({DRAWN: drawn, FAULTS: found} if form == "png" else {})
        canvas.print_figure(part, format=form, dpi=DPI, bbox_inches=shown, metadata=metadata)

    with warnings.catch_warnings(), _style():
        warnings.simplefilter("default")
        figure.set_dpi(DPI)
        drawn = _identity(figure, formats)
        files = {form: path.with_suffix(f".{form}") for form in formats}
        if drawn and _said(files["png"], DRAWN) == drawn and all(file.is_file() for file in files.values()):
            return files["png"]
        canvas = FigureCanvasAgg(figure)
        _arrange(figure)  # once for all formats: it takes longer than drawing
        found = json.dumps(faults(figure))
        shown = figure.get_tightbbox().padded(MARGIN)
        *_, first = [written(files[form], draw) for form in reversed(formats)]  # last the PNG, which vouches for all
        return first


def _identity(figure: Figure, formats: Sequence[str]) -> str:
    """Digest of all that decides the files of a figure; "" of one that holds what cannot be told."""
    import matplotlib
    from matplotlib.font_manager import fontManager
    from matplotlib.transforms import TransformNode

    class Pickler(pickle.Pickler):
        def reducer_override(self, held: Any) -> Any:
            if not isinstance(held, TransformNode):
                return NotImplemented
            made: Any = held.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            state = made[2] | {"_parents": list(made[2]["_parents"].values())}  # which are known by their addresses
            return *made[:2], state, *made[3:]

    stream = io.BytesIO()
    try:
        Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(figure)  # which nothing ever loads
    except (AttributeError, KeyError, TypeError, ValueError, pickle.PicklingError):  # a function without a name, say
        return ""
    settings = sorted(map(repr, matplotlib.rcParams.items()))
    fonts = sorted((font.name, font.fname) for font in fontManager.ttflist)
    by = [matplotlib.__version__, code_fingerprint(__name__, "mcdo.names"), settings, fonts, list(formats)]
    return hashlib.sha256(stream.getvalue() + json.dumps(by).encode()).hexdigest()


def known_faults(png: Path) -> list[str]:
    """The :func:`faults` of the figure that :func:`save_figure` wrote there."""
    said = _said(png, FAULTS)
    return list(json.loads(said)) if said else [f"{png.name} is no whole picture"]


def _said(png: Path, field: str) -> str:
    """What a whole PNG says in a field; "" of any other file, or none."""
    from PIL import Image

    try:
        with Image.open(png, formats=["PNG"]) as image:
            image.load()
            return str(image.info.get(field, ""))
    except (OSError, SyntaxError, ValueError):  # Pillow's words for what is no picture
        return ""


def _arrange(figure: Figure) -> None:
    """Give everything its place, for good: what is drawn from then on is not arranged again."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


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
