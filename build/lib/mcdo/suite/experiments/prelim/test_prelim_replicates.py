"""Do loss and tower outlast another training? With ``--replicates=FOLDER``, which ``make replicates`` fills."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments.prelim.replicates import NONE_GIVEN, Replicates, ReplicatesResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(Replicates)

test_claims = claims_of(Replicates)
test_contract = contract_of(Replicates)


def test_every_training_counts_once(
    completed: Completed[ReplicatesResult | None], record_property: Callable[[str, object], None]
) -> None:
    result = completed.result
    if result is None:
        pytest.skip(NONE_GIVEN)
    assert len({each.model for each in result.trainings}) == len(result.trainings)
    for outcome, found in result.outcomes["trace_pre"].items():
        assert found.training_sd.n == len(result.trainings)
        for name, difference in {**found.between, **found.within}.items():
            record_property(f"{outcome}: {name}", str(difference.estimate))
