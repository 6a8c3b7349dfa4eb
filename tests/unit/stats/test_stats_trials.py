"""Scores [K, N]: the figure of the mean over trials, and what noise that all images share adds to its interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    Estimate,
    GroupDifference,
    advantages,
    agreement,
    ambiguity_estimates,
    ambiguity_targets,
    auroc,
    auroc_differences,
    auroc_high,
    auroc_low,
    disattenuated_spearman,
    group_differences,
    mean,
    median,
    partial_spearman,
    rank_matrix,
    rank_relations,
    ratio_of_means,
    spearman,
    spearman_differences,
    trial_drift,
    trial_spearman,
)
from mcdo.stats.sample import Inferred
from mcdo.stats.trials import widened

Array = NDArray[np.float64]
N = 150
TARGET, NORM, NOISE = np.random.default_rng(0).normal(size=(3, N))
OTHER = TARGET + NOISE
LOGITS, LABELS = np.random.default_rng(1).normal(size=(3, N, 4)), np.random.default_rng(2).integers(0, 4, N)


def probed(rng: np.random.Generator, target: Array, K: int, probes: int = 8) -> Array:
    """Scores [K, N] as first order gives them: Σ_d w_id g_kd², with weights that the images differ in."""
    weights = np.exp(rng.normal(size=(len(target), 4)) + target[:, None] * [1, 0, 0, 0])
    own = np.exp(0.3 * (0.5 * target + rng.normal(size=len(target))))
    shared = rng.chisquare(probes, size=(K, 4)) / probes
    return np.asarray(own * (shared @ (weights / weights.sum(axis=1, keepdims=True)).T))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "spearman": lambda x, **o: spearman(x, TARGET, **o),
    "partial_spearman": lambda x, **o: partial_spearman(x, TARGET, NORM, **o),
    "auroc": lambda x, **o: auroc(x, TARGET > 0.5, **o),
    "auroc_high": lambda x, **o: auroc_high(x, TARGET, **o),
    "auroc_low": lambda x, **o: auroc_low(x, TARGET, **o),
    "ambiguity_estimates": lambda x, **o: ambiguity_estimates(x, ambiguity_targets(LOGITS, LABELS), NORM, **o),
    "spearman_differences": lambda x, **o: spearman_differences({"x": x, "o": OTHER}, "o", TARGET, **o)["x"].estimate,
    "auroc_differences": lambda x, **o: auroc_differences({"x": x, "o": OTHER}, "o", TARGET > 0.5, **o)["x"].estimate,
    "rank_relations": lambda x, **o: rank_relations({"x": x}, {"t": TARGET}, given=NORM, **o)["x", "t"].given,
    "follows": lambda x, **o: (
        advantages({"x": x}, {"o": OTHER}, follows={"t": TARGET}, detects={}, **o)["x", "o", "t"].estimate
    ),
    "detects": lambda x, **o: (
        advantages({"x": x}, {"o": OTHER}, follows={}, detects={"t": TARGET > 0.5}, **o)["x", "o", "t"].estimate
    ),
    "mean": mean,
    "median": median,
    "ratio_of_means": lambda x, **o: ratio_of_means(x, OTHER**2, **o),
    "group_differences": lambda x, **o: apart(x, **o).difference,
    "exceedance": lambda x, **o: apart(x, **o).exceedance,
}
"""Of scores that are averaged over their trials first."""
SECOND = probed(np.random.default_rng(10), TARGET, 6)
BETWEEN_TRIALS: dict[str, Callable[..., Any]] = {
    "rank_matrix": lambda x, **o: {
        **(found := rank_matrix({"x": x, "y": SECOND[: len(x)]}, **o)).raw,
        **found.disattenuated,
        **found.reliability,
    },
    "trial_drift": trial_drift,
    "disattenuated_spearman": lambda x, **o: disattenuated_spearman(x, TARGET, **o),
    "trial_spearman": lambda x, **o: trial_spearman(x, SECOND[: len(x)], **o),
    "agreement": lambda x, **o: vars(agreement(SECOND[:3], x, **o)),
}
EVERY = {**FUNCTIONS, **BETWEEN_TRIALS}


def apart(x: Array, **options: Any) -> GroupDifference:
    """The first third of the images, and the others."""
    groups = {"first": x[..., : N // 3], "second": x[..., N // 3 :]}
    return group_differences(groups, permutations=9, **options)["first", "second"]


def estimates(found: Any) -> list[Estimate]:
    return [found] if isinstance(found, Estimate) else [e for e in found.values() if not math.isnan(e.value)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_trials_are_averaged(name: str) -> None:
    x, of = probed(np.random.default_rng(1), TARGET, 5), FUNCTIONS[name]
    assert estimates(of(x)) == estimates(of(x.mean(axis=0)))
    assert estimates(of(x[:1])) == estimates(of(x[0]))


@pytest.mark.parametrize("name", EVERY)
def test_shared_noise_widens_both_arms_and_leaves_the_value(name: str) -> None:
    x, of = probed(np.random.default_rng(2), TARGET, 6, probes=2), EVERY[name]
    for plain, wide in zip(estimates(of(x)), estimates(of(x, shared_noise=True)), strict=True):
        assert (wide.value, wide.n) == (plain.value, plain.n)
        assert wide.low < plain.low
        assert wide.high > plain.high


@pytest.mark.parametrize("name", FUNCTIONS)
def test_trials_that_agree_widen_nothing(name: str) -> None:
    x, of = np.tile(OTHER + np.random.default_rng(4).normal(size=N), (5, 1)), FUNCTIONS[name]
    for plain, wide in zip(estimates(of(x)), estimates(of(x, shared_noise=True)), strict=True):
        assert (wide.low, wide.high) == pytest.approx((plain.low, plain.high), abs=1e-9)


@pytest.mark.parametrize("name", EVERY)
def test_fewer_than_five_trials_are_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(McdoError, match=r"4.*at least 5 are needed.*R = D \+ 1"):
        EVERY[name](probed(np.random.default_rng(5), TARGET, 4), shared_noise=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scores_without_trials_show_no_shared_noise(name: str) -> None:
    of = FUNCTIONS[name]
    with pytest.raises(McdoError, match="trials of the scores: none"):
        of(OTHER, shared_noise=True)


def test_scores_with_trials_have_as_many() -> None:
    scores = {name: probed(np.random.default_rng(6), TARGET, trials) for name, trials in (("a", 5), ("b", 6))}
    with pytest.raises(McdoError, match="'a': 5, 'b': 6"):
        spearman_differences(scores, "a", TARGET, shared_noise=True)


def test_the_interval_is_the_two_way_one_by_explicit_jackknife() -> None:
    x = probed(np.random.default_rng(3), TARGET, 7)
    plain, wide = spearman(x, TARGET), spearman(x, TARGET, shared_noise=True)
    without = np.array(
        [scipy.stats.spearmanr(np.delete(x, k, axis=0).mean(axis=0), TARGET).statistic for k in range(7)]
    )
    reach = scipy.stats.t.ppf(0.975, 6) * math.sqrt(6 / 7 * ((without - without.mean()) ** 2).sum())
    bias = 6 * (without.mean() - plain.value)
    low = plain.value - math.hypot(plain.value - plain.low, reach) - max(0, bias)
    high = plain.value + math.hypot(plain.high - plain.value, reach) + max(0, -bias)
    assert (wide.low, wide.high) == pytest.approx((low, high))


def test_reliability_in_a_matrix_is_widened_by_explicit_jackknife() -> None:
    """The mean over pairs of trials is without bias, so only the jackknife's error is added."""
    x = probed(np.random.default_rng(3), TARGET, 6, probes=4)

    def within(trials: Array) -> float:
        return float(scipy.stats.spearmanr(trials.T).statistic[np.triu_indices(len(trials), 1)].mean())

    plain, wide = (rank_matrix({"x": x, "y": SECOND}, shared_noise=known).reliability["x"] for known in (False, True))
    without = np.array([within(np.delete(x, k, axis=0)) for k in range(6)])
    assert without.mean() == pytest.approx(within(x))
    reach = scipy.stats.t.ppf(0.975, 5) * math.sqrt(5 / 6 * ((without - without.mean()) ** 2).sum())
    assert wide.low == pytest.approx(plain.value - math.hypot(plain.value - plain.low, reach))


