from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import Estimate, predicted_reliability, proportion, reliability, share, spearman
from mcdo.stats.confidence import Confidence
from mcdo.stats.planning import (
    AssumedForecast,
    Forecast,
    Margin,
    Need,
    PilotForecast,
    Size,
    chance_decided,
    chance_judged,
    chance_unusable,
    chance_usable,
    needed_for_assumed,
    needed_for_usable,
    needed_images,
    normal_error,
)
from mcdo.stats.resampling import Direction

Array = NDArray[np.float64]
PILOT = Size(100, 1, 64)
PROMISED = 0.8
REPETITIONS = [120, pytest.param(600, marks=pytest.mark.slow)]


def slack(repetitions: int) -> float:
    """Three standard errors of a share of .8."""
    return 3 * math.sqrt(PROMISED * (1 - PROMISED) / repetitions)


def normal_scores(size: Size, spearman: float, rng: np.random.Generator, at: int = 64) -> Array:
    """Normal images and noise with that ρ between two trials at ``at`` passes."""
    icc = 2 * math.sin(math.pi * spearman / 6)
    own = rng.normal(size=size.images) * math.sqrt(icc / (1 - icc) * size.passes / at)
    return np.asarray(own + rng.normal(size=(size.trials, size.images)))


def variance_scores(size: Size, rng: np.random.Generator) -> Array:
    """Sample variances of normal passes in three dimensions: skewed images, and noise that grows with them."""
    freedom = 3 * (size.passes - 1)
    own = rng.lognormal(0, 0.35, size.images)
    return np.asarray(own * rng.chisquare(freedom, (size.trials, size.images)) / freedom)


def estimate_of(values: Array) -> Estimate:
    """A mean with Student's interval."""
    arm = scipy.stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(values.mean() - arm), float(values.mean() + arm), len(values))


def test_the_chance_of_a_decision_is_that_of_a_normal_test() -> None:
    # (1.96 + 0.8416) standard errors from the bar: the textbook's power of .8
    assert chance_decided(2.8016, 0.0, 1.0, [0.0]) == pytest.approx(0.8, abs=1e-3)
    # at the bar the interval misses it one time in twenty, however many images there are
    assert chance_decided(0.0, 0.0, 0.01, [0.0]) == pytest.approx(0.05, abs=1e-3)
    # what the pilot does not know makes the far side possible, and a small error then decides almost surely
    assert chance_decided(0.0, 1.0, 0.01, [0.0]) == pytest.approx(1 - 2 * scipy.stats.norm.cdf(0.0196) + 1, abs=1e-3)


def test_the_chance_of_lying_in_a_range() -> None:
    assert chance_decided(1.0, 0.0, 0.1, [0.0, 2.0]) == pytest.approx(1.0)
    drawn = np.random.default_rng(0).normal(0.9, 0.3, 200_000)
    arm = scipy.stats.norm.ppf(0.975) * 0.3
    inside = (drawn - arm > 0) & (drawn + arm < 2)
    outside = (drawn + arm < 0) | (drawn - arm > 2)
    assert chance_decided(0.9, 0.0, 0.3, [0.0, 2.0]) == pytest.approx(np.mean(inside | outside), abs=5e-3)
    # an interval that is wider than the range never lies in it
    assert chance_decided(0.0, 0.0, 1.0, [-0.5, 0.5]) == pytest.approx(2 * scipy.stats.norm.cdf(-0.5 - 1.959964))


def test_originals_of_a_claim_by_hand() -> None:
    """D = 1 standard error of the pilot: P(X > t/√r) + P(X < −t/√r) with X ~ N(1, 1 + 1/r) is .85."""
    need = needed_images(Estimate(0.4, 0.4 - 0.196, 0.4 + 0.196, 100), [0.3], PILOT)
    r = need.size.images / 100 if need.size else math.nan
    spread, arm = math.sqrt(1 + 1 / r), 1.959964 / math.sqrt(r)
    by_hand = scipy.stats.norm.sf((arm - 1) / spread) + scipy.stats.norm.cdf((-arm - 1) / spread)
    assert need.state == "attainable"
    assert need.outcome == "met"
    assert by_hand == pytest.approx(need.chance, abs=1e-3)
    assert 0.85 <= need.chance < 0.86


