"""What the recipe experiment measures: first order of every image set, passes where first order is held against them.

Runs become arrays here: what every site contributes to the clean images and to each degraded set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mcdo.errors import NotApplicableError
from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun
from mcdo.experiments.prelim.degradation import native_size
from mcdo.experiments.prelim.pixel_baselines import PIXELS, PixelBaselines
from mcdo.experiments.recipe.choice import Candidates, Choice, Data, choose
from mcdo.experiments.recipe.confirmation import judging_p
from mcdo.experiments.recipe.halves import Array, Baseline, Half
from mcdo.experiments.recipe.result import RecipeResult
from mcdo.experiments.recipe.sites import Mask, Tower
from mcdo.harness import Experiment, Features, FirstOrder, Images, Inputs, Logits, Passes, Request, View
from mcdo.harness.linearity import LinearityOfSites
from mcdo.images.degradations import graded, published
from mcdo.images.sampling import LEAST_TO_HALVE, second_half
from mcdo.perturbation import find_sites
from mcdo.stats import Agreement, agreement
from mcdo.stats.paired import rise

SCORES = ("trace_pre", "trace_post", "trace_pre_relative")
WEIGHTED = ("weighted_trace", "topk_trace")
"""Scores with weights of dimensions, fitted on images that they do not score."""
SEEN = ("blur", "down")
"""Families of the published degradations, on which the choice is made."""
LEAST_TO_WEIGH = 20
"""Originals of a fold, for a variance of each dimension to be known to a third."""
IMAGES_OF_A_LEVEL = 40
"""A few images tell no levels of a family apart, so they are shown one; large towers are shown a few."""
FOLDS: tuple[Literal[0], Literal[1]] = (0, 1)
"""Of the choosing half."""
OTHERS = ("jpeg", "noise", "occlusion", "contrast")


@dataclass(frozen=True)
class RecipeMeasurements(Experiment[RecipeResult]):
    """The protocol of :class:`~mcdo.experiments.recipe.experiment.RecipeSearch`, and its requests."""

    n: int = 400
    probes: int = 8
    probe_trials: int = 5
    passes: int = 64
    trials: int = 3
    levels: int = 4
    nulls: int = 200
    resplits: int = 20
    resamples: int = 1000
    site_images: int = 20
    site_passes: int = 32

    # ---- which images

    def chosen_on(self, about: View) -> tuple[str, ...]:
        """The published degradations, or their counterparts for small pictures."""
        return published(self._side(about))

    def by_family(self, about: View) -> dict[str, tuple[str, ...]]:
        """Levels of every family, the strongest last; of the families that the choice sees, its own among them.

        As many as ``levels``, and one for each ``IMAGES_OF_A_LEVEL`` images at most.
        """
        side, levels = self._side(about), min(self.levels, max(1, self.n // IMAGES_OF_A_LEVEL))
        graduated = (*SEEN, *OTHERS) if levels > 1 else OTHERS  # of one level, the choice's own are enough
        found = dict.fromkeys(SEEN, ()) | {family: _spread(graded(family, side), levels) for family in graduated}
        for spec in published(side):
            family = spec.partition(":")[0]
            found[family] = tuple(dict.fromkeys((*found[family], spec)))
        return found

    def _side(self, about: View) -> int:
        return min(native_size(about.images(Images(self.n))))

    def unseen(self, about: View) -> dict[str, tuple[str, ...]]:
        """Levels of the families that the choice does not see."""
        return {family: specs for family, specs in self.by_family(about).items() if family in OTHERS}

    def every(self, about: View) -> tuple[str, ...]:
        return tuple(dict.fromkeys(spec for specs in self.by_family(about).values() for spec in specs))

    # ---- what is measured

    def first_order(self, model: str, degradation: str | None = None) -> FirstOrder:
        """All sites, under probes that are the same for clean and degraded images."""
        shown = Images(self.n, degradation=degradation)
        return FirstOrder(model, shown, self.dropout, self.probes, self.probe_trials, self.seed)

    def pixels(self, model: str, degradation: str | None = None) -> PixelBaselines:
        return PixelBaselines(model, Images(self.n, degradation=degradation))

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    @property
    def tried_p(self) -> tuple[float, ...]:
        """Drop probabilities at which first order is held against passes."""
        return self.dropout.p, self.dropout.p / 10

    def at(
        self,
        model: str,
        p: float,
        sites: Sequence[str] | None = None,
        degradation: str | None = None,
        half: Literal[0, 1] | None = 1,
        score: str = "",
    ) -> Passes:
        """Passes at some sites (None: all), on one half of the images (None: on all), that hold ``score``."""
        kind = self.dropout if sites is None else self.dropout.at(*sites)
        part = None if half is None else (self.seed, half)
        shown = Images(self.n, degradation=degradation, half=part)
        config = MonteCarloConfig(kind.with_p(p), (self.passes,), self.trials, self.seed)
        return Passes(model, shown, config, self._choosing if score in WEIGHTED else None)

    @property
    def _choosing(self) -> Images:
        return Images(self.n, half=(self.seed, 0))

    def choosing_features(self, model: str) -> Features:
        """What the weights of dimensions follow from that score the reporting half."""
        return Features(model, self._choosing)

    def weighted(
        self, model: str, score: str, degradation: str | None = None, fold: Literal[0, 1] | None = None
    ) -> FirstOrder:
        """First order of a score of ``WEIGHTED``: of a fold of the choosing half, or (None) of the reporting half.

        The weights of dimensions are fitted on the other fold, or on the choosing half.
        """
        shown = Images(self.n, degradation=degradation, half=(self.seed, 1))
        others = self._choosing
        if fold is not None:
            shown = replace(shown, half=(self.seed, 0), fold=(self.seed + 1, fold))
            others = replace(others, fold=(self.seed + 1, 1 if fold == 0 else 0))
        return FirstOrder(model, shown, self.dropout, self.probes, self.probe_trials, self.seed, others, score)

    def linearity(self, model: str) -> LinearityOfSites:
        return LinearityOfSites(model, self.dropout, min(self.site_images, self.n), self.site_passes, self.seed)

    def weighs(self, about: View) -> bool:
        """Whether the folds have the images that variances of dimensions take."""
        return len(set(about.images(Images(self.n)).origins)) // 4 >= LEAST_TO_WEIGH

    def requests(self, about: View) -> Iterable[Request[Any]]:
        model, sets = about.model, (None, *self.every(about))
        originals, least = len(set(about.images(Images(self.n)).origins)), 2 * LEAST_TO_HALVE
        if originals < least:
            raise NotApplicableError(
                f"{originals} originals make no recipe: give at least {least}, for halves and folds of one"
            )
        yield from (self.first_order(model, each) for each in sets)
        yield from (
            self.weighted(model, score, each, fold)
            for score in (WEIGHTED if self.weighs(about) else ())
            for each in (None, *self.chosen_on(about))
            for fold in FOLDS
        )
        yield from (self.pixels(model, each) for each in sets)
        yield from (self.at(model, p, half=0) for p in self.tried_p)
        if not about.why_no_head(Images(self.n)):
            yield self.logits(model)

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        """Passes at each site alone; at the chosen ones and at all; where first order may not rank, at groups."""
        yield from self.linearity(inputs.model).requests(self.tower(inputs).names)
        p = judging_p(self.domains(inputs))
        if p is None:
            for mask in self.shortlist(self.tower(inputs)).values():
                for each in (None, *self.chosen_on(inputs)):
                    yield self._of_group(inputs, mask, each)
            return
        choice, _ = choose(self.data(inputs), self.candidates(inputs))
        if choice.score in WEIGHTED:
            yield from (self.weighted(inputs.model, choice.score, each) for each in (None, *self.every(inputs)))
            yield self.choosing_features(inputs.model)
        for each in (None, *self.confirmed_on(inputs)):
            yield self.at(inputs.model, p, degradation=each)
            yield from self._steps(inputs, choice, p, each).values()

    def foreseen(self, about: View) -> Iterable[Request[Any]]:
        """Passes at each site; and as if all sites were chosen, twice: passes at the choice beside passes at all."""
        runs = [self.at(about.model, self.tried_p[0], degradation=each) for each in (None, *self.confirmed_on(about))]
        sites = find_sites(about.encoder()).select_for(self.dropout)
        return [*runs, *runs, *self.linearity(about.model).requests(site.name for site in sites)]

    def confirmed_on(self, about: View) -> tuple[str, ...]:
        """The degradations of the choice, and one of each other family."""
        return *self.chosen_on(about), *self._one_of_each(about).values()

    def _one_of_each(self, about: View) -> dict[str, str]:
        return {family: specs[len(specs) // 2] for family, specs in self.unseen(about).items()}

    def _steps(self, inputs: Inputs, choice: Choice, p: float, degradation: str | None) -> dict[float, Passes]:
        """A run for each weight that the choice has, at the p of that share of the odds."""
        names, found = np.array(self.tower(inputs).names), {}
        for weight in np.unique(choice.weights[choice.weights > 0]):
            odds = float(weight / choice.weights.max()) * p / (1 - p)
            sites = tuple(str(name) for name in names[choice.weights == weight])
            found[float(weight)] = self.at(inputs.model, odds / (1 + odds), sites, degradation, score=choice.score)
        return found

    # ---- from runs to arrays

    def tower(self, inputs: Inputs) -> Tower:
        return Tower.of(inputs[self.first_order(inputs.model)].sites)

    def candidates(self, inputs: Inputs) -> Candidates:
        """At the cost of the runs."""
        return Candidates.of(self.tower(inputs), self.probes)

    def data(self, inputs: Inputs) -> Data:
        """What every site contributes, at odds of 1, and the baselines."""
        model, every = inputs.model, self.every(inputs)
        clean, damaged = inputs[self.first_order(model)], {s: inputs[self.first_order(model, s)] for s in every}
        return Data(
            {score: _half(clean, damaged, score) for score in SCORES},
            self.baselines(inputs),
            self.chosen_on(inputs),
            self.unseen(inputs),
            self.seed,
            apart={s: (self._choosing_half(inputs, s), None) for s in (WEIGHTED if self.weighs(inputs) else ())},
        )

    def with_report_on(self, inputs: Inputs, data: Data, score: str) -> Data:
        """With the reporting half of a score with weights of dimensions."""
        clean = inputs[self.weighted(inputs.model, score)]
        damaged = {spec: inputs[self.weighted(inputs.model, score, spec)] for spec in self.every(inputs)}
        return replace(data, apart={**data.apart, score: (data.apart[score][0], _half(clean, damaged, score))})

    def _choosing_half(self, inputs: Inputs, score: str) -> Half:
        """Under what the choice sees, each fold with the weights of the other one."""
        model, first = inputs.model, inputs[self.first_order(inputs.model)]
        second = second_half(first.origins, self.seed)
        origins = tuple(np.array(first.origins, dtype=object)[~second])
        rows = [second_half(origins, self.seed + 1) == fold for fold in FOLDS]

        def choosing(spec: str | None) -> Array:
            parts = [inputs[self.weighted(model, score, spec, fold)].decomposition(score, p=0.5) for fold in FOLDS]
            found = np.empty((len(parts[0]), len(origins), parts[0].shape[-1]))
            for take, part in zip(rows, parts, strict=True):
                found[:, take] = part
            return found

        clean = choosing(None)
        return Half(clean, {spec: rise(choosing(spec), clean) for spec in self.chosen_on(inputs)}, origins)

    def baselines(self, inputs: Inputs) -> dict[str, Baseline]:
        """Sharpness and entropy of the pixels, and the feature norm."""
        model, every = inputs.model, self.every(inputs)
        pixels = {spec: inputs[self.pixels(model, spec)] for spec in (None, *every)}
        norm = {spec: inputs[self.first_order(model, spec)].feature_norm for spec in (None, *every)}
        return {
            **{name: Baseline(pixels[None][name], {s: pixels[s][name] for s in every}) for name in PIXELS},
            "feature_norm": Baseline(norm[None], {s: norm[s] for s in every}),
        }

    def domains(self, inputs: Inputs) -> dict[float, dict[str, Agreement]]:
        """First order beside passes at all sites, on the half that chooses."""
        linear = inputs[self.first_order(inputs.model)]
        columns = ~second_half(linear.origins, self.seed)
        return {
            p: {
                score: self._agreement(inputs[self.at(inputs.model, p, half=0)], linear, score, columns)
                for score in SCORES
            }
            for p in self.tried_p
        }

    def _agreement(self, run: MonteCarloRun, linear: FirstOrderRun, score: str, columns: Mask) -> Agreement:
        others = linear.scores(score, run.config.dropout.p)[:, columns]
        return agreement(
            run.scores(score), others, origins=run.origins, shared_noise=True, seed=self.seed, resamples=self.resamples
        )

    # ---- where first order may not rank

    def shortlist(self, tower: Tower) -> dict[str, Mask]:
        """Few enough groups to be measured by passes: all, roles, thirds."""
        return {name: mask for name, mask in tower.groups().items() if "," not in name and "block" not in name}

    def _of_group(self, inputs: Inputs, mask: Mask, degradation: str | None) -> Passes:
        names = tuple(str(name) for name in np.array(self.tower(inputs).names)[mask])
        return self.at(inputs.model, min(self.tried_p), names, degradation, half=None)

    def measured_data(self, inputs: Inputs) -> tuple[Data, Candidates]:
        """The same as :meth:`data`, with a group that was measured by passes in the place of a site."""
        masks, specs = self.shortlist(self.tower(inputs)), self.chosen_on(inputs)

        def scores(score: str, degradation: str | None) -> Array:
            runs = (inputs[self._of_group(inputs, mask, degradation)] for mask in masks.values())
            return np.stack([run.scores(score) for run in runs], axis=-1)

        origins = inputs.images(Images(self.n)).origins
        halves = {}
        for score in SCORES:
            clean = scores(score, None)
            rises = {s: rise(scores(score, s), clean) for s in specs}
            halves[score] = Half(clean, rises, origins, shared_noise=False)
        candidates = Candidates(tuple(masks), np.eye(len(masks)), lambda _: float(self.passes), fitted=False)
        return Data(halves, self.baselines(inputs), specs, {}, self.seed), candidates


def _spread(levels: Sequence[str], count: int) -> tuple[str, ...]:
    """``count`` of the levels, as far apart as can be; of one, the second strongest."""
    if count == 1:
        return (levels[-2],)
    places = np.unique(np.linspace(0, len(levels) - 1, min(count, len(levels))).round().astype(int))
    return tuple(levels[i] for i in places)


def _half(clean: FirstOrderRun, damaged: Mapping[str, FirstOrderRun], score: str) -> Half:
    """At odds of 1, so that every p is a factor."""
    before = clean.decomposition(score, p=0.5)
    rises = {spec: rise(run.decomposition(score, p=0.5), before) for spec, run in damaged.items()}
    return Half(before, rises, clean.origins)