def test_a_drift_reaches_as_far_as_the_line_through_the_trials() -> None:
    x = probed(np.random.default_rng(4), TARGET, 6, probes=2)
    line = scipy.stats.linregress(np.arange(6), x.mean(axis=1) / x.mean())
    found = trial_drift(x, shared_noise=True)
    reach = scipy.stats.t.ppf(0.975, 4) * line.stderr
    assert (found.value, found.low, found.high) == pytest.approx((line.slope, line.slope - reach, line.slope + reach))


def test_groups_that_only_probes_set_apart_have_a_p_that_knows_it() -> None:
    """Trials move the second group alone, by half a standard deviation: exchanged images take that for a difference."""
    rng, rejected, runs = np.random.default_rng(5), np.zeros(2), 50
    for _ in range(runs):
        first, second = rng.normal(size=(2, 6, 100)) * 0.3 + rng.normal(size=(2, 1, 100))
        second += 0.5 * rng.normal(size=(6, 1))
        for j, known in enumerate((False, True)):
            groups = {"first": first, "second": second}
            found = group_differences(groups, shared_noise=known, permutations=199, resamples=200)["first", "second"]
            rejected[j] += found.p_value < 0.05
    assert rejected[0] / runs > 0.15
    assert rejected[1] / runs < 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_widening_by_hand() -> None:
    """Jackknife values 0, 0, 0, 0, .5: variance 4 · .04, bias 4 · (.1 − .2); reach t(4) · .4 beyond both bounds."""
    tested = Inferred(Estimate(0.2, 0.1, 0.3, 50), error=0.3)
    found = widened(tested, np.array([0, 0, 0, 0, 0.5]), (-1.0, 1.0))
    assert found.error == pytest.approx(0.5)
    assert found.freedom == pytest.approx(0.25**2 / (0.16**2 / 4))
    reach = scipy.stats.t.ppf(0.975, 4) * 0.4
    assert found.estimate.low == pytest.approx(0.2 - math.hypot(0.1, reach))
    assert found.estimate.high == 1.0
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(0.4, found.freedom))
    undefined = widened(tested, np.array([0, 0, 0, 0, math.nan]), (-1.0, 1.0))
    assert math.isnan(undefined.estimate.low)
    assert math.isnan(undefined.p_value)


