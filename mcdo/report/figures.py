"""How figures are written: whole or not at all, without pyplot's global state, and the same bytes for the same data."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write ``figure`` as PNG to ``path``, whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    FigureCanvasAgg(figure).print_figure(part, format="png", dpi=120, bbox_inches="tight", metadata={"Software": ""})
    part.replace(path)
    return path
