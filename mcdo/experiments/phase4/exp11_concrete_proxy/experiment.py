"""Exp11: does a drop probability of its own for each depth make a better score than the same one everywhere?

To first order the score is Σ_g p_g/(1 − p_g) · (contribution of group g), so one first-order run serves every vector p,
and the objective has a gradient. Random search (the published way) and gradient search get the same number of
evaluations. Both see one half of the origins only; what is reported comes from the other half, which no search can
be given. The best of several candidates looks better where it was chosen than it is: the published run chose and
reported on the same images.

First order takes all D + 1 probes where that is affordable, so that it has no noise of its own. Elsewhere all images
share the probes of a trial, and every interval holds what other probes would have given.

The objective does not change when all odds are multiplied by one number, so the level of p is free: it is set to give
the mean score of the uniform p, which keeps p small where first order holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import FirstOrderRun, MonteCarloConfig
from mcdo.experiments.phase4.exp11_concrete_proxy.objective import ICC_WEIGHT, WEIGHTS, Array
from mcdo.experiments.phase4.exp11_concrete_proxy.result import JOINT, Confirmation, Groups, ProxyResult, Searched
from mcdo.experiments.phase4.exp11_concrete_proxy.search import (
    GRADIENT,
    RANDOM,
    UNIFORM,
    Budget,
    ChoosingHalf,
    ReportingHalf,
    Search,
    depth_groups,
    split,
)
from mcdo.harness import Claim, Experiment, Files, FirstOrder, Images, Inputs, Logits, Passes, Request, View
from mcdo.images.sampling import second_half
from mcdo.perturbation import Perturbation
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import ambiguity_targets, corrected_families, rank_relations

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORES = ("trace_pre", "trace_post")
CONFIRMED = "trace_pre"
"""The score that Monte Carlo is asked about."""


@dataclass(frozen=True)
class ConcreteProxy(Experiment[ProxyResult]):
    """N images, G depth groups, p in [low, high]; ``candidates`` evaluations for either search.

    First order: all probes, or ``probes`` in each of ``probe_trials`` trials. Monte Carlo: K trials at one T.
    """

    key = "exp11"
    name = "exp11_concrete_proxy"
    phase = "phase4"
    files = Files.of_each("exp11", "exp11_concrete_proxy")
    quick = {"n": 200, "passes": 8, "probes": 6}

    n: int = 2000
    passes: int = 32
    trials: int = 2
    groups: int = 4
    candidates: int = 24
    low: float = 0.001
    high: float = 0.1
    probes: int = 16
    probe_trials: int = 5

    @property
    def budget(self) -> Budget:
        return Budget(self.dropout.p, self.candidates, self.low, self.high, self.seed)

    def first_order(self, about: View) -> FirstOrder:
        """All probes in one trial where that is affordable, else enough trials for the spread between them."""
        return FirstOrder.exact_or(self.probes, self.probe_trials, about, Images(self.n), self.dropout, self.seed)

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (self.first_order(about), self.logits(about.model))

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        """Monte Carlo at the chosen p."""
        groups, halves = self.halves(inputs)
        return itertools.chain(
            *self.confirmation(inputs.model, groups, Search.on(halves[CONFIRMED][0], self.budget)).values()
        )

    def foreseen(self, about: View) -> Iterable[Request[Any]]:
        """A run of all groups, and one for each group of both choices."""
        return [self._reporting(about.model, self.dropout)] * (1 + 2 * self.groups)

    def halves(self, inputs: Inputs) -> tuple[Groups, dict[str, tuple[ChoosingHalf, ReportingHalf]]]:
        run, images = inputs[self.first_order(inputs)], inputs.images(Images(self.n))
        targets = ambiguity_targets(inputs[self.logits(inputs.model)]["logits"], images.labels)
        groups = depth_groups([name for name, _ in run.sites], self.groups)
        parts = {score: contributions(run, score, groups) for score in SCORES}
        return groups, {score: split(held, targets, run.origins, self.seed) for score, held in parts.items()}

    def confirmation(self, model: str, groups: Groups, search: Search) -> dict[str, list[Passes]]:
        """On the reporting half, by choice: a run for each group at the p of equal level; and the joint uniform one."""

        def at(sites: Sequence[str], p: float) -> Passes:
            return self._reporting(model, self.dropout.at(*sites).with_p(p))

        return {
            JOINT: [at(tuple(itertools.chain(*groups)), self.dropout.p)],
            **{
                name: [at(sites, float(p)) for sites, p in zip(groups, search.level[name], strict=True)]
                for name in (UNIFORM, GRADIENT)
            },
        }

    def _reporting(self, model: str, kind: Perturbation) -> Passes:
        shown = Images(self.n, half=(self.seed, 1))
        return Passes(model, shown, MonteCarloConfig(kind, (self.passes,), self.trials, self.seed))

    def compute(self, inputs: Inputs) -> ProxyResult:
        run = inputs[self.first_order(inputs)]
        groups, halves = self.halves(inputs)
        reported = np.flatnonzero(second_half(run.origins, self.seed))
        norm = run.feature_norm[reported]
        searched = {score: self._searched(*both, norm) for score, both in halves.items()}
        family = corrected_families({score: of.differences for score, of in searched.items()})
        reporting = halves[CONFIRMED][1]
        asked = self.confirmation(inputs.model, groups, searched[CONFIRMED].search)
        measured = {name: _sum(inputs[request].scores("trace_pre") for request in of) for name, of in asked.items()}
        return ProxyResult(
            groups=groups,
            searched={score: replace(of, differences=family[score]) for score, of in searched.items()},
            confirmed=Confirmation.of(measured, reporting, self.seed),
            reported=reported,
            origins=reporting.origins,
        )

    def _searched(self, choosing: ChoosingHalf, reporting: ReportingHalf, norm: Array) -> Searched:
        search, parts = Search.on(choosing, self.budget), reporting.contributions
        held_out, differences = reporting.compare(list(search.choices.values()), self.seed)
        choices = {name: parts @ choice.odds for name, choice in search.choices.items()}
        relations = rank_relations(
            {**choices, **{f"group_{i}": parts[..., i] for i in range(self.groups)}},
            {"entropy": reporting.targets["entropy"], "feature_norm": norm},
            given=norm,
            origins=reporting.origins,
            shared_noise=len(parts) > 1,
            seed=self.seed,
        )
        candidates = np.array([reporting.objective(choice.odds) for choice in search.tried])
        return Searched(search, candidates, held_out, differences, relations)

    def claims(self) -> Sequence[Claim[ProxyResult]]:
        return [
            *(self._gain(search, score) for search in (RANDOM, GRADIENT) for score in SCORES),
            *(self._ahead(score) for score in SCORES),
            Claim(
                f"gain/monte_carlo/{CONFIRMED}",
                lambda r: r.confirmed.differences[f"{GRADIENT} - {UNIFORM}"].estimate,
                above=0.0,
                beside=lambda r: ", ".join(f"{name} {e}" for name, e in r.confirmed.held_out.items()),
                p_holm=lambda r: r.confirmed.differences[f"{GRADIENT} - {UNIFORM}"].p_holm,
            ),
            # what the confirmation rests on: the mean trace of all sites together is the sum over groups, by a tenth
            Claim("groups_add_up/above", lambda r: r.confirmed.additivity, above=0.9),
            Claim("groups_add_up/below", lambda r: r.confirmed.additivity, below=1.1),
        ]

    def _gain(self, search: str, score: str) -> Claim[ProxyResult]:
        """A search beats the uniform p where it did not choose."""

        def beside(r: ProxyResult) -> str:
            held_out = r.searched[score].held_out
            return f"held out {held_out[search]}, uniform {held_out[UNIFORM]}"

        return _difference(f"gain/{search}/{score}", score, f"{search} - {UNIFORM}", beside)

    def _ahead(self, score: str) -> Claim[ProxyResult]:
        """Gradient search beats random search of as many evaluations."""
        return _difference(f"gradient_over_random/{score}", score, f"{GRADIENT} - {RANDOM}", lambda r: "")

    def summary(self, result: ProxyResult) -> Mapping[str, Any]:
        return {
            "scores": result.searched,
            "relations_held_out": {
                score: {f"{name} ~ {other}": r for (name, other), r in of.relations.items()}
                for score, of in result.searched.items()
            },
            "monte_carlo": result.confirmed,
            "halves": "origins at random, their images together; chosen on one, reported on the other",
            "images_reported": len(result.reported),
            "intervals": "bootstrap over origins of the reporting half (n counts them), paired; with several trials of "
            "first order also what other probes would have given",
            "tests": "p_holm over scores and pairs; of monte_carlo over its pairs",
            "objective_weights": {**WEIGHTS, "icc": ICC_WEIGHT},
            "icc": "left out of objectives of one trial: first order with all probes has no noise",
            "level": "free to first order; p_at_level has the mean score of the uniform p",
        }

    def arrays(self, inputs: Inputs, result: ProxyResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.first_order(inputs)]
        named: dict[str, ArrayLike] = {"paths": np.array(run.ids), "origins": np.array(run.origins)}
        for score, of in result.searched.items():
            named |= {
                f"{score}_candidates_p": np.stack([choice.p for choice in of.search.tried]),
                f"{score}_candidate_objectives": np.array([choice.in_sample for choice in of.search.tried]),
                f"{score}_candidate_objectives_held_out": of.candidates,
                f"{score}_contributions": contributions(run, score, result.groups).astype(np.float32),
            }
        return {"{}/exp11_outputs.npz": {**named, "reported": result.reported}}

    def documents(self, inputs: Inputs, result: ProxyResult) -> Mapping[str, Any]:
        return {"{}/exp11_groups.json": {f"group_{i}": list(group) for i, group in enumerate(result.groups)}}

    def title(self) -> str:
        return f"p by depth (N={self.n}, half to choose on; {self.candidates} evaluations each)"

    def panels(self, inputs: Inputs, result: ProxyResult) -> Sequence[Panel]:
        """Candidates in sample against held out, the held-out objectives, and the chosen p by depth."""
        depth = range(1, self.groups + 1)

        def halves(axes: Axes) -> None:
            for place, (score, of) in enumerate(result.searched.items()):
                tried, colour = [choice.in_sample for choice in of.search.tried], f"C{place}"
                axes.plot(tried, of.candidates, ".", color=colour, label=f"{score}, random candidates")
                for name, marker in ((UNIFORM, "s"), (RANDOM, "^"), (GRADIENT, "D")):
                    at = of.search.choices[name].in_sample, of.held_out[name].value
                    axes.plot(*at, marker, color=colour, markersize=9, fillstyle="none", label=f"{score}, {name}")
            axes.axline((0, 0), slope=1, color="black", linewidth=1, label="as good held out as in sample")
            axes.set_xlabel("objective on the choosing half")
            axes.set_ylabel("objective on the reporting half")
            axes.legend(fontsize="small")

        def held_out(axes: Axes) -> None:
            series = {f"{score}, first order": of.held_out for score, of in result.searched.items()}
            series[f"{CONFIRMED}, Monte Carlo"] = result.confirmed.held_out
            interval_panel(axes, series, None, "objective on the reporting half [95 %]", "how p was chosen")

        def chosen(axes: Axes) -> None:
            for place, (score, of) in enumerate(result.searched.items()):
                for name, style in ((GRADIENT, "D-"), (RANDOM, "^--")):
                    axes.plot(depth, of.search.level[name], style, color=f"C{place}", label=f"{score}, {name}")
            axes.axhline(self.dropout.p, color="black", linestyle=":", label="uniform")
            axes.set_yscale("log")
            axes.set_xticks(depth)
            axes.set_xlabel("depth group (1 is nearest to the pixels)")
            axes.set_ylabel("drop probability at equal mean score")
            axes.legend(fontsize="small")

        return halves, held_out, chosen


def contributions(run: FirstOrderRun, score: str, groups: Sequence[Sequence[str]]) -> Array:
    """What each group adds to a score at odds p/(1 − p) = 1, ``[K, N, G]``."""
    parts, names = run.decomposition(score, p=0.5), [name for name, _ in run.sites]
    return np.stack([parts[..., [names.index(name) for name in group]].sum(-1) for group in groups], axis=-1)


def _sum(traces: Iterable[Array]) -> Array:
    return np.asarray(np.sum(list(traces), axis=0))


def _difference(claim: str, score: str, pair: str, beside: Callable[[ProxyResult], object]) -> Claim[ProxyResult]:
    return Claim(
        claim,
        lambda r: r.searched[score].differences[pair].estimate,
        above=0.0,
        beside=beside,
        p_holm=lambda r: r.searched[score].differences[pair].p_holm,
    )
