"""Exp4 (full): models under matched sites, each by itself."""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase2.exp4_full_models import MATCHED, ModelReliability, ModelReliabilityResult
from mcdo.harness import Completed
from mcdo.harness.tests import check_drift, claims_of, contract_of, of_experiment

pytestmark = of_experiment(ModelReliability)

test_claims = claims_of(ModelReliability)
test_contract = contract_of(ModelReliability)


def test_model_is_perturbed_at_the_matched_roles_only(
    completed: Completed[ModelReliabilityResult], record_property: Callable[[str, object], None]
) -> None:
    experiment = completed.experiment
    assert isinstance(experiment, ModelReliability)
    run = completed.inputs[experiment.run(completed.inputs.model)]
    record_property("live sites", len(run.sites))
    assert set(run.roles) == set(MATCHED) or experiment.dropout.sites != "all"


def test_trials_do_not_drift(
    completed: Completed[ModelReliabilityResult], record_property: Callable[[str, object], None]
) -> None:
    """The published trials had one to ten stacked dropouts."""
    experiment, drift = completed.experiment, completed.result.drift
    assert isinstance(experiment, ModelReliability)
    record_property("relative drift per trial", str(drift))
    check_drift({completed.inputs.model: drift}, experiment.trials)