@pytest.mark.parametrize(("bar", "likely"), [(0.3, "met"), (0.5, "not met")])
def test_the_error_is_that_of_the_arm_toward_the_bar(bar: float, likely: str) -> None:
    """Of a skewed interval the other arm says nothing of the bar."""
    near, far = 0.12, 0.5
    ends = (0.4 - near, 0.4 + far) if bar < 0.4 else (0.4 - far, 0.4 + near)
    need = needed_images(Estimate(0.4, *ends, 100), [bar], PILOT)
    assert need.size is not None
    own = near / 1.959964 * math.sqrt(100 / need.size.images)
    spread = math.hypot(near / 1.959964, own)
    by_hand = scipy.stats.norm.sf((1.959964 * own - 0.1) / spread) + scipy.stats.norm.cdf(
        (-1.959964 * own - 0.1) / spread
    )
    assert need.outcome == likely
    assert need.chance == pytest.approx(by_hand, abs=1e-3)


def test_errors_that_theory_gives_by_hand() -> None:
    """Hanley and McNeil's of an AUROC of .8 with 10 of 100 in the class; their Q1 goes with those in it."""
    q1, q2 = 0.8 / 1.2 - 0.64, 2 * 0.64 / 1.8 - 0.64
    assert normal_error("auroc", 0.8, 100) == pytest.approx(math.sqrt((0.16 + 9 * q1 + 89 * q2) / 900))
    assert normal_error("share", 0.8, 100) == pytest.approx(0.04)
    assert normal_error("rho", 0.5, 103) == pytest.approx(0.75 * math.sqrt(1.125 / 100))


def test_what_the_pilot_decides_needs_no_more() -> None:
    above, below = Estimate(0.5, 0.4, 0.6, 100), Estimate(0.1, 0.0, 0.2, 100)
    assert needed_images(above, [0.3], PILOT) == Need("decided", "met", PILOT, 1.0, pytest.approx(0.2))  # type: ignore[arg-type]
    assert needed_images(below, [0.3], PILOT).outcome == "not met"
    assert needed_images(Estimate(0.5, 0.4, 0.6, 100), [0.3, 0.7], PILOT).outcome == "met"


def test_what_no_size_decides_says_how_near_the_bar_it_lies() -> None:
    need = needed_images(Estimate(0.3005, 0.3, 0.301, 100), [0.3005], PILOT, most=1000)
    assert need.state == "out of reach"
    assert need.size is None
    assert "the estimate 0.300 is within 0.000 of the bar 0.3005" in need.reason
    unknown = needed_images(Estimate(0.4, math.nan, math.nan, 100, reason="one trial"), [0.3], PILOT)
    assert unknown.state == "out of reach"
    assert "one trial" in unknown.reason


@pytest.mark.parametrize("repetitions", REPETITIONS)
@pytest.mark.parametrize("truth", [0.15, 0.3])
def test_a_claim_is_decided_at_the_planned_size(truth: float, repetitions: int) -> None:
    """A mean of truth 1.5 and 3 of the pilot's standard errors from the bar, planned from a pilot of 100 each time."""
    rng = np.random.default_rng(3)
    decided = []
    for _ in range(repetitions):
        need = needed_images(estimate_of(rng.normal(truth, 1, 100)), [0.0], PILOT)
        assert need.size is not None
        ran = estimate_of(rng.normal(truth, 1, need.size.images)) if need.state == "attainable" else None
        decided.append(ran is None or ran.outcome(0.0) != "undecided")
    assert np.mean(decided) >= PROMISED - slack(repetitions)


@pytest.mark.parametrize("repetitions", REPETITIONS)
def test_a_share_of_raised_images_is_decided_at_the_planned_size(repetitions: int) -> None:
    rng = np.random.default_rng(4)
    decided = []
    for _ in range(repetitions):
        need = needed_images(share(rng.uniform(size=120) < 0.84), [0.75], PILOT)
        if need.state == "attainable" and need.size is not None:
            decided.append(share(rng.uniform(size=need.size.images) < 0.84).outcome(0.75) != "undecided")
    assert len(decided) > repetitions / 4
    assert np.mean(decided) >= PROMISED - slack(len(decided))


@pytest.mark.parametrize("repetitions", REPETITIONS)
@pytest.mark.parametrize(("spearman", "trials"), [(0.86, 5), (0.74, 10)])
def test_reliability_is_decided_at_the_size_planned_from_assumptions(
    spearman: float, trials: int, repetitions: int
) -> None:
    need = needed_for_usable(AssumedForecast(spearman, 64), trials=[trials], passes=[64])
    assert need.size is not None
    assert need.outcome == ("met" if spearman > 0.8 else "not met")
    rng = np.random.default_rng(5)
    runs = [reliability(normal_scores(need.size, spearman, rng), seed=i, resamples=300) for i in range(repetitions)]
    decided = [run.p_usable <= 0.05 or run.decision() == "not met" for run in runs]
    assert np.mean(decided) >= PROMISED - slack(repetitions)


