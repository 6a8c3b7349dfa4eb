"""Exp0b: what shape does the cloud of passes have?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase1.exp0b_norm_geometry import GeometryResult, NormGeometry
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(NormGeometry)

test_claims = claims_of(NormGeometry)
test_contract = contract_of(NormGeometry)


def test_the_parts_of_the_geometry_fit_together(
    completed: Completed[GeometryResult], record_property: Callable[[str, object], None]
) -> None:
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, NormGeometry)
    run = completed.inputs[experiment.run(completed.inputs.model)]
    d = run.features.shape[1]
    for name, estimate in {**result.means, **result.correlations}.items():
        record_property(name, str(estimate))
        assert estimate.n == len(set(run.origins)), f"{name}: an interval counts originals"
    total = result.means["trace_pre_per_d"].value * d
    assert 0 < sum(result.eigenvalues) <= total * (1 + 1e-9), "the leading eigenvalues are part of the trace"
    assert 1 <= result.means["effective_rank"].value <= min(d, experiment.passes - 1)
