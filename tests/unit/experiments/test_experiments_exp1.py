from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import Array, MadeUpFirstOrder, made_up_run, noisy
from numpy.typing import ArrayLike

import mcdo
from mcdo.experiments.phase2.exp1_rank_stability import RankStability, StabilityResult
from mcdo.harness import FirstOrder, Images, Passes, Request
from mcdo.stats import stacked_drift, trial_drift

N = 200
EXPERIMENT = RankStability(n=N)
ENCODERS = {"clip_tiny": SimpleNamespace(feature_dim=512)}


def sweep(
    scramble_from: float = 1.0,
    curve: float = 0.0,
    degrees: int = 63,
    variants: int = 1,
    probes: ArrayLike = 1.0,
    norm_is: float | None = None,
) -> StabilityResult:
    """Scores that follow first order, but for a factor 1 + curve·p and, from ``scramble_from`` on, another ranking.

    ``probes`` are factors [5, 1] of the trials of first order; ``norm_is`` the p whose mean score the norm is.
    """
    rng = np.random.default_rng(0)
    true, other = np.exp(0.5 * rng.normal(size=(2, N)))
    norm = np.full(N, 2.0)

    def first_order(name: str, p: float) -> Array:
        scores = noisy(p / (1 - p) * true, 5, np.random.default_rng(7), 20_000)
        scores *= np.asarray(probes)
        return scores / 4 if name == "trace_pre_relative" else scores

    def passes(p: float) -> Any:
        ranked = other if p >= scramble_from else true
        return made_up_run({"trace_pre": noisy(p / (1 - p) * (1 + curve * p) * ranked, 3, rng, degrees)}, norm=norm)

    runs = {p: passes(p) for p in EXPERIMENT.p}
    if norm_is is not None:
        norm = runs[norm_is].scores("trace_pre").mean(axis=0)

    def value(request: Request[Any]) -> Any:
        if isinstance(request, FirstOrder):
            return MadeUpFirstOrder(first_order, norm, variants=variants)
        assert isinstance(request, Passes)
        return runs[request.config.dropout.p]

    return EXPERIMENT.compute(inputs_of(value, encoders=ENCODERS))


@pytest.fixture(scope="module")
def sound() -> StabilityResult:
    return sweep()


@pytest.fixture(scope="module")
def scrambled() -> StabilityResult:
    return sweep(scramble_from=0.05, curve=5.0)


def test_scores_that_follow_first_order_are_stable_and_in_proportion(sound: StabilityResult) -> None:
    assert set(sound.stable().values()) == {"met"}
    for p, ratio in sound.ratio.items():
        assert ratio.value == pytest.approx(1, abs=0.04), p
        assert ratio.high - ratio.low < 0.1, p
        assert ratio.value == pytest.approx(sound.means[p].value / sound.predicted[p]), "over images and trials"
    assert sound.predicted[0.1] / sound.predicted[0.001] == pytest.approx((0.1 / 0.9) / (0.001 / 0.999))
    for drift in sound.drift.values():
        assert drift.low <= 0 <= drift.high


def test_pairs_are_stable_with_and_without_the_noise_of_their_trials() -> None:
    noise = sweep(degrees=4)
    assert "met" in noise.stable().values()
    assert set(noise.stable("raw").values()) == {"not met"}
    outcomes = outcomes_of(EXPERIMENT, noise)
    by_pair = {f"stable/p={max(pair):g}": outcome for pair, outcome in noise.stable().items() if min(pair) == 0.01}
    assert {name: outcomes[name] for name in by_pair} == by_pair


def test_the_norm_is_beside_the_mean_score_of_all_trials() -> None:
    norm = sweep(degrees=4, norm_is=0.01).norm
    assert norm[0.01].value == pytest.approx(1)
    assert norm[0.02].value < 0.9


