from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from mcdo.errors import McdoError
from mcdo.stats import (
    ambiguity_estimates,
    ambiguity_report,
    ambiguity_targets,
    disattenuated,
    null_pass_rate,
    partial_spearman,
    spearman,
    spearman_permutation_p,
)

law = settings(derandomize=True, deadline=None, max_examples=25)
tied = hnp.arrays(np.float64, (3, 12), elements=st.integers(0, 6).map(float))
rng = np.random.default_rng(0)
Z = rng.normal(size=300)
X, Y = Z + rng.normal(size=300), Z + rng.normal(size=300)


@law
@given(tied)
def test_spearman_matches_scipy_with_ties(rows: NDArray[np.float64]) -> None:
    assume(all(np.ptp(row) > 0 for row in rows[:2]))
    expected = stats.spearmanr(rows[0], rows[1]).statistic
    assert spearman(rows[0], rows[1], resamples=2).value == pytest.approx(expected)


def test_spearman_interval_matches_a_naive_bootstrap() -> None:
    found = spearman(X, Y, seed=1, resamples=2000)
    draws = [stats.spearmanr(X[i], Y[i]).statistic for i in rng.integers(0, 300, (500, 300))]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.015)


def test_spearman_of_a_constant_is_undefined_and_of_itself_one() -> None:
    constant = spearman([1, 1, 1, 1], [1, 2, 3, 4])
    assert math.isnan(constant.value)
    assert constant.verdict(0.3, ">") == "undecided"
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]).value == 1.0


@law
@given(tied)
def test_partial_spearman_is_the_formula_for_one_and_the_regression_residual_for_two(rows: NDArray[np.float64]) -> None:
    noise = np.random.default_rng(5).normal(size=(3, 12)) / 100
    x, y, z = np.round(rows + noise, 2)  # a few ties survive, exact dependence does not
    r = stats.spearmanr(np.stack([x, y, z]), axis=1).statistic
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert partial_spearman(x, y, z, resamples=2).value == pytest.approx(expected)
    given_two = np.stack([z, np.arange(12.0)])
    design, ranks = stats.rankdata(given_two, axis=1).T, stats.rankdata([x, y], axis=1)
    a, b = (r - LinearRegression().fit(design, r).predict(design) for r in ranks)
    assert partial_spearman(x, y, given_two, resamples=2).value == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_partial_spearman_removes_a_common_cause() -> None:
    assert spearman(X, Y).verdict(0.3) == "met"
    assert abs(partial_spearman(X, Y, Z).value) < 0.12
    assert partial_spearman(X, Y, Z).low < 0 < partial_spearman(X, Y, Z).high


def test_partial_spearman_of_degenerate_covariates() -> None:
    plain = spearman(X, Y).value
    assert partial_spearman(X, Y, np.ones(300)).value == pytest.approx(plain)
    once, twice = partial_spearman(X, Y, Z), partial_spearman(X, Y, np.stack([Z, 2 * Z]))
    assert twice.value == pytest.approx(once.value)
    assert math.isnan(partial_spearman(X, Y, np.exp(X)).value)


def test_permutation_p_is_exact_for_few_and_plus_one_for_many() -> None:
    assert spearman_permutation_p([1, 2, 3, 4], [1, 2, 3, 4], alternative="greater") == pytest.approx(1 / 24)
    assert spearman_permutation_p(X, Y, permutations=199, alternative="greater") == pytest.approx(1 / 200)
    assert spearman_permutation_p(X, rng.permutation(Y), seed=3) > 0.05
    assert math.isnan(spearman_permutation_p([1, 1, 1], [1, 2, 3]))


def test_disattenuation_divides_by_the_geometric_mean() -> None:
    assert disattenuated(0.3, 0.5, 0.72) == pytest.approx(0.5)
    assert disattenuated(0.9, 0.5, 0.5) == pytest.approx(1.8)
    assert math.isnan(disattenuated(0.3, 0.0, 0.5))
    assert math.isnan(disattenuated(0.3, -0.1, -0.5))


LOGITS = np.random.default_rng(7).normal(size=(3, 200, 5)) * 0.2 + np.random.default_rng(8).normal(size=(200, 5))
TARGETS = ambiguity_targets(LOGITS, np.random.default_rng(9).integers(0, 5, 200))


