"""The figure of the recipe: depth × role, what is raised, and how much better the choice looks where it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcdo.experiments.prelim.damage import PASS_BAR
from mcdo.experiments.recipe.choice import CHOSEN_ON, OVER_ALL, OVER_TRIVIAL
from mcdo.experiments.recipe.result import RecipeResult
from mcdo.experiments.recipe.table import linearity_map, raised_map
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAPPED = ("trace_post", "trace_pre")
"""Scores whose maps are drawn."""


def drawn(result: RecipeResult) -> Sequence[Panel]:
    """Depth × role under two scores, and how straight; what is raised; gains beside their optimism."""

    def maps(score: str) -> Panel:
        return lambda axes: raised_map(axes, result.maps[score], result.tower, score)

    def raised(axes: Axes) -> None:
        names = [*scopes_of(result), *result.chosen_on]
        series = {
            name: {scope: e for (of, scope), e in result.reported.shares.items() if of == name and scope in names}
            for name in ("chosen", OVER_ALL, OVER_TRIVIAL)
        }
        series["chosen, by passes"] = {
            scope: e for (of, scope), e in result.confirmation.shares.items() if of == "chosen" and scope in names
        }
        interval_panel(axes, series, PASS_BAR, "share of images raised, reporting half [95 %]")

    def gains(axes: Axes) -> None:
        for over in (OVER_ALL, OVER_TRIVIAL):
            inside = result.reported.inside[over]
            axes.plot(
                [0, 1], [inside, result.reported.gains[over, CHOSEN_ON].estimate.value], "D-", label=f"over {over}"
            )
        for each in result.resplits:
            axes.plot([0, 1], [each.inside, each.outside], color="grey", alpha=0.4, linewidth=0.8)
        axes.axhline(0, color="black", linewidth=1)
        axes.set_xticks([0, 1], ["where it was chosen", "on the other half"])
        axes.set_xlim(-0.2, 1.2)
        axes.set_ylabel("gain in the share of images raised")
        axes.set_title("optimism (grey: other halves, over all sites)")
        axes.legend()

    def straight(axes: Axes) -> None:
        linearity_map(axes, result.linearity, result.tower)

    return *map(maps, MAPPED), straight, raised, gains


def scopes_of(result: RecipeResult) -> tuple[str, ...]:
    """Names of the scopes that are reported."""
    return tuple(dict.fromkeys(scope for _, scope in result.reported.gains))
