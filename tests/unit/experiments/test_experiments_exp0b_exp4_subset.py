"""Exp0b and exp4's subset: their figures against NumPy and SciPy, on made-up runs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of
from made_up_runs import Array, made_up_run, noisy

from mcdo.estimators import MonteCarloRun
from mcdo.experiments.phase1.exp0b_norm_geometry import ARRAYS, COUPLED, GeometryResult, NormGeometry
from mcdo.experiments.phase1.exp4_subset_recipe import RecipeResult, SubsetRecipe

N, K, ORIGINALS = 120, 5, 40
ORIGINS = tuple(f"digit{i // 3:02d}" for i in range(N))
GEOMETRY, SUBSET = NormGeometry(n=N, trials=K), SubsetRecipe(n=N, trials=K)


@pytest.fixture(scope="module")
def run() -> MonteCarloRun:
    """A trace of little noise; an angular variance that follows it, of much; every trial at another level."""
    rng = np.random.default_rng(0)
    true = np.repeat(np.exp(0.5 * rng.normal(size=ORIGINALS)), 3)
    scores = {score: rng.random((K, N)) * np.linspace(1, 2, K)[:, None] for score in ARRAYS.values()}
    scores["trace_pre"], scores["angular_var"] = noisy(true, K, rng), noisy(true, K, rng, 4)
    scores["trace_post"] = scores["trace_pre"] ** 2 + scores["trace_post"]
    eigenvalues = rng.random((K, N, 10)) * np.linspace(1, 2, K)[:, None, None]
    return replace(made_up_run(scores, origins=ORIGINS), _eigenvalues={64: eigenvalues})


@pytest.fixture(scope="module")
def geometry(run: MonteCarloRun) -> GeometryResult:
    return GEOMETRY.compute(inputs_of(lambda request: run))


@pytest.fixture(scope="module")
def subset(run: MonteCarloRun) -> RecipeResult:
    return SUBSET.compute(inputs_of(lambda request: run))


def rho(a: Array, b: Array) -> float:
    return float(scipy.stats.spearmanr(a, b).statistic)


def test_means_and_eigenvalues_are_over_all_trials(run: MonteCarloRun, geometry: GeometryResult) -> None:
    for name, score in ARRAYS.items():
        assert geometry.means[name].value == pytest.approx(run.scores(score).mean()), name
    assert geometry.eigenvalues == pytest.approx(run.eigenvalues(64).mean(axis=(0, 1)))


def test_every_name_is_that_of_its_score() -> None:
    for name, score in ARRAYS.items():
        assert score == name.removesuffix("_per_d").replace("offdiag_p", "offdiag_l1_p")


def test_off_diagonal_mass_is_less_its_floor_image_by_image(run: MonteCarloRun, geometry: GeometryResult) -> None:
    for name in COUPLED:
        mass, floor = (run.scores(ARRAYS[of]) for of in (name, f"{name}_floor"))
        assert geometry.above_floor[name].value == pytest.approx(mass.mean() - floor.mean())
    claimed = {claim.name: claim for claim in GEOMETRY.claims()}
    assert claimed["coupled/offdiag_post"].estimate(geometry) == geometry.above_floor["offdiag_post"]


def test_correlations_are_means_of_those_within_each_trial(run: MonteCarloRun, geometry: GeometryResult) -> None:
    pairs = {"pre_angular": ("trace_pre", "angular_var"), "post_angular": ("trace_post", "angular_var")}
    pairs = {f"corr_trace_{name}": pair for name, pair in {**pairs, "pre_post": ("trace_pre", "trace_post")}.items()}
    assert geometry.correlations.keys() == pairs.keys()
    for name, (one, other) in pairs.items():
        by_trial = [rho(a, b) for a, b in zip(run.scores(one), run.scores(other), strict=True)]
        assert geometry.correlations[name].value == pytest.approx(np.mean(by_trial)), name
        assert np.ptp(by_trial) > 0


def test_the_trace_is_ahead_where_its_trials_agree_more(run: MonteCarloRun, subset: RecipeResult) -> None:
    def agree(scores: Array) -> float:
        return float(np.mean([rho(a, b) for a, b in itertools.combinations(scores, 2)]))

    trace, angular = run.scores("trace_pre"), run.scores("angular_var")
    assert subset.advantage.value == pytest.approx(agree(trace) - agree(angular))
    assert subset.agreement.value == pytest.approx(rho(trace.mean(axis=0), angular.mean(axis=0)))
    assert subset.means == {"trace": pytest.approx(trace.mean()), "angular": pytest.approx(angular.mean())}
    assert subset.reliability["trace"].spearman > subset.reliability["angular"].spearman
    (claim,) = SUBSET.claims()
    assert claim.judge(subset).outcome == "met"


def test_images_of_one_original_are_one_draw(geometry: GeometryResult, subset: RecipeResult) -> None:
    of = (geometry.means, geometry.correlations, geometry.above_floor)
    n = {estimate.n for found in of for estimate in found.values()}
    n |= {subset.advantage.n, subset.agreement.n} | {r.n_origins for r in subset.reliability.values()}
    assert n == {ORIGINALS}
