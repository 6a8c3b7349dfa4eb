"""Exp0, first order: is the cheap estimator reliable, and does it say here what Monte Carlo dropout would say?

Its reliability over trials says how well few random probes rank the images. That alone would be no merit: an estimator
may be reliable and estimate something else. So Monte Carlo on a subset states the validity domain, for the score and
the *sites* that are asked for: of the session's sites by p, and of each group of sites alone. Ranking and level are two
statements, and the ranking decides whether first order takes part in the verdict. Which sites are to blame for the
level says each site alone, by passes beside the linear part of the same masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.phase1.exp0_nested_mc import SPACES
from mcdo.harness import Claim, Experiment, Files, FirstOrder, Images, Inputs, Outcome, Passes, Request, View
from mcdo.harness.linearity import LinearityOfSites, SiteLinearity, breaking
from mcdo.harness.requests import EXACT_UP_TO
from mcdo.perturbation import GROUPS, find_sites
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    LEVEL_BAND,
    RANKING_BAR,
    THRESHOLDS,
    Agreement,
    Estimate,
    Reliability,
    agreement,
    compared_scores,
    rank_matrix,
    reliability,
)
from mcdo.stats.trials import few_trials

DOMAIN_SCORES = compared_scores()
"""Compared with Monte Carlo; of the first two it is claimed that they agree."""


@dataclass(frozen=True)
class FirstOrderResult:
    """Reliability, and where first order may stand for Monte Carlo.

    Attributes:
        reliability: by number of probes R, then by space.
        gain: by space, mean rank correlation between two trials at the largest R less at the smallest.
        domain: at the session's sites, by p, then by score.
        groups: of each group of sites alone, at the session's p, by group, then by score.
        sites: of each site alone, at the session's p, in forward order.

    """

    reliability: Mapping[int, Mapping[str, Reliability]]
    gain: Mapping[str, Estimate]
    domain: Mapping[float, Mapping[str, Agreement]]
    groups: Mapping[str, Mapping[str, Agreement]]
    sites: Mapping[str, SiteLinearity]

    def ranks(self, score: str, p: float) -> Outcome:
        """Whether first order ranks images as Monte Carlo does at the session's sites."""
        return self.domain[p][score].ranking


