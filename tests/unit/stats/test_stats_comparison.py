"""Paired differences against SciPy on explicit resamples, and against what must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import Estimate, Inferred, auroc_differences, corrected_families, holm, spearman_differences
from mcdo.stats.sample import spread

N = 80
TARGET, *NOISE = np.random.default_rng(0).normal(size=(4, N))
SCORES = {
    "reference": np.round(0.3 * TARGET + NOISE[0], 1),  # ties on purpose
    "better": TARGET + 0.3 * NOISE[1],
    "noise": NOISE[2],
}
POSITIVE = TARGET > 0.5


def resamples(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, N, size=(count, N)))


def test_spearman_difference_and_interval_are_those_of_explicit_resamples() -> None:
    found = spearman_differences(SCORES, "reference", TARGET, seed=3, resamples=200)["better"]

    def difference(index: np.ndarray) -> float:
        rho = [scipy.stats.spearmanr(SCORES[name][index], TARGET[index]).statistic for name in ("better", "reference")]
        return float(rho[0] - rho[1])

    draws = np.sort([difference(index) for index in resamples(200, 3)])
    assert found.estimate.value == pytest.approx(difference(np.arange(N)), abs=1e-12)
    assert (found.estimate.low, found.estimate.high) == pytest.approx((draws[4], draws[194]), abs=1e-12)
    error = draws.std(ddof=1) * math.sqrt(N / (N - 1))
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(found.estimate.value / error, N - 1))


def test_a_clearly_better_score_is_found_and_an_equal_one_is_not() -> None:
    scores = {"reference": SCORES["reference"], "better": SCORES["better"], "same": 2 * SCORES["reference"] + 1}
    found = spearman_differences(scores, "reference", TARGET, resamples=500)
    assert found["better"].estimate.low > 0
    assert found["better"].p_holm < 0.05
    assert found["same"].estimate.value == found["same"].estimate.low == found["same"].estimate.high == 0
    assert found["same"].p_value == 1


def test_holm_runs_over_the_family_and_over_joined_families() -> None:
    rho = spearman_differences(SCORES, "reference", TARGET, resamples=200)
    assert [d.p_holm for d in rho.values()] == pytest.approx(list(holm([d.p_value for d in rho.values()])))
    area = auroc_differences(SCORES, "reference", POSITIVE)
    joined = corrected_families({"rho": rho, "auroc": area})
    everything = [d for family in joined.values() for d in family.values()]
    assert [d.p_holm for d in everything] == pytest.approx(list(holm([d.p_value for d in everything])))


def test_an_undefined_difference_is_no_test() -> None:
    scores = {**SCORES, "constant": np.ones(N)}
    found = spearman_differences(scores, "reference", TARGET, resamples=50)
    assert math.isnan(found["constant"].estimate.value)
    assert math.isnan(found["constant"].p_holm)
    assert found["constant"].as_dict()["p_holm"] is None
    assert found["noise"].p_holm <= 2 * found["noise"].p_value


@pytest.mark.parametrize(
    ("value", "draws", "p"),
    [
        (1.959963984540054 * math.sqrt(2), [-1.0, 1.0, math.nan], 0.05),  # standard error √2
        (-1.959963984540054 * math.sqrt(2), [-1.0, 1.0, math.nan], 0.05),
        (0.0, [0.0, 0.0], 1.0),
        (1.0, [1.0, 1.0], 0.0),
        (1.0, [math.nan, 1.0], math.nan),
    ],
)
def test_p_of_an_estimate_by_hand(value: float, draws: list[float], p: float) -> None:
    found = Inferred(Estimate(value, math.nan, math.nan, 0), spread(draws)).p_value
    assert found == pytest.approx(p, nan_ok=True)


def test_p_is_uniform_where_two_scores_are_equally_good() -> None:
    p = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        target = rng.normal(size=60)
        scores = {"reference": target + rng.normal(size=60), "other": target + rng.normal(size=60)}
        p.append(spearman_differences(scores, "reference", target, seed=seed, resamples=200)["other"].p_value)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(McdoError, match="referense"):
        spearman_differences(SCORES, "referense", TARGET)
    with pytest.raises(McdoError, match="compare"):
        spearman_differences({"reference": TARGET}, "reference", TARGET)
    with pytest.raises(McdoError, match="unequal length"):
        auroc_differences(SCORES, "reference", POSITIVE[:-1])
