"""What is dropout worth beside scores that take one pass, or none?"""

from __future__ import annotations

import numpy as np

from mcdo.experiments.rivals.table import RivalsResult, RivalsTable
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.rivals import TRIVIAL

pytestmark = of_experiment(RivalsTable)

test_claims = claims_of(RivalsTable)
test_contract = contract_of(RivalsTable)


def test_what_cannot_be_taken_is_said_and_everything_else_has_a_row(result: RivalsResult) -> None:
    assert set(result.rows) == set(result.scores)
    assert not set(result.rows) & set(result.left_out)
    assert all(reason for reason in result.left_out.values())


def test_only_a_score_of_several_trials_has_a_reliability(result: RivalsResult) -> None:
    for name, row in result.rows.items():
        assert ("reliability" in row) == (len(result.scores[name].values) > 1), name


def test_an_interval_counts_originals(completed: Completed[RivalsResult]) -> None:
    images = completed.inputs.images(completed.experiment.shown)  # type: ignore[attr-defined]
    originals = len(set(images.origins))
    for row in completed.result.rows.values():
        assert {row[name].n for name in ("rho_entropy", "auroc_error", "excess_aurc") if name in row} <= {originals}


def test_no_trivial_score_is_set_against_itself(result: RivalsResult) -> None:
    assert not {name for name, _ in result.ahead} & set(TRIVIAL)
    assert all(each.baseline in TRIVIAL for each in result.ahead.values())
    assert all(np.isfinite(each.difference.estimate.value) for each in result.ahead.values())
