"""Convergence: where does reliability saturate, and could one smaller run have told?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase1.convergence_sweep import ConvergenceResult, ConvergenceSweep
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(ConvergenceSweep)

test_claims = claims_of(ConvergenceSweep)
test_contract = contract_of(ConvergenceSweep)


def test_measured_and_predicted_reliability_are_reported(
    completed: Completed[ConvergenceResult], record_property: Callable[[str, object], None]
) -> None:
    result, usable = completed.result, completed.result.usable_from
    record_property(
        "smallest usable T, predicted",
        f"{usable.continuous} [{usable.low}, {usable.high}], on grid {usable.on_grid} {usable.reason}",
    )
    for t, measured in result.measured.items():
        record_property(f"T={t} spearman measured", str(measured.estimate("spearman")))
        predicted = result.predicted[t]
        for law, estimate in predicted.laws.items():
            record_property(f"T={t} spearman predicted by {law}", str(estimate))
        assert measured.status != "insufficient_trials", f"T={t}: a trial's scores do not vary"
        assert predicted.reason or predicted.spearman.low <= predicted.spearman.value <= predicted.spearman.high