def test_a_ranking_that_changes_is_told_from_one_that_is_noisy_and_a_curved_mean_is_seen(
    scrambled: StabilityResult,
) -> None:
    stable = scrambled.stable()
    assert stable[0.001, 0.02] == "met"
    assert stable[0.05, 0.1] == "met"
    assert stable[0.02, 0.05] == "not met"
    assert scrambled.first_order.ranking == "met", "at the reference the ranking is first order's"
    assert scrambled.ratio[0.02].low > 1 < scrambled.ratio[0.1].low
    assert scrambled.ratio[0.02].value == pytest.approx(1.1, abs=0.04)
    assert scrambled.ratio[0.001].low <= 1.005 <= scrambled.ratio[0.001].high


def test_the_requests_are_one_run_per_p_and_one_first_order() -> None:
    experiment = RankStability()
    for D, probes, trials in ((48, 49, 1), (512, 16, 5)):
        about = inputs_of(lambda _: None, encoders={"clip_tiny": SimpleNamespace(feature_dim=D)})
        linear = experiment.first_order(about)
        assert (linear.probes, linear.trials, linear.dropout.p) == (probes, trials, 0.01), "exact where affordable"
        assert list(experiment.requests(about)) == [*(experiment.at("clip_tiny", p) for p in experiment.p), linear]
    run = experiment.at("clip_tiny", 0.02)
    assert experiment.p == (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
    assert (run.shown, run.config.dropout.p, run.config.passes, run.config.trials) == (Images(1000), 0.02, (64,), 3)


def test_a_stacked_perturbation_fails_the_drift_test() -> None:
    """k + 1 dropouts on one another keep a unit with probability (1 - p)^(k + 1): the published trap, exactly."""
    encoder, images, p = mcdo.load_encoder("clip_tiny", device="cpu"), mcdo.load_images("digits", 24), 0.01

    def trials(p: float, number: int) -> Array:
        run = mcdo.monte_carlo(encoder, images, mcdo.Dropout(p), (32,), number, 42, geometry=(), progress=False)
        score: Array = run.scores("trace_pre", 32)
        return score

    level = 1 - 0.01 / 6
    sound = trial_drift(trials(p, 3), resamples=4000, level=level)
    stacked = trial_drift([trials(1 - (1 - p) ** (k + 1), k + 1)[k] for k in range(3)], resamples=4000, level=level)
    assert sound.low <= 0 <= sound.high < stacked_drift(3)
    assert stacked.low > 0
    assert stacked.value == pytest.approx(stacked_drift(3), abs=0.08)


def test_claims_are_judged_by_their_intervals(sound: StabilityResult, scrambled: StabilityResult) -> None:
    relative = replace(sound, matrices={**sound.matrices, "trace_pre_relative": scrambled.matrices["trace_pre"]})
    for result in (sound, relative):
        assert {claim.judge(result).outcome for claim in EXPERIMENT.claims()} == {"met"}
    outcomes = outcomes_of(EXPERIMENT, scrambled)
    assert outcomes["stable/p=0.02"] == "met"
    assert outcomes["stable/p=0.1"] == "not met"
    assert outcomes["first_order_mean/smallest_p"] == "met", "where p tends to 0, not where the mean is curved"


def test_variants_of_an_original_are_one_draw_and_images_share_the_probes_of_a_trial() -> None:
    result = sweep(variants=4, probes=[[0.8], [0.9], [1.0], [1.1], [1.2]])
    by_p = (result.means, result.ratio, result.drift, result.norm)
    figures = [estimate for each in by_p for estimate in each.values()]
    figures += [*result.matrices["trace_pre"].raw.values(), result.first_order.spearman]
    assert {estimate.n for estimate in figures} == {N // 4}
    assert {each.n_origins for each in result.reliability.values()} == {N // 4}
    for ratio in result.ratio.values():  # 2 · 2.78 · .158/√5 of five trials whose probes all images share
        assert 0.3 < ratio.high - ratio.low < 0.6
