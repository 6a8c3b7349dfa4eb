"""Exp3: kinds of perturbation side by side."""

from __future__ import annotations

from collections.abc import Callable

from mcdo.estimators import TRACES
from mcdo.experiments.phase2.exp3_dropout_types import DropoutTypes, DropoutTypesResult
from mcdo.harness import Completed
from mcdo.harness.tests import check_drift, claims_of, contract_of, of_experiment

pytestmark = of_experiment(DropoutTypes)

test_claims = claims_of(DropoutTypes)
test_contract = contract_of(DropoutTypes)


def test_trials_of_a_type_do_not_drift(
    completed: Completed[DropoutTypesResult], record_property: Callable[[str, object], None]
) -> None:
    """The published table has an ICC of -.112, the signature of dropouts stacked from trial to trial."""
    experiment = completed.experiment
    assert isinstance(experiment, DropoutTypes)
    drifts = {f"type {kind}": drift for kind, drift in completed.result.drift.items()}
    for kind, drift in drifts.items():
        record_property(f"relative drift per trial, {kind}", str(drift))
    check_drift(drifts, experiment.trials)


def test_types_are_reported_side_by_side(
    completed: Completed[DropoutTypesResult], record_property: Callable[[str, object], None]
) -> None:
    """Each of them disturbs every image: published type A had a trace of 9e-17, its maps were never carried out."""
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, DropoutTypes)
    kinds = tuple(experiment.kinds(completed.inputs.model))
    for score in TRACES:
        assert result.matrices[score].names == kinds
        for kind, r in result.reliability[score].items():
            record_property(f"{score} {kind}", f"{r.estimate('spearman')} SNR {r.snr:.2f} ICC {r.icc:.2f} {r.status}")
            assert r.n_trials == experiment.trials
    for kind, least in result.least.items():
        record_property(f"least relative trace, {kind}", f"{least:.3g}")
    for pair, estimate in result.matrices["trace_pre"].disattenuated.items():
        record_property(f"corrected rho {'~'.join(pair)}", str(estimate))
