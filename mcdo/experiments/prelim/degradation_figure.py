"""The figure of the degradation test: for each family the share of images more uncertain, and the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.prelim.damage import JUDGED, PASS_BAR, WEAK_BAR, DegradationResult
from mcdo.images.degradations import FAMILIES
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BESIDE = 0.012
"""Distance of two series' points that belong together, as a share of the axis."""


def draw_shares(axes: Axes, result: DegradationResult, family: str) -> None:
    """Over severity, with the two bars; entropy, which is free, and independent masks beside."""
    levels = result.levels(family).values()
    names = [name for of, name in result.curves if of == family]
    severities = [damage.native for damage in levels]
    shares = {name: [damage.increase[name].fraction for damage in levels] for name in names}
    shares[f"{JUDGED}, independent masks"] = [damage.independent[JUDGED].fraction for damage in levels]
    for x, (name, fractions) in zip(_beside(severities, len(shares)), shares.items(), strict=True):
        _draw(axes, x, fractions, name, "o-" if name in names else "s:")
    for bar in (PASS_BAR, WEAK_BAR):
        axes.axhline(bar, color="black", linestyle="--", linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of images more uncertain [95 %]")
    axes.set_title(f"{family} (bars: {PASS_BAR:.0%} pass, {WEAK_BAR:.0%} weak)")
    _finish(axes, family)


def draw_curves(axes: Axes, result: DegradationResult, family: str) -> None:
    """Mean scores relative to the clean images, and the isotonic fit."""
    levels = result.levels(family).values()
    names = list(next(iter(levels)).independent)
    for x, name in zip(_beside([damage.native for damage in levels], len(names)), names, strict=True):
        response = result.curves[family, name].response
        change = [damage.increase[name].relative_change for damage in levels]
        times = [replace(e, value=1 + e.value, low=1 + e.low, high=1 + e.high) for e in change]
        _draw(axes, x, times, f"{name}: {response.shape}", "o")
        fitted = [e.value / response.measured[0].value for e in response.fitted]
        axes.plot(response.severities, fitted, color=axes.lines[-1].get_color())
    axes.set_title(f"{family}: response (lines: monotone fit)")
    axes.set_ylabel("mean score / mean clean score [95 %, paired]")
    _finish(axes, family)


def _beside(x: Sequence[float], series: int) -> Sequence[NDArray[np.float64]]:
    """Places for the points of each series, side by side, so that no interval lies on another."""
    step = BESIDE * (max(x) - min(x) or 1.0)
    return [np.asarray(x) + (place - (series - 1) / 2) * step for place in range(series)]


def _draw(axes: Axes, x: NDArray[np.float64], estimates: Sequence[Estimate], label: str, style: str) -> None:
    arms = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T.clip(0)
    axes.errorbar(x, [e.value for e in estimates], yerr=arms, fmt=style, capsize=2, markersize=4, label=label)


def _finish(axes: Axes, family: str) -> None:
    axes.set_xlabel(f"severity: {FAMILIES[family].unit}" + (" − 1" if family == "down" else ""))
    axes.legend()
