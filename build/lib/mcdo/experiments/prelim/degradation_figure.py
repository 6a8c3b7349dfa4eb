"""The figure of the degradation test: for each family the share of images more uncertain, and the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mcdo.experiments.prelim.damage import JUDGED, PASS_BAR, WEAK_BAR, DegradationResult
from mcdo.images.degradations import FAMILIES
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_shares(axes: Axes, result: DegradationResult, family: str) -> None:
    """Over severity, with the two bars; entropy, which is free, and independent masks beside."""
    levels = result.levels(family).values()
    names = [name for of, name in result.curves if of == family]
    severities = [damage.native for damage in levels]
    for name in names:
        _draw(axes, severities, [damage.increase[name].fraction for damage in levels], name, "o-")
    independent = [damage.independent[JUDGED].fraction for damage in levels]
    _draw(axes, severities, independent, f"{JUDGED}, independent masks", "s:")
    for bar in (PASS_BAR, WEAK_BAR):
        axes.axhline(bar, color="black", linestyle="--", linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("share of images more uncertain [95 %]")
    axes.set_title(f"{family} (bars: {PASS_BAR:.0%} pass, {WEAK_BAR:.0%} weak)")
    _finish(axes, family)


def draw_curves(axes: Axes, result: DegradationResult, family: str) -> None:
    """Mean scores relative to the clean images, and the isotonic fit."""
    levels = result.levels(family).values()
    for name in next(iter(levels)).independent:
        response = result.curves[family, name].response
        change = [damage.increase[name].relative_change for damage in levels]
        times = [replace(e, value=1 + e.value, low=1 + e.low, high=1 + e.high) for e in change]
        _draw(axes, [damage.native for damage in levels], times, f"{name}: {response.shape}", "o")
        fitted = [e.value / response.measured[0].value for e in response.fitted]
        axes.plot(response.severities, fitted, color=axes.lines[-1].get_color())
    axes.set_title(f"{family}: response")
    axes.set_ylabel("mean score / mean clean score [95 %, paired]")
    _finish(axes, family)


def _draw(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, style: str) -> None:
    arms = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T.clip(0)
    axes.errorbar(x, [e.value for e in estimates], yerr=arms, fmt=style, capsize=2, markersize=4, label=label)


def _finish(axes: Axes, family: str) -> None:
    axes.set_xlabel(f"severity: {FAMILIES[family].unit}" + (" − 1" if family == "down" else ""))
    axes.legend(fontsize=7)
