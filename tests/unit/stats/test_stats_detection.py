"""Areas under the ROC curve against scikit-learn, and their errors against DeLong's formula over all pairs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import auroc, auroc_differences, auroc_high, auroc_low
from mcdo.stats.detection import LEAST_CLASS

Array = NDArray[Any]
law = settings(derandomize=True, deadline=None, max_examples=25)
tied = hnp.arrays(np.float64, (3, 12), elements=st.integers(0, 6).map(float))
Z, *NOISE = np.random.default_rng(0).normal(size=(3, 300))
X, Y = Z + NOISE


def pairwise(score: Array, positive: Array) -> Array:
    """1 where a positive (row) is above a negative (column), half where equal."""
    gap = score[positive][:, None] - score[~positive]
    return np.asarray((gap > 0) + (gap == 0) / 2)


def delong(first: Array, second: Array, positive: Array) -> tuple[Array, Array, float]:
    """Areas of two scores, their covariance (DeLong et al. 1988), and Satterthwaite's df of the first."""
    psi = np.stack([pairwise(score, positive) for score in (first, second)])
    P, N = psi.shape[1:]
    s10, s01 = np.cov(psi.mean(axis=2)) / P, np.cov(psi.mean(axis=1)) / N
    df = (s10[0, 0] + s01[0, 0]) ** 2 / (s10[0, 0] ** 2 / (P - 1) + s01[0, 0] ** 2 / (N - 1))
    return psi.mean(axis=(1, 2)), s10 + s01, float(df)


@law
@given(tied)
def test_the_area_is_scikit_learn_s_with_ties(rows: Array) -> None:
    from sklearn.metrics import roc_auc_score

    positive = rows[1] > 2
    assume(0 < positive.sum() < 12)
    found = auroc(rows[0], positive).value
    assert found == pytest.approx(roc_auc_score(positive, rows[0]))
    assert found == pytest.approx(auroc(np.exp(rows[0]), positive).value)
    assert found == pytest.approx(1 - auroc(-rows[0], positive).value)


def test_the_area_by_hand() -> None:
    assert auroc([1, 2, 2, 3], [0, 0, 1, 1]).value == pytest.approx(3.5 / 4)
    assert auroc([0.0, 0.0], [0, 1]).value == 0.5


def test_one_class_is_undefined_and_odd_labels_are_refused() -> None:
    assert math.isnan(auroc([1, 2, 3], [1, 1, 1]).value)
    assert math.isnan(auroc([1, 2, 3], [0, 0, 0]).low)
    with pytest.raises(McdoError, match="positive holds 2"):
        auroc([1, 2, 3], [0, 1, 2])
    with pytest.raises(McdoError, match="0 images; at least 1"):
        auroc([], [])


@pytest.mark.parametrize("decimals", [9, 0], ids=["no_ties", "ties"])
def test_the_interval_is_delong_s_on_the_logit_scale(decimals: int) -> None:
    score, positive = np.round(X, decimals), np.quantile(Y, 0.8) < Y
    areas, covariance, df = delong(score, score, positive)
    reach = scipy.stats.t.ppf(0.95, df) * math.sqrt(covariance[0, 0]) / (areas[0] * (1 - areas[0]))
    found = auroc(score, positive, level=0.9)
    expected = scipy.special.expit(scipy.special.logit(areas[0]) + np.array([-reach, reach]))
    assert (found.value, found.low, found.high) == pytest.approx((areas[0], *expected))


def test_the_interval_is_near_that_of_a_naive_bootstrap() -> None:
    positive = np.quantile(Y, 0.8) < Y
    found = auroc(X, positive)
    counts = np.random.default_rng(1).multinomial(300, np.full(300, 1 / 300), size=400)
    held, others = counts[:, positive], counts[:, ~positive]
    draws = (held @ pairwise(X, positive) * others).sum(axis=1) / (held.sum(axis=1) * others.sum(axis=1))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.02)


