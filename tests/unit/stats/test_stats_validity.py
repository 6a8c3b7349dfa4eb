from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    AmbiguityTargets,
    ambiguity_estimates,
    ambiguity_table,
    ambiguity_targets,
    null_pass_rate,
    partial_spearman,
    report_of,
)

Z, *NOISE = np.random.default_rng(0).normal(size=(3, 300))
X, Y = Z + NOISE


LOGITS = np.random.default_rng(7).normal(size=(3, 200, 5)) * 0.2 + np.random.default_rng(8).normal(size=(200, 5))
LABELS = np.random.default_rng(9).integers(0, 5, 200)


@pytest.fixture(scope="module")
def targets() -> AmbiguityTargets:
    return ambiguity_targets(LOGITS, LABELS)


def test_report_holds_the_published_keys_with_their_figures(targets: AmbiguityTargets) -> None:
    from sklearn.metrics import roc_auc_score

    assert targets.prompt_sensitivity is not None
    assert targets.correct is not None
    score = targets.entropy + np.random.default_rng(1).normal(size=200)
    norm = score + np.random.default_rng(2).normal(size=200)
    report = report_of(ambiguity_estimates(score, targets, norm, resamples=50), targets)
    report = json.loads(json.dumps(report, allow_nan=False))
    expected = {
        "rho_uncertainty_vs_negative_margin": scipy.stats.spearmanr(score, targets.neg_margin).statistic,
        "rho_uncertainty_vs_entropy": scipy.stats.spearmanr(score, targets.entropy).statistic,
        "rho_uncertainty_vs_prompt_sensitivity": scipy.stats.spearmanr(score, targets.prompt_sensitivity).statistic,
        "auroc_low_margin": roc_auc_score(-targets.neg_margin <= np.quantile(-targets.neg_margin, 0.1), score),
        "auroc_high_entropy": roc_auc_score(targets.entropy >= np.quantile(targets.entropy, 0.9), score),
        "auroc_error": roc_auc_score(~targets.correct, score),
    }
    for key, value in expected.items():
        assert report[key] == pytest.approx(value)
        assert report[f"{key}_ci"][0] <= report[key] <= report[f"{key}_ci"][1]
    assert report["rho_uncertainty_vs_entropy_given_norm"] == pytest.approx(
        partial_spearman(score, targets.entropy, norm).value
    )
    assert (report["n"], report["undefined"]) == (200, [])
    assert report["n_errors"] == int((~targets.correct).sum())


def test_a_score_that_is_the_norm_has_no_relation_given_the_norm(targets: AmbiguityTargets) -> None:
    score = targets.entropy
    found = ambiguity_estimates(score, targets, np.exp(score), resamples=20)
    assert found["rho_uncertainty_vs_entropy"].value == 1.0
    assert found["auroc_high_entropy"].value == 1.0
    assert math.isnan(found["rho_uncertainty_vs_negative_margin_given_norm"].value)
    assert found["auroc_high_entropy_given_norm"].value == 0.5


@pytest.mark.parametrize("trials", [None, 6])
@pytest.mark.parametrize("target", ["zero-shot", "without prompts and labels"])
def test_scores_in_one_table_have_the_figures_that_each_has_alone(
    trials: int | None, target: str, targets: AmbiguityTargets
) -> None:
    targets = targets if target == "zero-shot" else ambiguity_targets(LOGITS[0])
    drawn = np.random.default_rng(3)
    norm = drawn.gamma(9, size=200)
    shape = (200,) if trials is None else (trials, 200)
    scores = {"norm": norm, "one": drawn.normal(size=shape), "tied": drawn.integers(0, 9, shape) + norm / 9}
    how: dict[str, Any] = {"origins": [f"origin {i // 3}" for i in range(200)], "resamples": 40, "seed": 5}
    together = ambiguity_table(scores, targets, norm, norms={"norm"}, shared_noise=trials is not None, **how)
    assert list(together) == list(scores)
    for name, score in scores.items():
        given, shared = (None, False) if name == "norm" else (norm, trials is not None)
        alone = ambiguity_estimates(score, targets, given, shared_noise=shared, **how)
        assert list(together[name]) == list(alone)
        for key, estimate in alone.items():
            assert np.allclose(
                (together[name][key].value, together[name][key].low, together[name][key].high),
                (estimate.value, estimate.low, estimate.high), rtol=0, atol=1e-12, equal_nan=True,
            ), (name, key)  # fmt: skip


def test_targets_that_are_missing_are_listed_as_undefined() -> None:
    targets = ambiguity_targets(LOGITS[0])
    report = report_of(ambiguity_estimates(X[:200], targets, resamples=20), targets)
    assert report["undefined"] == ["rho_uncertainty_vs_prompt_sensitivity", "auroc_error"]
    assert report["auroc_error"] is report["n_errors"] is None
    assert not [key for key in report if key.endswith("_given_norm")]


def test_null_pass_rate_counts_and_holds_its_level(targets: AmbiguityTargets) -> None:
    seen: list[NDArray[np.float64]] = []

    def bars(scores: NDArray[np.float64]) -> bool:
        seen.append(scores)
        return bool(scipy.stats.spearmanr(scores[0], targets.entropy).statistic > 0.3)

    scores = np.stack([targets.entropy, 2 * targets.entropy])
    assert bars(scores)
    found = null_pass_rate(bars, scores, permutations=100)
    assert (found.passed, found.rate.value, found.rate.low) == (0, 0, 0)
    assert found.rate.high == pytest.approx(1 - 0.025 ** (1 / 100))
    np.testing.assert_array_equal(seen[-1][1], 2 * seen[-1][0])
    np.testing.assert_array_equal(np.sort(seen[-1][0]), np.sort(scores[0]))
    assert null_pass_rate(lambda s: bool(s[0] < 0), Z, permutations=400).rate.outcome(0.25, ">") == "met"


def test_malformed_input_is_named(targets: AmbiguityTargets) -> None:
    with pytest.raises(McdoError, match="unequal length"):
        ambiguity_estimates([1, 2, 3], targets)
