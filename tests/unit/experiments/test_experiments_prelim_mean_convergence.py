from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.prelim import mean_convergence as convergence
from mcdo.perturbation import Dropout

CONFIG = convergence.MeanConvergenceConfig(n=300)


def simulated(bias: float, noise: float, n: int = 300, seed: int = 0) -> MonteCarloRun:
    """Passes whose mean is off by ``bias``, and whose D · trace is ``noise``; unit norms, D = 4."""
    rng = np.random.default_rng(seed)
    offset = np.zeros(4)
    offset[1] = bias
    passes = offset + rng.normal(scale=math.sqrt(noise / 4), size=(CONFIG.trials, n, max(CONFIG.passes), 4))
    values = {("mean_shift", t): np.linalg.norm(passes[:, :, :t].mean(axis=2), axis=-1) for t in CONFIG.passes} | {
        ("trace_pre", t): passes[:, :, :t].var(axis=2, ddof=1).mean(axis=-1) for t in CONFIG.passes
    }
    config = MonteCarloConfig(Dropout(), CONFIG.passes, CONFIG.trials, 42)
    return replace(made_up_run({"trace_pre": np.ones((1, n))}), config=config, _values=values)


def test_bias_and_noise_of_a_simulation_come_back() -> None:
    result = convergence.compute(CONFIG, simulated(0.11, 0.04))
    assert result.fit.bias.low <= 0.11 <= result.fit.bias.high
    assert result.predicted_noise.low <= 0.04 <= result.predicted_noise.high
    assert result.fit.noise.value == pytest.approx(result.predicted_noise.value, rel=0.05)
    assert result.direct_bias_squared.value == pytest.approx(0.11**2, rel=0.05)
    assert result.fit.slope.value > -0.2, "which was read as convergence"


def test_without_bias_the_direct_estimate_holds_zero() -> None:
    result = convergence.compute(CONFIG, simulated(0.0, 0.3))
    assert result.direct_bias_squared.low <= 0 <= result.direct_bias_squared.high


def test_more_trials_in_the_run_than_the_protocol_asks_for_change_nothing() -> None:
    run = simulated(0.1, 0.1)
    values = {key: np.concatenate([value, value + 9]) for key, value in run._values.items()}
    more = replace(run, config=replace(run.config, trials=6), _values=values)
    assert convergence.compute(CONFIG, more).fit.bias == convergence.compute(CONFIG, run).fit.bias


def test_files_say_the_same_as_the_result(tmp_path: Path) -> None:
    run = simulated(0.11, 0.04)
    result = convergence.compute(CONFIG, run)
    overall = convergence.write(CONFIG, run, result, tmp_path, "session")
    summary = json.loads(overall.read_text())["results"]["clip_tiny"]
    assert summary["bias"]["value"] == pytest.approx(result.fit.bias.value)
    assert summary["distances_by_T"]["4"]["rel_dist_mean"] == pytest.approx(run.scores("mean_shift", 4).mean())
    folder = tmp_path / convergence.FOLDER / "clip_tiny"
    with np.load(folder / "prelim_mean_convergence.npz", allow_pickle=False) as arrays:
        assert (arrays["rel_dist_T64"] == run.scores("mean_shift", 64)).all()
    assert (folder / "prelim_mean_convergence.png").read_bytes()[:4] == b"\x89PNG"