@pytest.mark.parametrize("repetitions", [30, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("passes", [8, 32])
def test_a_score_is_usable_at_the_size_planned_from_a_pilot(passes: int, repetitions: int) -> None:
    """A pilot of 120 skewed images below and at the bar, a plan, and what then happens, each time anew."""
    rng = np.random.default_rng(6)
    decided = []
    for i in range(repetitions):
        pilot = PilotForecast(variance_scores(Size(120, 5, passes), rng), passes, seed=i)
        need = needed_for_usable(pilot)
        if need.size is None:  # a pilot that says too little, and says so
            continue
        run = reliability(variance_scores(need.size, rng), seed=i, resamples=300)
        decided.append(run.p_usable <= 0.05 if need.outcome == "met" else run.decision() == "not met")
    assert len(decided) > 0.95 * repetitions
    assert np.mean(decided) >= PROMISED - slack(len(decided))


@pytest.mark.parametrize("make", [lambda: AssumedForecast(0.9, 64), lambda: _pilot()])
def test_more_of_anything_decides_more(make: Callable[[], Forecast]) -> None:
    forecast = make()
    chances = [
        chance_usable(forecast.margins(size))
        for size in (Size(60, 5, 64), Size(240, 5, 64), Size(240, 10, 64), Size(240, 10, 128))
    ]
    assert chances == sorted(chances)
    assert chances[0] < chances[-1]


def _pilot() -> PilotForecast:
    return PilotForecast(variance_scores(Size(200, 10, 64), np.random.default_rng(0)), 64)


def test_errors_and_their_freedom_are_those_of_more_originals() -> None:
    forecast = _pilot()
    of_pilot = forecast.measured.spearman_confidence
    margin = forecast.margins(Size(800, 10, 64))["spearman"]
    assert margin.expected.freedom == pytest.approx(4 * of_pilot.freedom)
    assert margin.expected.below == pytest.approx(of_pilot.below / 2)


def test_a_run_that_takes_noise_for_shared_by_mistake_decides_less() -> None:
    """In a tenth of runs whose trials are independent; where it is known beforehand, nothing is asked."""
    scores, size = variance_scores(Size(200, 10, 64), np.random.default_rng(0)), Size(60, 5, 64)
    asked, known = (PilotForecast(scores, 64, shared_noise=how).margins(size)["snr"] for how in (None, False))
    assert (asked.mistaken > 0, known.mistaken) == (True, 0)
    usual, wider = (replace(asked.expected, shared=of).lower(0.95) for of in (0.0, asked.mistaken))
    centre, bar = asked.expected.centre, math.log(asked.bar)
    spread = math.hypot(asked.known, (math.log(usual) - centre) / 1.644854)  # the run's figure is as scattered as ever
    sure, mistaken = (scipy.stats.norm.sf((bar - math.log(low)) / spread) for low in (usual, wider))
    assert asked.above(0.95) == pytest.approx(0.9 * sure + 0.1 * mistaken)
    assert mistaken < sure


def test_the_cheapest_size_is_found() -> None:
    """By exhaustion over a small grid of K, T and N."""
    forecast = AssumedForecast(0.7, 64)
    need = needed_for_usable(forecast, trials=(5, 10), passes=(64, 128, 256))
    sizes = [Size(n, K, T) for K in (5, 10) for T in (64, 128, 256) for n in range(100, 1200, 4)]
    enough = [size.total for size in sizes if chance_usable(forecast.margins(size)) >= 0.85]
    assert need.size is not None
    assert need.size.total == pytest.approx(min(enough), rel=0.02)


def test_noise_alone_is_not_made_usable_by_passes() -> None:
    """Images that do not differ: ρ is zero at any T, and that is what will be decided."""
    rng = np.random.default_rng(1)
    pilot = PilotForecast(np.exp(rng.normal(size=(5, 300)) + 0.4 * rng.normal(size=300)), 64)
    need = needed_for_usable(pilot, passes=(64,))
    assert need.outcome == "not met"
    assert "more passes do not make it usable" in need.reason


def test_noise_that_a_trial_shares_does_not_fall_with_images() -> None:
    rng = np.random.default_rng(2)
    own, common = rng.normal(size=200), rng.normal(size=(10, 1)) * rng.normal(size=200)
    pilot = PilotForecast(2.6 * own + common, 8, shared_noise=True)
    few, many = (pilot.margins(Size(n, 10, 8))["snr"] for n in (200, 200_000))
    arms = [margin.expected.centre - math.log(margin.expected.lower(0.95)) for margin in (few, many)]
    assert arms[1] > 0.5 * arms[0]


def test_a_pilot_without_intervals_is_refused() -> None:
    with pytest.raises(McdoError, match="two trials cannot show"):
        PilotForecast(np.random.default_rng(0).normal(size=(2, 50)) + np.arange(50), 8)
    with pytest.raises(McdoError, match="0 < spearman < 1"):
        AssumedForecast(1.0, 64)
    with pytest.raises(McdoError, match="power"):
        needed_images(Estimate(0.4, 0.3, 0.5, 10), [0.2], PILOT, power=1.0)


@pytest.mark.parametrize("spearman", [0.4, 0.9])
def test_errors_of_assumed_figures_are_those_of_normals(spearman: float) -> None:
    """Two trials are one pair (Bonett & Wright 2000); log SNR is that of an F of n − 1 and n(K − 1) degrees."""
    n, forecast = 400, AssumedForecast(spearman, 64, independent=True)
    pair = forecast.margins(Size(n, 2, 64))["spearman"].expected
    assert (pair.below, pair.above) == pytest.approx([math.sqrt((1 + spearman**2 / 2) / (n - 3))] * 2)
    unlike = AssumedForecast(1e-6, 64).margins(Size(n, 5, 64))["spearman"].expected
    assert unlike.below == pytest.approx(math.sqrt(1 / (n - 3) / 10), rel=1e-3), "ten pairs that share nothing"
    for K in (2, 10):
        freedom = np.array([n - 1, n * (K - 1)])
        error = math.sqrt(scipy.special.polygamma(1, freedom / 2).sum())
        assert forecast.margins(Size(n, K, 64))["snr"].expected.below == pytest.approx(error, rel=0.01)


def test_bars_of_a_run_and_the_noise_that_it_takes_for_shared_by_hand() -> None:
    """An ICC of .75 is an SNR of 3 + 1/K; χ² of 9 degrees exceeds 16.919 in one of twenty cases."""
    margins = AssumedForecast(0.9, 64).margins(Size(60, 5, 64))
    assert (margins["spearman"].bar, margins["snr"].bar) == pytest.approx((0.8, 3.2))
    assert margins["snr"].mistaken == pytest.approx(math.sqrt(6 / (4 * 60) * 16.919 / 9), rel=1e-4)


def test_at_its_bar_a_figure_is_decided_as_often_as_chance_has_it() -> None:
    """Usable by a one-sided limit of every figure, unusable by a two-sided interval of one, and that at the last T."""
    at = Margin(Confidence(math.atanh(0.8), 0.1, 0.1, 1e6, "z", 5), 0.0, 0.8)
    margins = {"spearman": at, "snr": at}
    assert chance_usable({"spearman": at}, 0.05) == pytest.approx(0.05, abs=1e-4)
    assert chance_usable(margins, 0.05) == pytest.approx(0.0025, abs=1e-5)
    assert chance_unusable(margins) == pytest.approx(0.025, abs=1e-4)
    forecast = cast("Forecast", SimpleNamespace(margins=lambda size: margins))
    judged = [chance_judged(forecast, PILOT, 0.05, last=last) for last in (True, False)]
    assert judged == pytest.approx([0.0275, 0.0025], abs=1e-4)


def test_a_pilot_at_other_trials_and_passes() -> None:
    """Two trials are one pair, the error of whose z no ρ changes; SNR has 1/K in it; what was measured is not told."""
    rng = np.random.default_rng(0)
    scores = {T: variance_scores(Size(200, 10, T), rng) for T in (16, 64)}
    forecast, n = PilotForecast(scores, 64, shared_noise=False), 200
    pairs = [forecast.margins(Size(n, 2, T))["spearman"].expected for T in (16, 64, 256)]
    assert pairs[0].centre < pairs[1].centre < pairs[2].centre
    assert [each.below for each in pairs] == pytest.approx([pairs[0].below] * 3)
    ten, twenty = (math.exp(forecast.margins(Size(n, K, 64))["snr"].expected.centre) for K in (10, 20))
    assert ten - twenty == pytest.approx(1 / 10 - 1 / 20)
    at16 = forecast.margins(Size(n, 10, 16))["spearman"].expected.centre
    assert math.tanh(at16) == pytest.approx(reliability(scores[16]).spearman)


@pytest.mark.parametrize(("passes", "end"), [(8, "high"), (512, "low")])
def test_what_a_pilot_does_not_know_is_the_arm_toward_the_bar(passes: int, end: str) -> None:
    scores = variance_scores(Size(200, 10, 64), np.random.default_rng(0))
    told = predicted_reliability(scores, 64, [passes])[passes].spearman
    assert (told.value > 0.8) == (end == "low")
    arm = abs(math.atanh(told.value) - math.atanh(getattr(told, end)))
    margin = PilotForecast(scores, 64).margins(Size(200, 10, passes))["spearman"]
    assert margin.known == pytest.approx(arm / 1.959964, rel=1e-5)


@pytest.mark.parametrize(("direction", "outcome"), [(">", "not met"), ("<", "met")])
def test_the_likely_end_has_the_direction_of_the_claim(direction: Direction, outcome: str) -> None:
    """Below its bar, with an interval that holds it."""
    open_, sure = Estimate(-0.1, -0.3, 0.1, 100), Estimate(-0.1, -0.15, -0.05, 100)
    assert needed_images(open_, [0.0], PILOT, direction=direction).outcome == outcome
    assert needed_images(sure, [0.0], PILOT, direction=direction).outcome == outcome


@pytest.mark.parametrize("trials", [(1,), (2,), (2, 5), (), (2.5,)])
def test_trials_that_give_no_interval_are_not_planned_for(trials: tuple[int, ...]) -> None:
    """Two of them cannot show what images of a trial share, so that a run of two decides only where that is known."""
    with pytest.raises(McdoError, match="trials"):
        needed_for_usable(AssumedForecast(0.85, 64), trials=trials)
    with pytest.raises(McdoError, match="trials"):
        needed_for_usable(_pilot(), trials=trials)
    if trials == (2,):
        need = needed_for_usable(AssumedForecast(0.85, 64, independent=True), trials=trials)
        assert need.size is not None
        assert need.size.trials == 2


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"passes": (1,)}, {"power": 1.5}])
def test_what_no_plan_can_be_made_of_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(McdoError, match=next(iter(wrong))):
        needed_for_usable(AssumedForecast(0.85, 64), **wrong)


