from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import Array, made_up_run, noisy

import mcdo
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp1_rank_stability as exp1
from mcdo.stats import stacked_drift, trial_drift

N = 200
CONFIG = exp1.Exp1Config(n=N)


def sweep(scramble_from: float = 1.0, curve: float = 0.0) -> tuple[dict[float, MonteCarloRun], dict[float, Array]]:
    """Scores that follow first order, but for a factor 1 + curve·p and, from ``scramble_from`` on, another ranking."""
    rng = np.random.default_rng(0)
    true, other = np.exp(0.5 * rng.normal(size=(2, N)))
    runs, linear = {}, {}
    for p in CONFIG.p:
        ratio = p / (1 - p)
        ranked = other if p >= scramble_from else true
        scores = noisy(ratio * (1 + curve * p) * ranked, 3, rng)
        runs[p] = made_up_run({"trace_pre": scores}, norm=np.full(N, 2.0))
        linear[p] = noisy(ratio * true, 3, np.random.default_rng(7), 20_000)
    return runs, linear


Sound = tuple[dict[float, MonteCarloRun], exp1.Exp1Result]


@pytest.fixture(scope="module")
def sound() -> Sound:
    runs, linear = sweep()
    return runs, exp1.compute(CONFIG, runs, linear)


def test_scores_that_follow_first_order_are_stable_and_in_proportion(sound: Sound) -> None:
    found = sound[1]
    assert set(found.stable().values()) == {"met"}
    for p, ratio in found.ratio.items():
        assert ratio.value == pytest.approx(1, abs=0.04), p
        assert ratio.high - ratio.low < 0.1, p
    assert found.predicted[0.1] / found.predicted[0.001] == pytest.approx((0.1 / 0.9) / (0.001 / 0.999))
    for drift in found.drift.values():
        assert drift.low <= 0 <= drift.high


def test_a_ranking_that_changes_is_told_from_one_that_is_noisy_and_a_curved_mean_is_seen() -> None:
    found = exp1.compute(CONFIG, *sweep(scramble_from=0.05, curve=5.0))
    stable = found.stable()
    assert stable[0.001, 0.02] == "met"
    assert stable[0.05, 0.1] == "met"
    assert stable[0.02, 0.05] == "not met"
    assert found.matrices["trace_pre"].pair("disattenuated", "0.1", exp1.FIRST_ORDER).value < 0.3
    assert found.ratio[0.02].value == pytest.approx(1.1, abs=0.04)
    assert found.ratio[0.001].value == pytest.approx(1.005, abs=0.04)


def test_noise_that_all_images_of_a_first_order_trial_share_reaches_the_ratio_s_interval() -> None:
    """Its probes are common to all images: a bootstrap over images alone would miss the truth most of the time."""
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(60):
        true = np.exp(0.3 * rng.normal(size=100))
        probes = 1 + 0.05 * rng.normal(size=(3, 1))
        ratio = exp1._ratio(noisy(true, 3, rng), true * probes, seed)
        inside += ratio.low <= 1 <= ratio.high
    assert inside >= 51  # 57 expected; 51 is four standard deviations below


def test_the_needs_are_one_run_per_p_and_one_first_order() -> None:
    needs = exp1.needs(exp1.Exp1Config(), "clip_tiny")
    assert [need.config.dropout.p for need in needs] == [0.001, 0.005, 0.01, 0.02, 0.05, 0.1]
    assert {(need.n, need.config.passes, need.config.trials) for need in needs} == {(1000, (64,), 3)}
    assert exp1.first_order_need(exp1.Exp1Config(), "clip_tiny").config.dropout.p == 0.01


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


def test_files_hold_what_was_found(tmp_path: Path, sound: Sound) -> None:
    runs, found = sound
    overall = exp1.write(CONFIG, runs, found, tmp_path, "session")
    folder = tmp_path / exp1.FOLDER / "clip_tiny"
    summary = json.loads((folder / "exp1_summary.json").read_text())
    assert summary["reliability_by_p"]["0.01"]["n_trials"] == 3
    assert summary["stable_pairs"]["disattenuated"]["0.001~0.1"] == "met"
    assert json.loads(overall.read_text())["results"]["clip_tiny"] == summary
    with np.load(folder / "exp1_rank_p_trials.npz", allow_pickle=False) as arrays:
        assert arrays["trials_p_0.05"].shape == (3, N)
        assert arrays["mean_uncertainty"].shape == (6, N)
        assert arrays["spearman_matrix"].shape == (7, 7)
    assert (folder / f"{exp1.FOLDER}.png").stat().st_size > 10_000
