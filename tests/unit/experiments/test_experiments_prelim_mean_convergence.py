from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.prelim.mean_convergence import MeanConvergence, MeanConvergenceResult
from mcdo.perturbation import Dropout

EXPERIMENT = MeanConvergence(n=300)


def simulated(bias: float, noise: float, n: int = 300, seed: int = 0) -> MonteCarloRun:
    """Passes whose mean is off by ``bias``, and whose D · trace is ``noise``, relative to norms of 2; D = 4."""
    rng = np.random.default_rng(seed)
    offset = np.zeros(4)
    offset[1] = bias
    passes = offset + rng.normal(scale=math.sqrt(noise / 4), size=(EXPERIMENT.trials, n, max(EXPERIMENT.passes), 4))
    values = {("mean_shift", t): np.linalg.norm(passes[:, :, :t].mean(axis=2), axis=-1) for t in EXPERIMENT.passes} | {
        ("trace_pre", t): 2**2 * passes[:, :, :t].var(axis=2, ddof=1).mean(axis=-1) for t in EXPERIMENT.passes
    }
    config = MonteCarloConfig(Dropout(), EXPERIMENT.passes, EXPERIMENT.trials, 42)
    return replace(made_up_run({"trace_pre": np.ones((1, n))}, norm=np.full(n, 2.0)), config=config, _values=values)


def result_of(run: MonteCarloRun) -> MeanConvergenceResult:
    return EXPERIMENT.compute(inputs_of(lambda _: run))


def test_bias_and_noise_of_a_simulation_come_back() -> None:
    result = result_of(simulated(0.11, 0.04))
    assert result.fit.bias.low <= 0.11 <= result.fit.bias.high
    assert result.predicted_noise.low <= 0.04 <= result.predicted_noise.high
    assert result.fit.noise.value == pytest.approx(result.predicted_noise.value, rel=0.05)
    assert result.direct_bias_squared.value == pytest.approx(0.11**2, rel=0.05)
    assert result.fit.slope.value > -0.2, "which was read as convergence"
    assert outcomes_of(EXPERIMENT, result) == {"bias": "met", "slope": "not met"}


def test_without_bias_the_direct_estimate_holds_zero() -> None:
    result = result_of(simulated(0.0, 0.3))
    assert result.direct_bias_squared.low <= 0 <= result.direct_bias_squared.high
    assert outcomes_of(EXPERIMENT, result) == {"bias": "undecided", "slope": "met"}


def test_variants_of_one_original_count_once() -> None:
    run = simulated(0.1, 0.1)
    varied = replace(run, origins=tuple(f"digit{i // 3}" for i in range(len(run.ids))))
    one, other = result_of(run), result_of(varied)
    for estimate in (other.fit.bias, other.predicted_noise, other.direct_bias_squared):
        assert estimate.n == 100
    assert other.fit.bias.value == one.fit.bias.value


def test_statistics_of_the_distance_by_hand() -> None:
    run = simulated(0.1, 0.1)
    r = run.scores("mean_shift", 4)
    held = result_of(run).distances[4]
    assert (held["rel_dist_mean"], held["rel_dist_max"]) == (r.mean(), r.max())
    assert held["rel_dist_q95"] == pytest.approx(np.sort(r.ravel())[int(0.95 * r.size)], rel=0.01)
