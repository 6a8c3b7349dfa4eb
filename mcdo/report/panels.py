"""Panels that several figures share: a correlation matrix, and estimates with their intervals beside a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from mcdo.report.figures import LEAST_LETTERS
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FEW_NAMES = 8
"""Names along an axis that have room to stand at a slight angle."""


def correlation_panel(axes: Axes, names: Sequence[str], matrix: ArrayLike, title: str, of: str) -> None:
    """Correlations [M, M] as colours from −1 to 1 with their numbers, and a dash where undefined; ``of`` names an axis.

    One that is corrected for noise may be above 1, and its number says so; its colour is that of 1.
    """
    values = np.asarray(matrix, dtype=np.float64)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        said = f"{value:.2f}" if np.isfinite(value) else "–"
        axes.text(j, i, said, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(title=title, xlabel=of, ylabel=of)
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=axes, shrink=0.8, label="Spearman's ρ")


def interval_panel(
    axes: Axes,
    series: Mapping[str, Mapping[str, Estimate]],
    bar: float | None,
    label: str,
    of: str = "score",
    *,
    joined: bool = False,
) -> None:
    """Estimates by name for one or more series, each with its interval; ``bar`` is drawn as a dashed line.

    A value without interval is a hollow marker that the legend names; an arm without end is an arrow; a name without
    any value is marked as not measured. ``of`` says what the names are; ``joined`` where they have an order that a line
    may follow.
    """
    names = list(dict.fromkeys(name for estimates in series.values() for name in estimates))
    step = 0.6 / len(series)
    bare = False
    for place, (title, estimates) in enumerate(series.items()):
        defined = {name: e for name, e in estimates.items() if np.isfinite(e.value)}
        x = {name: names.index(name) + (place - (len(series) - 1) / 2) * step for name in defined}
        known = {name: e for name, e in defined.items() if e.has_interval}
        # an interval need not hold its own estimate (BCa, disattenuated); a negative arm cannot be drawn
        arms = np.array([[e.value - e.low, e.high - e.value] for e in known.values()]).reshape(-1, 2).T.clip(0)
        endless = np.isinf(arms)
        arms[endless] = 2 * arms[~endless].max(initial=0.05)
        drawn = axes.errorbar(
            [x[name] for name in known], [e.value for e in known.values()], yerr=arms, capsize=3, label=title,
            fmt="o-" if joined else "o", uplims=endless[0], lolims=endless[1],
        )  # fmt: skip
        without = [name for name in defined if name not in known]
        axes.plot(
            [x[name] for name in without], [defined[name].value for name in without], "o", fillstyle="none",
            color=drawn.lines[0].get_color(),
        )  # fmt: skip
        bare = bare or bool(without)
    if bare:
        axes.plot([], [], "o", fillstyle="none", color="grey", label="no interval")
    if bar is not None:
        axes.axhline(bar, color="black", linestyle="--", linewidth=1, label=f"bar {bar:g}")
    for place, name in enumerate(names):
        if not any(name in estimates and np.isfinite(estimates[name].value) for estimates in series.values()):
            axes.text(
                place, 0.5, "not measured", rotation=90, ha="center", va="center", fontsize="small", color="grey",
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) <= FEW_NAMES else 60, ha="right")
    axes.set_xlim(-0.5, len(names) - 0.5)  # no point on the frame
    axes.set(xlabel=of, ylabel=label)
    axes.grid(axis="y", alpha=0.3)
    axes.legend()


def band(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str) -> None:
    """A line through ``estimates`` at ``x``, with their intervals as an area: for few lines that cross."""
    (line,) = axes.plot(x, [e.value for e in estimates], marker="o", markersize=4, label=label)
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def ranked_panel(axes: Axes, estimates: Mapping[str, Estimate], bar: float, label: str, of: str = "score") -> None:
    """Many estimates by name, each on a line of its own, the largest on top; ``bar`` is a dashed line.

    A value without interval is a hollow marker, which the legend names.
    """
    ranked = sorted((item for item in estimates.items() if np.isfinite(item[1].value)), key=lambda item: item[1].value)
    known = {place: e for place, (_, e) in enumerate(ranked) if e.has_interval}
    arms = np.array([[e.value - e.low, e.high - e.value] for e in known.values()]).reshape(-1, 2).T.clip(0)
    axes.errorbar([e.value for e in known.values()], list(known), xerr=arms, fmt="o", markersize=4, capsize=2)
    bare = [place for place in range(len(ranked)) if place not in known]
    if bare:
        values = [ranked[place][1].value for place in bare]
        axes.plot(values, bare, "o", markersize=4, fillstyle="none", color="grey", label="no interval")
    axes.axvline(bar, color="black", linestyle="--", linewidth=1, label=f"bar {bar:g}")
    if not ranked:
        axes.text(0.5, 0.5, "not measured", ha="center", color="grey", transform=axes.transAxes)
    axes.legend()
    size = min(9.0, max(LEAST_LETTERS, 260 / max(1, len(ranked))))
    axes.set_yticks(range(len(ranked)), [name for name, _ in ranked], fontsize=size)
    axes.set_ylim(-0.5, max(1, len(ranked)) - 0.5)
    axes.set(xlabel=label, ylabel=of)
    axes.grid(axis="x", alpha=0.3)
