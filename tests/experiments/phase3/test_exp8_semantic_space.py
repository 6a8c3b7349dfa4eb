"""Exp8: does the variance over passes lie where prompts differ?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mcdo.experiments.phase3.exp8_semantic.experiment import SemanticResult, SemanticSpace
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(SemanticSpace)

test_claims = claims_of(SemanticSpace)
test_contract = contract_of(SemanticSpace)


def test_shares_stand_beside_chance_and_images(
    completed: Completed[SemanticResult], record_property: Callable[[str, object], None]
) -> None:
    for name, share in completed.result.shares.items():
        record_property(f"{name} share", str(share))
        assert 0 < share.observed.low <= share.observed.high < 1
        assert share.null[0] <= share.chance <= share.null[1], "chance is where random subspaces fall"


def test_scores_are_reported_with_what_they_are_worth(
    completed: Completed[SemanticResult], record_property: Callable[[str, object], None]
) -> None:
    result = completed.result
    for name, r in result.reliability.items():
        figures = result.figures[name]
        record_property(
            name,
            f"rho {r.estimate('spearman')} ICC {r.estimate('icc')}; rho(entropy) "
            f"{figures['rho_uncertainty_vs_entropy']}, given norm {figures['rho_uncertainty_vs_entropy_given_norm']}",
        )
    parts = result.scores["parallel"] + result.scores["orthogonal"]
    np.testing.assert_allclose(parts, result.scores["trace_pre"], rtol=1e-4)  # two measurements of the same passes
    assert len(result.prompt_reliability) == len(result.prompts)
