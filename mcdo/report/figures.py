"""How figures are drawn and written: panels in rows, no global state, the same bytes for the same data."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes"], None]
"""Draws one panel on the axes it is given."""

PANEL_SIZE = (5.6, 5.0)
"""Inches."""


def draw(panels: Sequence[Panel], title: str, columns: int = 3) -> Figure:
    """``panels`` in rows of at most ``columns``, under ``title``."""
    from matplotlib.figure import Figure  # half a second that only those who draw should wait

    rows = math.ceil(len(panels) / columns)
    across = min(columns, len(panels))
    figure = Figure(figsize=(PANEL_SIZE[0] * across, PANEL_SIZE[1] * rows), layout="constrained")
    figure.suptitle(title)
    places = figure.subplots(rows, across, squeeze=False).ravel()
    for panel, axes in zip(panels, places, strict=False):
        panel(axes)
    for axes in places[len(panels) :]:
        axes.remove()
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG to ``path``, whose folders are made."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    FigureCanvasAgg(figure).print_figure(part, format="png", dpi=120, bbox_inches="tight", metadata={"Software": ""})
    part.replace(path)
    return path
