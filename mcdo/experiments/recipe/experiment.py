"""The recipe: which sites of an encoder, under which score, follow damage, and is that so on images that chose nothing?

The trace is a sum over sites, so one first-order run of the clean images and one of each degraded set say it of every
set of sites at once. The **map** has, for every site, role, block, third of the depth and role in a third: how reliable
it is with so few products, the share of images that each degradation raises, ρ with entropy given the feature norm, its
share of the variance, and its cost. The **choice** is made on one half of the origins and reported on the other, beside
all sites and beside the best score that needs no perturbation; degradations of families that it did not see are
reported too. The choice on other halves says how much better it looks where it was made, and exchanged copies of clean
and degraded images how often nothing would have seemed a gain. **Passes** then measure the chosen sites and all sites
on the half that chose nothing. First order judges only at a p where it ranks images as passes do; its level is another
statement. Where its ranking fails at every p, groups of sites are measured by passes and chosen from these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import DimensionWeights
from mcdo.experiments.prelim.damage import PASS_BAR
from mcdo.experiments.prelim.degradation import native_size
from mcdo.experiments.recipe.choice import (
    CHOSEN_ON,
    OVER_ALL,
    OVER_TRIVIAL,
    UNSEEN,
    Choice,
    Data,
    choose,
    false_gains,
    report,
    resplit,
    scopes,
)
from mcdo.experiments.recipe.confirmation import Confirmation, confirmed, judging_p
from mcdo.experiments.recipe.document import recipe_of
from mcdo.experiments.recipe.figure import drawn
from mcdo.experiments.recipe.halves import Array, Half
from mcdo.experiments.recipe.measures import OTHERS, WEIGHTED, RecipeMeasurements
from mcdo.experiments.recipe.result import RecipeResult
from mcdo.experiments.recipe.table import Map, drawn_map, map_arrays
from mcdo.harness import (
    ALPHA,
    Claim,
    Files,
    Images,
    Inputs,
    Outcome,
)
from mcdo.harness.linearity import breaking
from mcdo.recipes.file import Dimensions, Estimator
from mcdo.report.figures import Panel
from mcdo.rivals.logits import entropy
from mcdo.stats import LEVEL_BAND, RANKING_BAR, THRESHOLDS, reliability
from mcdo.stats.paired import rise

if TYPE_CHECKING:
    from mcdo.images import ImageSet

_ONE = np.ones(1)


@dataclass(frozen=True)
class RecipeSearch(RecipeMeasurements):
    """n images; first order with ``probes`` in each of ``probe_trials`` trials; passes at one T in ``trials`` trials.

    ``levels`` of each family of degradations are reported; ``nulls`` and ``resplits`` count repetitions.
    """

    key = "recipe"
    name = "recipe_search"
    phase = "recipe"
    judges_heads = True
    files = Files(summary="{}/recipe_summary.json", overall="recipe_overall_summary.json", figure="{}/recipe.png")
    quick = {
        "n": 60, "levels": 1, "passes": 8, "trials": 2, "nulls": 8, "resplits": 2, "resamples": 100,
        "site_images": 4, "site_passes": 8,
    }  # fmt: skip
    sized = {
        **RecipeMeasurements.sized,
        "site_images": "images_at_most",
        "site_passes": "passes",
    }

    # ---- the result

    def compute(self, inputs: Inputs) -> RecipeResult:
        domains, tower = self.domains(inputs), self.tower(inputs)
        p, linear = judging_p(domains), self.data(inputs)
        data, candidates = (linear, self.candidates(inputs)) if p is not None else self.measured_data(inputs)
        choice, every = choose(data, candidates)
        if choice.score in WEIGHTED:
            data = self.with_report_on(inputs, data, choice.score)
        reported = report(data, choice, every)
        if p is None:
            mask = self.shortlist(tower)[choice.name]
            weights, odds = mask.astype(np.float64), 1.0
            confirmation = self._among_measured(data, choice, every)
        else:
            weights, odds = choice.weights / choice.weights.max(), p / (1 - p)
            confirmation = self._confirmed(inputs, data, choice, every, p)
        one = choice.weights / choice.weights.max() * odds
        half = _one_site(data.reporting[choice.score], one)
        return RecipeResult(
            tower=tower,
            maps=self.maps(inputs, linear),
            p=p,
            domains=domains,
            reported=reported,
            weights=tower.chosen(weights),
            reliability=reliability(
                half.scores(_ONE), origins=half.origins, shared_noise=half.shared_noise, seed=self.seed,
                resamples=self.resamples,
            ),
            confirmation=confirmation,
            resplits=resplit(data, candidates, self.resplits),
            null=false_gains(data, candidates, self.nulls, self.seed, ALPHA),
            chosen=_one_site(data.scores[choice.score], one) if choice.score in data.scores else half,
            reporting=half,
            chosen_on=data.chosen_on,
            linearity=self.linearity(inputs.model).of(inputs, inputs[self.first_order(inputs.model)]),
            weighed=self.weighs(inputs),
            unread=inputs.why_unread(self.logits(inputs.model)),
        )  # fmt: skip

    def maps(self, inputs: Inputs, data: Data) -> dict[str, Map]:
        norm = inputs[self.first_order(inputs.model)].feature_norm
        logits = self.logits(inputs.model)
        ambiguity = None if inputs.why_unread(logits) else entropy(inputs[logits]["logits"][0])
        candidates, tower = self.candidates(inputs), self.tower(inputs)
        return {
            score: drawn_map(
                half, tower, candidates, scopes(data), self.every(inputs), ambiguity, norm,
                seed=self.seed, resamples=self.resamples,
            )
            for score, half in data.scores.items()
        }  # fmt: skip

    def _confirmed(self, inputs: Inputs, data: Data, choice: Choice, every: Choice, p: float) -> Confirmation:
        specs = self.confirmed_on(inputs)

        def chosen(spec: str | None) -> Array:
            runs = self._steps(inputs, choice, p, spec).values()
            return np.asarray(sum(inputs[run].scores(choice.score) for run in runs))

        def whole(spec: str | None) -> Array:
            return np.asarray(inputs[self.at(inputs.model, p, degradation=spec)].scores(every.score))

        origins = data.reporting[choice.score].origins
        weights = choice.weights / choice.weights.max() * p / (1 - p)
        return confirmed(
            _measured(chosen, specs, origins),
            _measured(whole, specs, origins),
            data.reporting[choice.score].scores(weights),
            self.chosen_on(inputs),
            self._one_of_each(inputs),
            p=p,
            passes=self.passes,
            seed=self.seed,
            resamples=self.resamples,
        )

    def _among_measured(self, data: Data, choice: Choice, every: Choice) -> Confirmation:
        """Of groups that passes measured before, on the half that chose nothing."""
        chosen, whole = (_one_site(data.reporting[each.score], each.weights) for each in (choice, every))
        return confirmed(
            chosen, whole, None, data.chosen_on, {}, p=min(self.tried_p), passes=self.passes, seed=self.seed,
            resamples=self.resamples,
        )  # fmt: skip

    # ---- claims and files

    def claims(self) -> Sequence[Claim[RecipeResult]]:
        return [
            Claim(
                "reliable/spearman",
                lambda r: r.reliability.estimate("spearman"),
                at_least=THRESHOLDS.usable_spearman,
                beside=lambda r: f"{r.statement}; SNR {r.reliability.snr:.2f}, ICC {r.reliability.icc:.2f}",
            ),
            Claim(
                "raised/chosen_on",
                lambda r: r.reported.shares["chosen", CHOSEN_ON],
                at_least=PASS_BAR,
                beside=lambda r: f"all sites {r.reported.shares[OVER_ALL, CHOSEN_ON]}",
            ),
            Claim(
                "raised/not_chosen_on",
                lambda r: r.reported.shares.get(("chosen", UNSEEN)),
                at_least=PASS_BAR,
                beside=_by_family,
            ),
            _gain("gain/all_sites", OVER_ALL),
            _gain("gain/best_trivial", OVER_TRIVIAL),
            _gain("gain_unseen/all_sites", OVER_ALL, UNSEEN),
            _gain("gain_unseen/best_trivial", OVER_TRIVIAL, UNSEEN),
            Claim(
                "confirmed/all_sites",
                lambda r: r.confirmation.gains[CHOSEN_ON].estimate,
                above=0.0,
                beside=lambda r: f"by T = {r.confirmation.passes} passes at p = {r.confirmation.p:g}",
                p_holm=lambda r: r.confirmation.gains[CHOSEN_ON].p_holm,
            ),
            Claim(
                "domain_ranking/chosen",
                lambda r: None if r.confirmation.domain is None else r.confirmation.domain.corrected,
                at_least=RANKING_BAR,
                beside=lambda r: f"judged by {r.judge}",
            ),
            Claim(
                "domain_level/chosen",
                lambda r: None if r.confirmation.domain is None else r.confirmation.domain.ratio,
                within=LEVEL_BAND,
                beside=_about_level,
            ),
            Claim(
                "null/false_gain_rate",
                lambda r: r.null,
                rule=(f"no more than {ALPHA:g}, by the interval", _no_more_than_alpha),
                beside=lambda r: "copies of clean and degraded images exchanged at random",
            ),
        ]

    def summary(self, result: RecipeResult) -> Mapping[str, Any]:
        groups = set(result.tower.groups())
        return {
            "results": result.as_dict(),
            "map": {
                score: {name: entry.as_dict() for name, entry in found.items() if name in groups}
                for score, found in result.maps.items()
            },
            "sites_in_order": [
                {"name": name, "role": role, "block": block}
                for name, role, block in zip(result.tower.names, result.tower.roles, result.tower.blocks, strict=True)
            ],
            "objective": "lower end of the interval of the share raised, to two digits, if usable; then cost",
            "cost": "1 + probes · share of the sites that a gradient passes; passes through the whole tower",
            "halves": "origins at random, their images together; chosen on one, reported on the other",
            "intervals": "over origins (n counts them), and over the probes that images share",
            "tests": "p_holm over all gains of the choice; of the confirmation over its scopes",
        }

    def overall(self, result: RecipeResult, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"results": summary["results"]}

    def arrays(self, inputs: Inputs, result: RecipeResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        images = self.scored(inputs, result)
        named: dict[str, ArrayLike] = {
            "paths": np.array(images.ids),
            "origins": np.array(images.origins),
            "reported": np.isin(images.origins, result.reporting.origins),
            "clean": result.chosen.scores(_ONE),
            **{f"after {spec}": result.chosen.scores(_ONE) + up[..., 0] for spec, up in result.chosen.rise.items()},
        }
        return {"{}/recipe_map.npz": map_arrays(result.maps), "{}/recipe_scores.npz": named}

    def documents(self, inputs: Inputs, result: RecipeResult) -> Mapping[str, Any]:
        images, score = self.scored(inputs, result), result.reported.choice.score
        first = result.p is not None
        estimator = Estimator(
            method="first_order" if first else "monte_carlo",
            probes=self.probes if first else None,
            passes=None if first else self.passes,
            seed=self.seed,
        )
        recipe = recipe_of(
            result, inputs.encoder(), images, self.dropout, estimator, native_size(images),
            dimensions=self._dimensions(inputs) if score in WEIGHTED else None, seed=self.seed,
            resamples=self.resamples,
        )  # fmt: skip
        return {"{}/recipe.json": recipe.as_dict()}

    def scored(self, inputs: Inputs, result: RecipeResult) -> ImageSet:
        """All images; of a score whose weights were fitted on the choosing half, the others."""
        half = (self.seed, 1) if result.reported.choice.score in WEIGHTED else None
        return inputs.images(Images(self.n, half=half))  # type: ignore[arg-type]

    def _dimensions(self, inputs: Inputs) -> Dimensions:
        """The weights of dimensions that scored the reporting half."""
        images = inputs.images(Images(self.n, half=(self.seed, 0)))
        fitted = DimensionWeights.fit(inputs[self.choosing_features(inputs.model)]["features"], images.origins)
        return Dimensions(
            weights=tuple(map(float, fitted.weights)),
            source=f"variances over the {len(images)} images of {images.name} that chose, shrunk towards their median",
            top=tuple(map(int, fitted.top)),
            origins=tuple(sorted(fitted.origins)),
        )

    def title(self) -> str:
        return f"recipe (N={self.n}, half to choose on; {self.probes} probes, {self.passes} passes)"

    def panels(self, inputs: Inputs, result: RecipeResult) -> Sequence[Panel]:
        return drawn(result)


def _gain(name: str, over: str, scope: str = CHOSEN_ON) -> Claim[RecipeResult]:
    def beside(r: RecipeResult) -> str:
        seen = f"; {r.reported.optimism(over):+.2f} larger where it was chosen" if scope == CHOSEN_ON else ""
        trivial = f" ({r.reported.trivial.label})" if over == OVER_TRIVIAL else ""
        return f"over {over}{trivial} {r.reported.shares[over, scope]}{seen}"

    return Claim(
        name,
        lambda r: r.reported.gains[over, scope].estimate if (over, scope) in r.reported.gains else None,
        above=0.0,
        beside=lambda r: beside(r) if (over, scope) in r.reported.gains else "groups measured by passes saw no others",
        p_holm=lambda r: r.reported.gains[over, scope].p_holm,
    )


def _about_level(r: RecipeResult) -> str:
    said = breaking(r.linearity)
    return f"median over images of passes over first order{'; ' + said if said else ''}"


def _by_family(r: RecipeResult) -> str:
    return ", ".join(
        f"{family} {r.reported.shares['chosen', family].value:.2f}"
        for family in OTHERS
        if ("chosen", family) in r.reported.shares
    )


def _no_more_than_alpha(r: RecipeResult) -> Outcome:
    return "not met" if r.null.low > ALPHA else "met"


def _one_site(half: Half, weights: Array) -> Half:
    """A half whose only site is the whole choice."""
    rises = {spec: (each @ weights)[..., None] for spec, each in half.rise.items()}
    return Half((half.clean @ weights)[..., None], rises, half.origins, half.shared_noise)


def _measured(scores: Any, specs: Sequence[str], origins: tuple[str, ...]) -> Half:
    clean = scores(None)[..., None]
    return Half(clean, {spec: rise(scores(spec)[..., None], clean) for spec in specs}, origins, shared_noise=False)