def test_a_difference_is_paired_by_delong_s_covariance() -> None:
    positive = np.quantile(Y, 0.7) < Y
    other = X + np.random.default_rng(1).normal(size=300)
    areas, covariance, _ = delong(X, other, positive)
    found = auroc_differences({"x": X, "other": other, "same": 3 * X}, "other", positive)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found["x"].estimate.value == pytest.approx(areas[0] - areas[1])
    assert found["x"].p_value == pytest.approx(2 * scipy.stats.norm.sf((areas[0] - areas[1]) / error), rel=0.1)
    assert found["x"].estimate.high - found["x"].estimate.value == pytest.approx(1.97 * error, rel=0.01)
    assert found["same"].estimate == found["x"].estimate
    unlike = auroc_differences({"x": X, "same": 3 * X}, "x", positive)["same"]
    assert (unlike.estimate.value, unlike.estimate.low, unlike.estimate.high, unlike.p_value) == (0, 0, 0, 1)


def test_clustered_error_is_that_of_obuchowski_s_sums() -> None:
    """Her S10, S01 and S11 (Biometrics 1997, eq. 5 to 7) by explicit sums over origins, two of each class in each."""
    positive, origin = np.arange(300) % 4 > 1, np.arange(300) // 4
    psi = pairwise(X, positive)
    area, P, N, n = psi.mean(), *psi.shape, 75
    ten = np.array([(psi.mean(axis=1)[origin[positive] == u] - area).sum() for u in range(n)])
    one = np.array([(psi.mean(axis=0)[origin[~positive] == u] - area).sum() for u in range(n)])
    I10, I01 = len(np.unique(origin[positive])), len(np.unique(origin[~positive]))
    s10, s01 = I10 / (I10 - 1) * (ten**2).sum() / P**2, I01 / (I01 - 1) * (one**2).sum() / N**2
    variance = s10 + s01 + 2 * n / (n - 1) * (ten * one).sum() / (P * N)
    df = (s10 + s01) ** 2 / (s10**2 / (I10 - 1) + s01**2 / (I01 - 1))
    found = auroc(X, positive, origins=origin)
    reach = scipy.stats.t.ppf(0.975, df) * math.sqrt(variance) / (area * (1 - area))
    assert scipy.special.logit(found.high) - scipy.special.logit(found.value) == pytest.approx(reach)
    assert found.n == 75


def test_an_origin_with_most_images_does_not_answer_for_the_others() -> None:
    """The area is nearly that origin's own, so the deviations from it are small whatever the other origins say."""
    rng, origin = np.random.default_rng(1), np.repeat(np.arange(60), [180, *[1] * 59])
    truth, runs = scipy.stats.norm.cdf(1 / np.sqrt(2)), 150
    inside, alike = 0, 0

    def variants() -> Array:
        return np.asarray(np.sqrt(0.7) * rng.normal(size=60)[origin] + np.sqrt(0.3) * rng.normal(size=239))

    for _ in range(runs):
        positive = variants() > 0.5
        scores = {name: positive + variants() for name in ("one", "other")}
        found = auroc(scores["one"], positive, origins=origin)
        gap = auroc_differences(scores, "other", positive, origins=origin)["one"].estimate
        inside += not found.has_interval or found.low <= truth <= found.high
        alike += not gap.has_interval or gap.low <= 0 <= gap.high
    assert min(inside, alike) / runs >= 0.9


def test_too_few_of_a_class_have_a_value_and_no_interval() -> None:
    few = np.arange(300) < LEAST_CLASS - 1
    for rare in (few, ~few, np.arange(300) < 60):
        origins = np.where(np.arange(300) < 60, np.arange(300) % (LEAST_CLASS - 1), np.arange(300))
        found = auroc(X, rare, origins=origins)
        assert 0 < found.value < 1
        assert math.isnan(found.low)
        assert found.outcome(0.1) == "undecided"
        difference = auroc_differences({"x": X, "y": Y}, "y", rare, origins=origins)["x"]
        assert math.isnan(difference.p_value)
        assert math.isnan(difference.p_holm)
    assert auroc(X, np.arange(300) < LEAST_CLASS).low > 0


