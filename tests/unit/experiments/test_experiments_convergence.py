from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_inputs import inputs_of
from made_up_runs import Array, made_up_run

from mcdo.estimators import MonteCarloRun
from mcdo.experiments.phase1.convergence_sweep import ConvergenceResult, ConvergenceSweep
from mcdo.schema import plain
from mcdo.stats import Estimate, predicted_reliability, reliability

SWEEP = ConvergenceSweep(n=150, passes=(8, 16, 32, 64, 128))


def simulated(disturbed: float = 0.0) -> MonteCarloRun:
    """Nested means of energies: log-normal images; ``disturbed``: share of passes with fifty times the energy."""
    rng = np.random.default_rng(0)
    own, total, before = rng.lognormal(0, 0.3, SWEEP.n), np.zeros((SWEEP.trials, SWEEP.n)), 0
    blow = 50 * rng.lognormal(0, 0.5, SWEEP.n)
    values: dict[tuple[str, int], Array] = {}
    for passes in SWEEP.passes:
        more = passes - before
        total = total + own * rng.gamma(more, size=total.shape) + blow * rng.binomial(more, disturbed, total.shape)
        values["trace_pre", passes], before = total / passes, passes
    run = made_up_run({"trace_pre": values["trace_pre", 8]}, origins=[f"original{i // 3}" for i in range(SWEEP.n)])
    return replace(run, config=replace(run.config, passes=SWEEP.passes), _values=values)


def result_of(run: MonteCarloRun) -> ConvergenceResult:
    return SWEEP.compute(inputs_of(lambda request: run))


@pytest.fixture(scope="module")
def calm() -> ConvergenceResult:
    return result_of(simulated())


def test_larger_passes_are_predicted_from_the_run_as_it_was(calm: ConvergenceResult) -> None:
    run, result = simulated(), calm
    pilot = {passes: run.scores("trace_pre", passes) for passes in (8, 16, 32)}
    expected = predicted_reliability(pilot, 32, [64, 128], origins=run.origins, seed=SWEEP.seed)
    assert {passes: result.predicted[passes] for passes in (64, 128)} == expected
    for passes in (8, 16, 32):
        measured = reliability(pilot[passes], origins=run.origins, seed=SWEEP.seed)
        assert result.measured[passes] == measured
        assert result.predicted[passes].spearman == measured.estimate("spearman")
    assert result.measured[64].n_origins == result.predicted[64].spearman.n == 50


def test_the_summary_shows_every_law_beside_the_measurement(calm: ConvergenceResult) -> None:
    summary = plain(SWEEP.summary(calm))
    ahead = summary["results"]["T=64"]["predicted"]
    assert {"spearman", "snr", "icc", "status", "decided", "worst", "best", "reason"} <= set(ahead)
    assert set(ahead["laws"]) == {"icc", "spearman_brown", "run"}
    assert set(summary["results"]["T=128"]["predicted"]["laws"]) == {"icc", "spearman_brown", "growth"}
    usable = summary["smallest_usable_T"]
    assert usable["ci"][0] < usable["predicted"] < usable["ci"][1]
    measured = [T for T, found in calm.measured.items() if found.status == "usable"]
    assert len(measured) > 1
    assert usable["measured"] == min(measured)


def test_a_claim_asks_only_where_something_is_predicted(calm: ConvergenceResult) -> None:
    disturbed = result_of(simulated(disturbed=0.02))
    claim = next(claim for claim in SWEEP.claims() if claim.name == "predicted/T=128")
    assert claim.estimate(calm) == calm.measured[128].estimate("spearman")
    assert [each.name for each in SWEEP.claims()] == ["predicted/T=64", "predicted/T=128"]
    assert disturbed.predicted[128].status == "not predictable"
    assert claim.estimate(disturbed) is None
    assert "not predictable (" in str(claim.beside(disturbed))


@pytest.mark.parametrize(
    ("predicted", "measured", "outcome"),
    [((0.5, 0.6), (0.6, 0.8), "met"), ((0.85, 0.9), (0.6, 0.85), "met"), ((0.5, 0.59), (0.6, 0.8), "not met"),
     ((0.81, 0.9), (0.6, 0.8), "not met"), ((0.5, np.nan), (0.6, 0.8), "undecided")],
)  # fmt: skip
def test_a_prediction_agrees_where_the_intervals_meet(
    calm: ConvergenceResult, predicted: tuple[float, float], measured: tuple[float, float], outcome: str
) -> None:
    def of(ends: tuple[float, float]) -> Any:
        estimate = Estimate(float(np.mean(ends)), *ends, 50)
        return SimpleNamespace(spearman=estimate, estimate=lambda name: estimate)

    found = replace(calm, predicted={64: of(predicted)}, measured={64: of(measured)})
    assert found.agrees(64) == outcome
