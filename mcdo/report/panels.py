"""Panels that several figures share: a correlation matrix, and estimates with their intervals beside a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def correlation_panel(axes: Axes, names: Sequence[str], matrix: ArrayLike, title: str) -> None:
    """Correlations [M, M] as colours from −1 to 1 with their numbers; what is undefined is left blank."""
    values = np.asarray(matrix, dtype=np.float64)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title)
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=axes, shrink=0.8, label="Spearman's ρ")


def interval_panel(axes: Axes, series: Mapping[str, Mapping[str, Estimate]], bar: float | None, label: str) -> None:
    """Estimates by name for one or more series, each with its interval; ``bar`` is drawn as a dashed line."""
    names = list(dict.fromkeys(name for estimates in series.values() for name in estimates))
    step = 0.6 / len(series)
    for place, (title, estimates) in enumerate(series.items()):
        known = {name: e for name, e in estimates.items() if np.isfinite(e.value)}
        x = [names.index(name) + (place - (len(series) - 1) / 2) * step for name in known]
        middle = [e.value for e in known.values()]
        # an interval need not hold its own estimate (BCa, disattenuated); a negative arm cannot be drawn
        arms = np.array([[e.value - e.low, e.high - e.value] for e in known.values()]).reshape(-1, 2).T.clip(0)
        axes.errorbar(x, middle, yerr=np.nan_to_num(arms, posinf=0), fmt="o", capsize=3, label=title)
    if bar is not None:
        axes.axhline(bar, color="black", linestyle="--", linewidth=1, label=f"bar {bar:g}")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_ylabel(label)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
