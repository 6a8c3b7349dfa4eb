"""Exp0: is the ranking the same when it is measured again? The go/no-go decision on it is in tests/gates."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses, NestedResult
from mcdo.harness import Completed
from mcdo.harness.tests import check_drift, claims_of, contract_of, of_experiment
from mcdo.stats import icc_from_snr

pytestmark = of_experiment(NestedPasses)

test_claims = claims_of(NestedPasses)
test_contract = contract_of(NestedPasses)


def test_reliability_is_measured_at_every_t(
    completed: Completed[NestedResult], record_property: Callable[[str, object], None]
) -> None:
    for t, spaces in completed.result.reliability.items():
        for space, r in spaces.items():
            for name in ("spearman", "snr", "icc"):
                record_property(f"{space} T={t} {name}", str(r.estimate(name)))
            record_property(f"{space} T={t} status", r.status)
            assert r.status != "insufficient_trials", f"{space} T={t}: a trial's scores do not vary"
            assert r.icc == pytest.approx(icc_from_snr(r.snr, r.n_trials)), "SNR and ICC say the same"


def test_trials_do_not_drift(
    completed: Completed[NestedResult], record_property: Callable[[str, object], None]
) -> None:
    """Trials differ by their masks alone. Stacked dropouts (the published Phase 2) would make the trace grow."""
    for space, drift in completed.result.drift.items():
        record_property(f"{space} relative drift per trial", str(drift))
    assert isinstance(completed.experiment, NestedPasses)
    check_drift(completed.result.drift, completed.experiment.trials)