@dataclass(frozen=True)
class FirstOrderReliability(Experiment[FirstOrderResult]):
    """N images, K trials, R probes; the domain on ``subset`` images with T passes in ``domain_trials`` trials."""

    key = "exp0_first_order"
    name = "exp0_first_order"
    phase = "phase1"
    is_gate = True
    about_estimator = "first_order"
    files = Files(
        summary="{}/exp0_summary.json",
        overall="exp0_first_order_summary.json",
        figure="{}/exp0_first_order.png",
    )
    quick = {
        **{"n": 120, "trials": 5, "subset": 60, "passes": 64, "domain_p": (0.01, 0.05)},
        **{"site_images": 10, "site_passes": 16},
    }
    sized = {**Experiment.sized, "subset": "images_at_most"}

    n: int = 500
    probes: tuple[int, ...] = (2, 4, 8)
    trials: int = 10
    subset: int = 100
    passes: int = 256
    domain_trials: int = 5
    domain_p: tuple[float, ...] = (0.001, 0.01, 0.05)
    site_images: int = 20
    site_passes: int = 32

    @property
    def all_p(self) -> tuple[float, ...]:
        return tuple(sorted({*self.domain_p, self.dropout.p}))

    def at(self, model: str, probes: int) -> FirstOrder:
        return FirstOrder(model, Images(self.n), self.dropout, probes, self.trials, self.seed)

    def reference(self, about: View) -> FirstOrder:
        """First order on the subset: all probes where that is affordable, else many in several trials."""
        shown = Images(self.subset)
        return FirstOrder.exact_or(EXACT_UP_TO, self.domain_trials, about, shown, self.dropout, self.seed)

    def monte_carlo(self, model: str, p: float, group: str | None = None) -> Passes:
        """Monte Carlo on the subset at one p, of the session's sites or of one group of them."""
        kind = self.dropout if group is None else self.dropout.at(group)
        protocol = MonteCarloConfig(kind.with_p(p), (self.passes,), self.domain_trials, self.seed)
        return Passes(model, Images(self.subset), protocol)

    def obstacles(self, about: View) -> Iterable[str]:
        """Too few trials: all images of one share its probes."""
        return few_trials(self.trials, "leave first order out by --estimator=mc")

    def requests(self, about: View) -> Iterable[Request[Any]]:
        model = about.model
        return (
            *(self.at(model, probes) for probes in self.probes),
            self.reference(about),
            *(self.monte_carlo(model, p) for p in self.all_p),
        )

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        """Groups of sites alone, those that the tower has, and each site; a choice of sites is a group of its own."""
        groups = (self.monte_carlo(inputs.model, self.dropout.p, group) for group in self._groups_of(inputs))
        sites = (site for site, _ in inputs[self.reference(inputs)].sites)
        return [*groups, *self.linearity(inputs.model).requests(sites)]

    def foreseen(self, about: View) -> Iterable[Request[Any]]:
        """The groups of the tower's sites, and both runs at each site."""
        model, sites = about.model, find_sites(about.encoder()).select_for(self.dropout)
        groups = self._groups([site.role.value for site in sites])
        at_sites = self.linearity(model).requests(site.name for site in sites)
        return [*(self.monte_carlo(model, self.dropout.p, group) for group in groups), *at_sites]

    def linearity(self, model: str) -> LinearityOfSites:
        return LinearityOfSites(model, self.dropout, min(self.site_images, self.subset), self.site_passes, self.seed)

    def _groups_of(self, inputs: Inputs) -> tuple[str, ...]:
        return self._groups(inputs[self.reference(inputs)].roles)

    def _groups(self, of_sites: Sequence[str]) -> tuple[str, ...]:
        """Groups of sites of these roles, and the roles, in forward order."""
        if self.dropout.sites != "all":
            return ()
        roles = set(of_sites)
        shorthands = {name: {role.value for role in of} & roles for name, of in GROUPS.items()}
        named = [name for name, of in shorthands.items() if of and of != roles and of not in ({each} for each in roles)]
        return (*named, *dict.fromkeys(of_sites))

    def compute(self, inputs: Inputs) -> FirstOrderResult:
        model, seed = inputs.model, self.seed
        runs = {probes: inputs[self.at(model, probes)] for probes in self.probes}
        linear = inputs[self.reference(inputs)]

        def compared(request: Passes, sites: list[str] | None) -> dict[str, Agreement]:
            run, p = inputs[request], request.config.dropout.p

            def of(score: str) -> Agreement:
                others = linear.scores(score, p, sites)
                return agreement(
                    run.scores(score),
                    others,
                    origins=run.origins,
                    shared_noise=len(others) > 1,
                    seed=seed,
                    resamples=500,
                )

            return {score: of(score) for score in DOMAIN_SCORES}

        def gain(score: str) -> Estimate:
            ends = {str(probes): runs[probes].scores(score) for probes in (self.probes[0], self.probes[-1])}
            matrix = rank_matrix(ends, origins=origins, shared_noise=True, seed=seed)
            return next(iter(matrix.reliability_difference.values())).estimate

        origins = runs[self.probes[0]].origins
        return FirstOrderResult(
            reliability={
                probes: {
                    space: reliability(run.scores(score), origins=run.origins, shared_noise=True, seed=seed)
                    for space, score in SPACES.items()
                }
                for probes, run in runs.items()
            },
            gain={space: gain(score) for space, score in SPACES.items()},
            domain={p: compared(self.monte_carlo(model, p), None) for p in self.all_p},
            groups={
                group: compared(self.monte_carlo(model, self.dropout.p, group), _roles(group, linear.roles))
                for group in self._groups_of(inputs)
            },
            sites=self.linearity(model).of(inputs, linear),
        )

    def claims(self) -> Sequence[Claim[FirstOrderResult]]:
        p, most = self.dropout.p, self.probes[-1]
        low, high = LEVEL_BAND
        return [
            *(
                Claim(
                    f"domain_ranking/{score}",
                    lambda r, score=score: r.domain[p][score].corrected,  # type: ignore[misc]
                    at_least=RANKING_BAR,
                    beside=lambda r, score=score: f"raw {r.domain[p][score].spearman}",  # type: ignore[misc]
                )
                for score in SPACES.values()
            ),
            *(
                Claim(
                    f"domain_level/{score}",
                    lambda r, score=score: r.domain[p][score].ratio,  # type: ignore[misc]
                    within=(low, high),
                    beside=_about_level,
                )
                for score in SPACES.values()
            ),
            *(
                Claim(
                    f"usable/{score}",
                    lambda r, space=space: r.reliability[most][space].estimate("spearman"),  # type: ignore[misc]
                    at_least=THRESHOLDS.usable_spearman,
                    beside=lambda r, space=space: f"{most} probes, status {r.reliability[most][space].status}",  # type: ignore[misc]
                )
                for space, score in SPACES.items()
            ),
            *(
                Claim(f"more_probes_less_noise/{score}", lambda r, space=space: r.gain[space], above=0.0)  # type: ignore[misc]
                for space, score in SPACES.items()
            ),
        ]

    def summary(self, result: FirstOrderResult) -> Mapping[str, Any]:
        table = {f"R={n}": by for n, by in result.reliability.items()}
        return {
            "results": table,
            "gain_in_spearman": result.gain,
            "domain": {f"p={p:g}": by for p, by in result.domain.items()},
            "domain_of_sites": result.groups,
            "linearity_of_sites": result.sites,
            "bars": {"ranking": RANKING_BAR, "level": list(LEVEL_BAND)},
        }

    def overall(self, result: FirstOrderResult, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: summary[name] for name in ("results", "domain", "domain_of_sites", "linearity_of_sites")}

    def arrays(self, inputs: Inputs, result: FirstOrderResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        def trials(probes: int) -> dict[str, ArrayLike]:
            run = inputs[self.at(inputs.model, probes)]
            pre, post = (run.scores(score) for score in SPACES.values())
            return {"paths": np.array(run.ids), "trial_pre": pre, "trial_post": post}

        return {f"{{}}/exp0_trials_R{probes}.npz": trials(probes) for probes in self.probes}

    def title(self) -> str:
        return f"first order (N={self.n}, K={self.trials}; domain on {self.subset} images, T={self.passes})"

    def panels(self, inputs: Inputs, result: FirstOrderResult) -> Sequence[Panel]:
        rho = {
            score: {str(n): by[space].estimate("spearman") for n, by in result.reliability.items()}
            for space, score in SPACES.items()
        }
        where = {f"p={p:g}": by for p, by in result.domain.items()} | dict(result.groups)

        def figures(name: str) -> dict[str, dict[str, Estimate]]:
            return {score: {at: getattr(by[score], name) for at, by in where.items()} for score in DOMAIN_SCORES}

        at = "drop probability of all sites, or group of sites"

        def level(axes: Any) -> None:
            interval_panel(axes, figures("ratio"), None, "Monte Carlo / first order, median over images [95 %]", at)
            axes.axhspan(*LEVEL_BAND, color="grey", alpha=0.2)
            axes.set_title("level (shaded: accepted)")

        def ranking(axes: Any) -> None:
            interval_panel(
                axes, figures("corrected"), RANKING_BAR, "Spearman's ρ with Monte Carlo, noise-corrected [95 %]", at
            )
            axes.set_title("ranking")

        def reliable(axes: Any) -> None:
            interval_panel(axes, rho, THRESHOLDS.usable_spearman, "Spearman's ρ of two trials [95 %]", "probes R")
            axes.set_title("reliability")

        return reliable, ranking, level


def _about_level(result: FirstOrderResult) -> str:
    said = breaking(result.sites)
    return f"median over images of Monte Carlo over first order{'; ' + said if said else ''}"


def _roles(group: str, present: Sequence[str]) -> list[str]:
    """The roles of a group that the run has: names that :meth:`FirstOrderRun.scores` knows."""
    if group not in GROUPS:
        return [group]
    return [role.value for role in GROUPS[group] if role.value in present]