def test_no_error_is_assumed_of_three_originals_nor_of_one_class() -> None:
    with pytest.raises(McdoError, match="n = 3"):
        normal_error("rho", 0.7, 3)
    with pytest.raises(McdoError, match="positive"):
        normal_error("auroc", 0.7, 100, positive=0.0)


@pytest.mark.parametrize(("value", "bar"), [(0.9, 0.75), (0.98, 0.9), (0.5, 0.75), (0.999, 0.75)])
def test_an_assumed_share_is_decided_as_often_as_it_says(value: float, bar: float) -> None:
    """Counted: Wilson's interval of every count. Of .98 against .9 no run of the 28 originals once planned decided."""
    size = needed_for_assumed("share", value, bar, 64).size
    assert size is not None
    counts = np.arange(size.images + 1)
    ends = [proportion(int(k), size.images) for k in counts]
    decided = np.array([bar <= end.low or end.high < bar for end in ends])
    assert scipy.stats.binom.pmf(counts, size.images, value)[decided].sum() > 0.8


@pytest.mark.parametrize("value", [0.99, 0.9, 0.7])
def test_an_assumed_correlation_is_decided_as_often_as_it_says(value: float) -> None:
    """Of .9 against .3, 3 originals were planned, which have no interval; of .7 19, of which half decided."""
    size = needed_for_assumed("rho", value, 0.3, 64).size
    assert size is not None
    assert size.images < 60
    rng, decided, runs, r = np.random.default_rng(0), 0, 100, 2 * math.sin(math.pi * value / 6)
    for seed in range(runs):
        x, noise = rng.normal(size=(2, size.images))
        found = spearman(x, r * x + math.sqrt(1 - r * r) * noise, resamples=100, seed=seed)
        decided += found.outcome(0.3) != "undecided"
    assert decided / runs > 0.75


def test_an_assumed_area_has_the_originals_of_each_class_that_an_interval_takes() -> None:
    """Of .9 against .6, 44 originals were planned, four of them positive."""
    for value in (0.99, 0.9, 0.2):
        size = needed_for_assumed("auroc", value, 0.6, 64).size
        assert size is not None
        assert size.images >= 100