def test_report_holds_the_published_keys_with_their_figures() -> None:
    assert TARGETS.prompt_sensitivity is not None
    assert TARGETS.correct is not None
    score = TARGETS.entropy + np.random.default_rng(1).normal(size=200)
    norm = score + np.random.default_rng(2).normal(size=200)
    report = json.loads(json.dumps(ambiguity_report(score, TARGETS, norm, resamples=50), allow_nan=False))
    expected = {
        "rho_uncertainty_vs_negative_margin": stats.spearmanr(score, TARGETS.neg_margin).statistic,
        "rho_uncertainty_vs_entropy": stats.spearmanr(score, TARGETS.entropy).statistic,
        "rho_uncertainty_vs_prompt_sensitivity": stats.spearmanr(score, TARGETS.prompt_sensitivity).statistic,
        "auroc_low_margin": roc_auc_score(-TARGETS.neg_margin <= np.quantile(-TARGETS.neg_margin, 0.1), score),
        "auroc_high_entropy": roc_auc_score(TARGETS.entropy >= np.quantile(TARGETS.entropy, 0.9), score),
        "auroc_error": roc_auc_score(~TARGETS.correct, score),
    }
    for key, value in expected.items():
        assert report[key] == pytest.approx(value)
        assert report[f"{key}_ci"][0] <= report[key] <= report[f"{key}_ci"][1]
    assert report["rho_uncertainty_vs_entropy_given_norm"] == pytest.approx(
        partial_spearman(score, TARGETS.entropy, norm).value
    )
    assert (report["n"], report["undefined"]) == (200, [])
    assert report["n_errors"] == int((~TARGETS.correct).sum())


def test_a_score_that_is_the_norm_has_no_relation_given_the_norm() -> None:
    score = TARGETS.entropy
    found = ambiguity_estimates(score, TARGETS, np.exp(score), resamples=20)
    assert found["rho_uncertainty_vs_entropy"].value == 1.0
    assert found["auroc_high_entropy"].value == 1.0
    assert math.isnan(found["rho_uncertainty_vs_negative_margin_given_norm"].value)
    assert found["auroc_high_entropy_given_norm"].value == 0.5


def test_targets_that_are_missing_are_listed_as_undefined() -> None:
    report = ambiguity_report(X[:200], ambiguity_targets(LOGITS[0]), resamples=20)
    assert report["undefined"] == ["rho_uncertainty_vs_prompt_sensitivity", "auroc_error"]
    assert report["auroc_error"] is report["n_errors"] is None
    assert not [key for key in report if key.endswith("_given_norm")]


def test_null_pass_rate_counts_and_holds_its_level() -> None:
    seen: list[NDArray[np.float64]] = []

    def bars(scores: NDArray[np.float64]) -> bool:
        seen.append(scores)
        return bool(stats.spearmanr(scores[0], TARGETS.entropy).statistic > 0.3)

    scores = np.stack([TARGETS.entropy, 2 * TARGETS.entropy])
    assert bars(scores)
    found = null_pass_rate(bars, scores, permutations=100)
    assert (found.passed, found.rate.value, found.rate.low) == (0, 0, 0)
    assert found.rate.high == pytest.approx(1 - 0.025 ** (1 / 100))
    np.testing.assert_array_equal(seen[-1][1], 2 * seen[-1][0])
    np.testing.assert_array_equal(np.sort(seen[-1][0]), np.sort(scores[0]))
    assert null_pass_rate(lambda s: bool(s[0] < 0), Z, permutations=400).rate.verdict(0.25, ">") == "met"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 2, 3], [1, 2]), "unequal length"),
        (lambda: spearman([1, 2], [1, 2]), "at least 3"),
        (lambda: spearman([1, 2, math.nan], [1, 2, 3]), "x holds nan at image 2"),
        (lambda: spearman(np.ones((1, 2, 3)), [1, 2, 3]), r"x has shape \[1, 2, 3\]; give \[N\], or \[K, N\]"),
        (lambda: spearman([[1.0, 2, 3], [1.0, math.nan, 2]], [1, 2, 3]), "x holds nan at trial 1, image 1"),
        (lambda: partial_spearman([1, 2, 3], [1, 2, 3], [1, 2, 3]), "at least 4"),
        (lambda: ambiguity_report([1, 2, 3], TARGETS), "unequal length"),
    ],
)
def test_malformed_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        call()
