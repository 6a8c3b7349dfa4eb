"""Exp4 (subset): is the trace or the angular variance the better recipe?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase1.exp4_subset_recipe import RecipeResult, SubsetRecipe
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(SubsetRecipe)

test_claims = claims_of(SubsetRecipe)
test_contract = contract_of(SubsetRecipe)


def test_both_scores_are_reported(
    completed: Completed[RecipeResult], record_property: Callable[[str, object], None]
) -> None:
    result = completed.result
    assert isinstance(completed.experiment, SubsetRecipe)
    for name, r in result.reliability.items():
        record_property(f"{name} spearman", str(r.estimate("spearman")))
        assert r.status != "insufficient_trials", name
    record_property("spearman(trace, angular)", str(result.agreement))
    run = completed.inputs[completed.experiment.run(completed.inputs.model)]
    assert result.agreement.n == len(set(run.origins)), "an interval counts originals"
