"""The recipe from made-up runs: first order judges where it ranks as passes do, and passes judge where it does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, cast

import numpy as np
import pytest
from made_up_inputs import MadeUpInputs, outcomes_of
from made_up_runs import noisy
from numpy.typing import NDArray
from recipe_world import SITES

from mcdo.errors import McdoError
from mcdo.estimators import FirstOrderRun, MonteCarloRun
from mcdo.estimators.first_order_run import FirstOrderConfig
from mcdo.experiments.prelim.pixel_baselines import PIXELS, PixelBaselines
from mcdo.experiments.recipe import document
from mcdo.experiments.recipe.choice import CHOSEN_ON, OVER_ALL, UNSEEN
from mcdo.experiments.recipe.confirmation import judging_p
from mcdo.experiments.recipe.experiment import RecipeSearch
from mcdo.experiments.recipe.measures import WEIGHTED
from mcdo.experiments.recipe.result import RecipeResult
from mcdo.harness import Features, FirstOrder, Images, Inputs, Logits, Passes, Request, Settings, Sizes
from mcdo.harness.offline import OfflineEncoder
from mcdo.images import ImageSet, load_images
from mcdo.images.degradations import Degradation
from mcdo.images.sampling import second_half
from mcdo.perturbation import LinearPart
from mcdo.recipes import Recipe
from mcdo.recipes.file import SEAL, seal_of
from mcdo.schema import checked
from mcdo.stats import Agreement, Estimate

Array = NDArray[np.float64]
N, D = 80, 8
EXPERIMENT = RecipeSearch(n=N, passes=16, trials=3, levels=2, nulls=3, resplits=2, resamples=100)


@cache
def digits() -> ImageSet:
    return load_images("digits", N)


ENCODER = OfflineEncoder("clip_tiny", "a" * 64, "b" * 64, "c" * 64, None, "as is", False, 32, D, "cpu", "float32")
NAMES = [name for name, _ in SITES]
BENT = {name for name, role in SITES if role == "fc1"}
TRACES = ("trace_pre", "trace_post")


@lru_cache
def contributions(degradation: str | None) -> Array:
    """[N, S]: attention outputs see every damage, the more the stronger it is; the first layers of MLPs fall."""
    own = np.exp(np.random.default_rng(0).normal(size=(N, len(SITES))))
    if degradation is None:
        return own
    strength = 0.5 * (1 + np.log1p(Degradation.parse(degradation).severity((32, 32))))
    seeing = np.array([{"attention_output": strength, "fc1": -1.0}.get(role, 0.0) for _, role in SITES])
    rng = np.random.default_rng(sum(map(ord, degradation)))
    return np.asarray(own * np.exp(seeing + 0.3 * rng.normal(size=own.shape)))


def rows(shown: Images) -> NDArray[np.intp]:
    """Of the digits, by number."""
    kept = np.arange(N)
    for part in filter(None, (shown.half, shown.fold)):
        kept = kept[second_half(tuple(np.array(digits().origins)[kept]), part[0]) == part[1]]
    return kept


def origins(shown: Images) -> tuple[str, ...]:
    return tuple(np.array(digits().origins)[rows(shown)])


def made_up(agrees: bool, has_text: bool = True, seen_by_dimensions: bool = False, level: float = 1.0) -> Inputs:
    """First order without along-terms; passes are noisy sums of the same, of other images unless it ``agrees``.

    Damage is seen by scores with weights of dimensions alone, or by those without. Passes have ``level`` times what
    first order says.
    """
    features = np.full((N, D), 1 / np.sqrt(D), dtype=np.float32)

    def columns(shown: Images) -> Array:
        whole = contributions(shown.degradation)
        if not agrees:
            whole = whole[np.random.default_rng(5).permutation(N)]
        return np.asarray(whole[rows(shown)])

    def first_order(request: FirstOrder) -> FirstOrderRun:
        assert isinstance(request.shown, Images)
        shown, named = request.shown, origins(request.shown)
        rng = np.random.default_rng(1)  # the same probes for every set
        common = np.exp(0.03 * rng.normal(size=(5, 1, len(SITES))))
        seen = contributions(shown.degradation)[rows(shown)]
        if (request.calibration is not None) != seen_by_dimensions:
            seen = contributions(None)[rows(shown)]
        if request.calibration is not None:
            assert set(named).isdisjoint(origins(request.calibration)), "weights of dimensions from scored images"
        across = (D * seen * common).astype(np.float32)
        return FirstOrderRun(
            config=FirstOrderConfig(EXPERIMENT.dropout, 8, 5),
            encoder="clip_tiny", ids=named, origins=named, features=features[: len(named)], sites=tuple(SITES),
            provenance={}, along=np.zeros((len(named), len(SITES)), dtype=np.float32), across=across,
            weighted=request.score,
        )  # fmt: skip

    def passes(request: Passes) -> MonteCarloRun:
        assert isinstance(request.shown, Images)
        kind = request.config.dropout
        sites: Sequence[str] = NAMES if kind.sites == "all" else kind.sites
        held = columns(request.shown)[:, [NAMES.index(name) for name in sites]].sum(axis=1) * kind.variance * level
        if isinstance(kind, LinearPart):
            held = held * kind.step**2 / level
        elif set(sites) <= BENT:
            held = held * 0.6
        seed = len(request.shown.degradation or "") + 7 * len(sites)
        scores = noisy(held, request.config.trials, np.random.default_rng(seed), degrees=800)
        named = origins(request.shown)
        taken = TRACES if request.calibration is None else (*TRACES, "weighted_trace", "topk_trace")
        return MonteCarloRun(
            config=request.config, encoder="clip_tiny", ids=named, origins=named, features=features[: len(named)],
            sites=tuple((name, "") for name in sites), provenance={},
            _values={(t, request.config.passes[-1]): scores for t in taken},
        )  # fmt: skip

    def value(request: Request[Any]) -> Any:
        if isinstance(request, FirstOrder):
            return first_order(request)
        if isinstance(request, Features):
            return {"features": np.random.default_rng(2).normal(size=(len(origins(request.shown)), D))}
        if isinstance(request, Passes):
            return passes(request)
        if isinstance(request, PixelBaselines):
            rng = np.random.default_rng(len(request.shown.degradation or ""))
            return {name: rng.random(N) for name in PIXELS}
        assert isinstance(request, Logits)
        return {"logits": np.random.default_rng(3).normal(size=(1, N, 10))}

    encoder = ENCODER if has_text else OfflineEncoder(**{**vars(ENCODER), "has_text": False})
    unread = "" if has_text else "no text"
    made = MadeUpInputs(
        value, lambda shown: digits().select(rows(shown)), encoders={"clip_tiny": encoder}, unread=unread
    )
    return cast("Inputs", made)


def recipe_of(inputs: Inputs, result: RecipeResult) -> Recipe:
    (document,) = EXPERIMENT.documents(inputs, result).values()
    facts = json.loads(json.dumps(document, allow_nan=False))
    assert facts.pop(SEAL) == seal_of(facts)
    return cast("Recipe", checked(facts, Recipe, "recipe.json"))


@pytest.fixture(scope="module")
def ranked() -> tuple[Inputs, RecipeResult]:
    inputs = made_up(agrees=True)
    return inputs, EXPERIMENT.compute(inputs)


def test_where_first_order_ranks_it_judges_and_passes_confirm(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, result = ranked
    assert (result.judge, result.p) == ("first order", 0.01)
    chosen = [name for name, weight in result.weights.items() if weight > 0.5]
    assert chosen
    assert all("attn.proj" in name for name in chosen)
    assert result.reported.gains[OVER_ALL, CHOSEN_ON].estimate.low > 0
    assert result.confirmation.gains[CHOSEN_ON].estimate.low > 0
    assert result.confirmation.domain is not None
    assert result.confirmation.domain.ranking == "met"
    assert result.confirmation.domain.level == "met", "weights that are steps of the odds keep the level"
    outcomes = outcomes_of(EXPERIMENT, result)
    assert outcomes["gain/all_sites"] == outcomes["confirmed/all_sites"] == "met"
    assert set(inputs_of(inputs, Passes)) <= {0.01, 0.001} | {w * 0.01 for w in (0.25, 0.5, 0.75)} | set(steps())


def steps() -> list[float]:
    odds = [w * 0.01 / 0.99 for w in (0.25, 0.5, 0.75, 1)]
    return [o / (1 + o) for o in odds]


def inputs_of(inputs: Inputs, kind: type[Passes]) -> list[float]:
    asked = [*EXPERIMENT.requests(inputs), *EXPERIMENT.follow_up(inputs)]
    return [request.config.dropout.p for request in asked if isinstance(request, kind)]


def test_first_order_is_held_against_passes_at_their_own_p(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, _ = ranked
    domains = EXPERIMENT.domains(inputs)
    assert set(domains) == {0.01, 0.001}
    for by_score in domains.values():
        for found in by_score.values():
            assert found.ratio.value == pytest.approx(1, rel=0.05)


def test_the_map_says_which_sites_see_the_damage(ranked: tuple[Inputs, RecipeResult]) -> None:
    _, result = ranked
    found = result.maps["trace_post"]
    seeing = min(found[name].raised[CHOSEN_ON].value for name, role in SITES if role == "attention_output")
    blind = max(found[name].raised[CHOSEN_ON].value for name, role in SITES if role != "attention_output")
    assert seeing > 0.9 > blind
    assert found["attention_output"].share.value == pytest.approx(
        contributions(None)[:, [role == "attention_output" for _, role in SITES]].sum() / contributions(None).sum(),
        rel=0.05,
    )
    assert found["all"].cost == 9
    assert found["final_projection"].cost == pytest.approx(1 + 8 / 13)
    assert found["all"].entropy is not None


def test_the_recipe_says_what_was_chosen(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, result = ranked
    recipe = recipe_of(inputs, result)
    assert recipe.estimator.method == "first_order"
    assert {site.name: site.weight for site in recipe.sites if site.weight} == result.weights
    assert [site.name for site in recipe.sites] == NAMES
    assert [site.block for site in recipe.sites if site.weight] == [2], (
        "each block sees it as well, and the last one is the cheapest"
    )
    weights = np.array([result.weights.get(name, 0.0) for name in NAMES])
    expected = result.chosen.clean[0, :, 0]
    assert recipe.calibration.quantiles == pytest.approx(np.sort(expected))
    np.testing.assert_allclose(expected, contributions(None) @ weights * 0.01 / 0.99, rtol=0.2)
    blur = next(each for each in recipe.responses if each.family == "blur")
    assert blur.shape == "rising"
    assert blur.levels[-1].log_ratio.estimate.low > 0
    assert {each.family for each in recipe.responses} >= {"blur", "down", "contrast"}
    assert recipe.verdict.confirmation is not None
    assert recipe.verdict.confirmation.outcome == "met"


def test_the_recipe_s_words_are_of_the_choice_on_what_it_was_chosen_on(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, result = ranked
    worse = replace(result.confirmation.gains[CHOSEN_ON], estimate=figure(-0.2, 0.1))
    weak = {**result.reported.shares, ("chosen", CHOSEN_ON): figure(0.6, 0.05)}
    other = replace(
        result,
        confirmation=replace(result.confirmation, gains={**result.confirmation.gains, CHOSEN_ON: worse}),
        reported=replace(result.reported, shares=weak),
    )
    assert other.confirmation.gains[UNSEEN].estimate.low > 0
    verdict = recipe_of(inputs, other).verdict
    assert verdict.confirmation is not None
    assert (verdict.confirmation.outcome, verdict.valid) == ("not met", "not met")
    optimism = {gain.over: gain.optimism for gain in verdict.gains}
    assert optimism[f"{OVER_ALL}, {CHOSEN_ON}"] == pytest.approx(result.reported.optimism(OVER_ALL))
    assert {over for over, of in optimism.items() if of is not None} == {
        f"{over}, {CHOSEN_ON}" for over in (OVER_ALL, "best trivial score")
    }
    assert f"{OVER_ALL}, {UNSEEN}" in optimism


def test_log_scores_are_those_of_the_first_trial(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, result = ranked
    blur = next(each for each in recipe_of(inputs, result).responses if each.family == "blur")
    clean = np.log(result.reporting.clean[..., 0]).mean(axis=1)
    assert blur.log_score[0].estimate.value == pytest.approx(clean[0])
    assert clean[0] != pytest.approx(clean[-1])


def test_variants_of_one_original_are_one_origin_of_the_calibration(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, result = ranked
    pairs = replace(digits(), origins=tuple(digits().ids[i // 2] for i in range(N)))
    recipe = document.recipe_of(
        result, inputs.encoder(), pairs, EXPERIMENT.dropout, recipe_of(inputs, result).estimator, (32, 32),
        dimensions=None, seed=0, resamples=100,
    )  # fmt: skip
    assert (recipe.calibration.n, recipe.calibration.origins) == (N, N // 2)


def test_sites_that_break_linearity_are_named(ranked: tuple[Inputs, RecipeResult]) -> None:
    inputs, result = ranked
    assert list(result.linearity) == NAMES
    assert {name for name, of in result.linearity.items() if of.breaks} == BENT
    assert [of.ratio.value for of in result.linearity.values()] == pytest.approx(
        [0.6 if n in BENT else 1 for n in NAMES]
    )
    assert sum(of.share for of in result.linearity.values()) == pytest.approx(1)
    written = {site.name: site.linearity for site in recipe_of(inputs, result).sites}
    assert {name for name, of in written.items() if of is not None and of.estimate.high < 0.8} == BENT
    (level,) = (claim for claim in EXPERIMENT.claims() if claim.name == "domain_level/chosen")
    assert "sites that break linearity (3 of 13): visual.blocks" in str(level.beside(result))


def test_few_originals_weigh_no_dimensions() -> None:
    """A variance of each dimension from a handful of images is noise."""
    few = cast(
        "Inputs",
        MadeUpInputs(
            lambda _: pytest.fail("it was measured"), digits().select(slice(79)), encoders={"clip_tiny": ENCODER}
        ),
    )
    asked = [r for r in EXPERIMENT.requests(few) if isinstance(r, FirstOrder)]
    assert all(r.calibration is None for r in asked)
    enough = [r for r in EXPERIMENT.requests(made_up(agrees=True)) if isinstance(r, FirstOrder)]
    assert any(r.calibration is not None for r in enough)


def test_where_its_ranking_fails_groups_are_measured_by_passes() -> None:
    inputs = made_up(agrees=False, has_text=False)
    result = EXPERIMENT.compute(inputs)
    assert (result.judge, result.p) == ("passes", None)
    assert result.reported.choice.name == "attention_output"
    assert set(result.weights) == {name for name, role in SITES if role == "attention_output"}
    assert result.confirmation.p == 0.001
    assert ("chosen", UNSEEN) not in result.reported.shares
    outcomes = outcomes_of(EXPERIMENT, result)
    assert outcomes["gain_unseen/all_sites"] == outcomes["domain_ranking/chosen"] == "not applicable"
    assert outcomes["gain/all_sites"] == "met"
    recipe = recipe_of(inputs, result)
    assert (recipe.estimator.method, recipe.estimator.passes, recipe.p) == ("monte_carlo", 16, 0.001)
    assert recipe.verdict.domain is None
    assert result.maps["trace_pre"]["all"].entropy is None
    assert result.as_dict()["no_classes_read"] == "no text"
    asked = [r for r in EXPERIMENT.follow_up(inputs) if isinstance(r, Passes)]
    at_groups = [r for r in asked if r.shown.n == N]  # type: ignore[union-attr]
    assert {r.config.dropout.p for r in at_groups} == {0.001}


def test_where_its_level_is_off_and_its_ranking_holds_first_order_judges() -> None:
    """As on a real tower, where passes had .64 of its level at a rank correlation of .98."""
    result = EXPERIMENT.compute(made_up(agrees=True, level=0.64))
    assert (result.judge, result.p) == ("first order", 0.01)
    outcomes = outcomes_of(EXPERIMENT, result)
    assert (outcomes["domain_ranking/chosen"], outcomes["domain_level/chosen"]) == ("met", "not met")
    assert outcomes["gain/all_sites"] == outcomes["confirmed/all_sites"] == "met"


def test_weights_of_dimensions_are_chosen_where_they_see_more_and_stand_in_the_recipe() -> None:
    inputs = made_up(agrees=True, seen_by_dimensions=True)
    result = EXPERIMENT.compute(inputs)
    assert result.reported.choice.score in WEIGHTED
    recipe, halves = recipe_of(inputs, result), second_half(digits().origins, EXPERIMENT.seed)
    assert recipe.dimensions is not None
    assert set(recipe.dimensions.origins) == set(np.array(digits().origins)[~halves])
    assert recipe.calibration.n == halves.sum(), "no image that the weights know calibrates the score"
    assert (OVER_ALL, UNSEEN) in result.reported.gains
    asked = [r for r in EXPERIMENT.follow_up(inputs) if isinstance(r, FirstOrder)]
    assert {r.shown.degradation for r in asked if isinstance(r.shown, Images)} == {None, *EXPERIMENT.every(inputs)}
    named = EXPERIMENT.arrays(inputs, result)["{}/recipe_scores.npz"]
    assert len(np.asarray(named["paths"])) == len(np.asarray(named["clean"])[0]) == halves.sum()


def test_too_few_originals_are_refused_before_anything_is_measured() -> None:
    inputs = cast("Inputs", MadeUpInputs(lambda _: pytest.fail("it was measured"), digits().select(slice(19))))
    with pytest.raises(McdoError, match="19 originals make no recipe: give at least 20"):
        list(EXPERIMENT.requests(inputs))


def figure(value: float, arm: float) -> Estimate:
    return Estimate(value, value - arm, value + arm, 50)


def test_the_ranking_decides_at_which_p_first_order_judges_and_the_level_does_not() -> None:
    def found(ranking: Estimate, ratio: float = 1.0) -> dict[str, Agreement]:
        return {"trace_pre": Agreement(figure(ratio, 0.01), ranking, ranking)}

    good, open_, bad = figure(0.98, 0.01), figure(0.9, 0.1), figure(0.5, 0.1)
    assert judging_p({0.01: found(good, ratio=0.64), 0.001: found(good)}) == 0.01
    assert judging_p({0.01: found(bad), 0.001: found(good)}) == 0.001
    assert judging_p({0.01: found(open_), 0.001: found(good)}) == 0.001
    assert judging_p({0.01: found(open_), 0.001: found(bad)}) == 0.01
    assert judging_p({0.01: found(bad), 0.001: found(bad)}) is None


def test_fewer_trials_are_of_the_passes_and_not_of_first_order() -> None:
    """Images share the probes of a trial, so that fewer than five give no interval."""
    sizes = Sizes(num_images=24, passes=(4,), trials=2)
    asked = RecipeSearch.configured(Settings(("clip_tiny",), protocol="quick", sizes=sizes))
    assert (asked.n, asked.passes, asked.trials, asked.probe_trials) == (24, 4, 2, 5)
    assert (asked.site_images, asked.site_passes) == (4, 4)


def test_few_images_are_shown_few_levels() -> None:
    inputs = made_up(agrees=True)
    sets = {n: len(replace(EXPERIMENT, n=n, levels=4).every(inputs)) for n in (24, 80, 160, 400)}
    assert sets[24] == 8, "four to choose on, and one of each other family"
    assert sets[24] < sets[80] < sets[160] == sets[400]