def test_classes_that_are_wholly_apart_are_not_sure_to_be() -> None:
    """The lower end θ solves (1 − θ)² = z² V(θ), V of Hanley & McNeil with Newcombe's mean of the two sizes."""
    positive = np.arange(50) >= 38
    found = auroc(np.arange(50.0), positive)
    theta, mean = found.low, 25 - 1
    variance = theta * (1 - theta) * (1 + mean * (1 - theta) / (2 - theta) + mean * theta / (1 + theta)) / (12 * 38)
    assert (found.value, found.high) == (1.0, 1.0)
    assert (1 - theta) ** 2 == pytest.approx(scipy.stats.norm.ppf(0.975) ** 2 * variance)
    assert 0.7 < theta < 0.95
    mirrored = auroc(-np.arange(50.0), positive)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx((0.0, 0.0, 1 - theta))


def test_scores_that_are_never_wrong_need_not_be_equally_good() -> None:
    """Neither leaves any variance, so their difference has what the two areas leave open."""
    positive = np.arange(50) >= 38
    first, second = np.arange(50.0), np.where(positive, 100, 0) - np.arange(50.0)
    low = auroc(first, positive).low
    scores = {"first": first, "same": np.exp(first / 9), "second": second, "constant": np.ones(50)}
    found = {name: d.estimate for name, d in auroc_differences(scores, "first", positive).items()}
    assert (found["same"].low, found["same"].high) == (0, 0)
    assert (found["second"].value, found["second"].low) == pytest.approx((0, low - 1))
    assert found["second"].outcome(0, ">") == "undecided"
    assert (found["constant"].low, found["constant"].high) == pytest.approx((-0.5, -0.5 + 1 - low))
    assert 0 < auroc_differences(scores, "constant", positive)["first"].p_value < 1e-6


def test_a_constant_score_has_the_area_of_chance_in_every_sample() -> None:
    found = auroc(np.ones(60), np.arange(60) < 20)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_high_and_low_cut_at_their_own_quantiles() -> None:
    target = np.arange(20.0)
    assert auroc_high(target, target).value == 1.0
    assert auroc_low(-target, target).value == 1.0
    bottom, top = np.quantile(Y, [0.1, 0.9])
    assert auroc_high(X, Y, 0.9) == auroc(X, [y >= top for y in Y])
    assert auroc_low(X, Y, 0.1) == auroc(X, [y <= bottom for y in Y])
    assert math.isnan(auroc_high(X, np.ones(300)).value)


@pytest.mark.parametrize(("positives", "variants"), [(LEAST_CLASS, 1), (20, 1), (20, 4)])
def test_the_interval_covers_the_true_area(positives: int, variants: int) -> None:
    """Normal scores a standard deviation apart: area Φ(1/√2) = .760; variants share half their origin's variance."""
    rng, covered, runs = np.random.default_rng(positives), 0, 400
    positive = np.repeat(np.arange(100 + positives) < positives, variants)
    origins = np.arange(len(positive)) // variants
    for _ in range(runs):
        own, between = rng.normal(size=len(positive)), rng.normal(size=100 + positives)[origins]
        score = positive + (np.sqrt(0.5) * (own + between) if variants > 1 else own)
        found = auroc(score, positive, origins=origins)
        covered += found.low <= scipy.stats.norm.cdf(1 / np.sqrt(2)) <= found.high
    assert 0.92 - 0.022 < covered / runs < 0.98 + 0.014, covered / runs  # two standard errors of 400 runs


def test_p_of_a_difference_is_uniform_where_two_scores_are_equally_good() -> None:
    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        target = rng.normal(size=120)
        scores = {name: target + rng.normal(size=120) for name in ("reference", "other")}
        p.append(auroc_differences(scores, "reference", target > 0.5)["other"].p_value)
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_images_at_the_quantile_are_positives() -> None:
    target = np.arange(11.0)  # the quantiles .1 and .9 are images 1 and 9
    lowest = np.where(target == 9, -1, target)
    assert auroc_high(lowest, target).value == 0.5, "images 9 and 10, below and above all others"
    assert auroc_low(-np.where(target == 1, 11, target), target).value == 0.5, "images 1 and 0"