def test_the_interval_holds_what_other_probes_would_have_given() -> None:
    """The exact score's ρ, .483 on very many images: an interval over images alone has it in half of the runs."""
    covered = {False: 0, True: 0}
    truth, runs = exact_rho(), 150
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        target = rng.normal(size=400)
        x = probed(rng, target, 6)
        for shared in covered:
            found = spearman(x, target, shared_noise=shared, resamples=200)
            covered[shared] += found.low <= truth <= found.high
    assert covered[False] / runs < 0.7
    assert covered[True] / runs > 0.95 - 2 * math.sqrt(0.95 * 0.05 / runs)


def exact_rho() -> float:
    rng = np.random.default_rng(9)
    target = rng.normal(size=400_000)
    return float(scipy.stats.spearmanr(0.5 * target + rng.normal(size=400_000), target).statistic)


def test_p_holds_its_level_where_probes_are_shared() -> None:
    rejected, runs = 0, 200
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        x = probed(rng, rng.normal(size=200), 6)
        found = rank_relations({"x": x}, {"t": rng.normal(size=200)}, shared_noise=True, resamples=200)["x", "t"]
        rejected += found.p_value < 0.05
    assert rejected / runs < 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_equal_means_of_rounded_scores_are_ties_in_any_order_of_the_trials() -> None:
    """0.1, 0.2, 0.3 and 0.2, 0.2, 0.2 have one mean, which floats part; whole numbers do not."""
    from mcdo.stats.selective import risk_areas

    rng = np.random.default_rng(0)
    whole, target = rng.integers(1, 6, (5, 300)), rng.normal(size=300)
    rounded, reverse = whole / 10, whole[::-1] / 10
    positive = target > 0.5
    figures: tuple[Callable[[Array], Estimate], ...] = (
        lambda scores: spearman(scores, target),
        lambda scores: spearman(scores, target, shared_noise=True),
        lambda scores: auroc(scores, positive, shared_noise=True),
        lambda scores: risk_areas(scores, positive)["aurc"],
    )
    for figure in figures:
        exact = figure(whole.astype(np.float64))
        assert figure(rounded) == exact or figure(rounded).as_dict() == pytest.approx(exact.as_dict())
        assert figure(reverse) == exact or figure(reverse).as_dict() == pytest.approx(exact.as_dict())


def test_scores_that_differ_by_more_than_rounding_do_not_tie() -> None:
    scores = 1 + np.arange(50.0) * 1e-14 + np.zeros((3, 1))
    assert spearman(scores, np.arange(50.0)).value == pytest.approx(1)


@pytest.mark.parametrize("exponent", [-1010, -600, 600, 1010])
def test_numbers_of_any_size_have_their_spread_and_their_p(exponent: int) -> None:
    """Squares of likelihoods such as 1e-200 are nil: a mean had no spread then, and every difference p = 0."""
    from mcdo.stats import group_differences, mean, mean_differences, t_mean

    rng = np.random.default_rng(0)
    scores = rng.exponential(size=(6, 60))

    def found(scores: Array, exponent: int) -> list[float]:
        first, second = scores[:, :30], scores[:, 30:] * 1.2
        groups = [
            group_differences({"a": first, "b": second}, shared_noise=shared, permutations=99, resamples=50)["a", "b"]
            for shared in (False, True)
        ]
        pair = mean_differences({"a": scores[0], "b": scores[1]}, "b")["a"]
        with_units = [t_mean(scores[0]), mean(scores, shared_noise=True, resamples=50), pair.estimate]
        ends = np.ldexp([end for e in with_units for end in (e.value, e.low, e.high)], -exponent)
        return [*ends, pair.p_value, *(each.p_value for each in groups)]

    assert found(np.ldexp(scores, exponent), exponent) == pytest.approx(found(scores, 0), rel=1e-9)
