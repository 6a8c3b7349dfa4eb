"""What the recipe experiment found of one encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcdo.experiments.recipe.choice import OVER_ALL, Reported, Resplit, frequencies
from mcdo.experiments.recipe.confirmation import Confirmation
from mcdo.experiments.recipe.halves import Half
from mcdo.experiments.recipe.sites import Tower
from mcdo.experiments.recipe.table import Map
from mcdo.harness.linearity import SiteLinearity
from mcdo.stats import Agreement, Estimate, Reliability


@dataclass(frozen=True, eq=False)
class RecipeResult:
    """A map, a choice, and what is left of it.

    Attributes:
        tower: its sites.
        maps: by score.
        p: at which the choice was judged; None where first order may not rank, so that passes judged.
        domains: first order beside passes at all sites, on the choosing half, by p and score.
        reported: the choice, on the half that chose nothing.
        weights: of the choice, by site.
        reliability: of the choice on that half, at its own cost.
        confirmation: by passes.
        resplits: the choice on other halves.
        null: share of repetitions in which exchanged copies seemed to gain.
        chosen: the scores of the choice, a half of one site: of all images, or of those that the weights of its
            dimensions were not fitted on.
        reporting: the same, of the half that chose nothing.
        chosen_on: degradations that the choice saw.
        linearity: of each site alone, at the session's p, in forward order.
        weighed: whether scores with weights of dimensions were candidates; a few images give no such weights.
        unread: why the map has no ρ with entropy, or "".

    """

    tower: Tower
    maps: Mapping[str, Map]
    p: float | None
    domains: Mapping[float, Mapping[str, Agreement]]
    reported: Reported
    weights: Mapping[str, float]
    reliability: Reliability
    confirmation: Confirmation
    resplits: Sequence[Resplit]
    null: Estimate
    chosen: Half
    reporting: Half
    chosen_on: tuple[str, ...]
    linearity: Mapping[str, SiteLinearity]
    weighed: bool
    unread: str

    @property
    def judge(self) -> str:
        """What ranked the images while it was chosen."""
        return "passes" if self.p is None else "first order"

    def as_dict(self) -> dict[str, Any]:
        reported, choice = self.reported, self.reported.choice
        return {
            "judged_by": self.judge,
            "choice": {
                "sites": choice.name,
                "score": choice.score,
                "weights": dict(self.weights),
                "share_raised_where_chosen": choice.share,
                "lower_end_where_chosen": choice.low,
                "status_where_chosen": choice.status,
                "cost": choice.cost,
            },
            "all_sites_score": reported.every.score,
            "best_trivial": reported.trivial.label,
            "raised": {f"{name}, {scope}": e.as_dict() for (name, scope), e in reported.shares.items()},
            "gains": {f"over {over}, {scope}": d.as_dict() for (over, scope), d in reported.gains.items()},
            "optimism": {over: reported.optimism(over) for over in reported.inside},
            "reliability": self.reliability.as_dict(),
            "other_halves": {
                "chosen": frequencies(f"{each.name}, {each.score}" for each in self.resplits),
                "gain_over_all_inside": _quartiles([each.inside for each in self.resplits]),
                "gain_over_all_outside": _quartiles([each.outside for each in self.resplits]),
                "optimism": _quartiles([each.inside - each.outside for each in self.resplits]),
            },
            "false_gain_rate": self.null.as_dict(),
            "domain_of_all_sites": {
                f"p={p:g}": {score: found.as_dict() for score, found in of.items()} for p, of in self.domains.items()
            },
            "confirmation": self.confirmation.as_dict(),
            "linearity_of_sites": {site: found.as_dict() for site, found in self.linearity.items()},
            "weights_of_dimensions": "candidates"
            if self.weighed
            else "no candidates: too few originals for a variance",
            "no_classes_read": self.unread,
        }

    @property
    def statement(self) -> str:
        """One sentence for a reader of the recipe."""
        choice, gain = self.reported.choice, self.reported.gains[OVER_ALL, "chosen on"]
        return (
            f"{choice.score} at {choice.name}, judged by {self.judge}: it raises "
            f"{self.reported.shares['chosen', 'chosen on'].value:.0%} of images that chose nothing, "
            f"{gain.estimate.value:+.0%} over all sites (p {gain.p_holm:.2g}); by passes "
            f"{self.confirmation.gains['chosen on'].estimate.value:+.0%}"
        )


def _quartiles(values: Sequence[float]) -> list[float]:
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])] if values else []
