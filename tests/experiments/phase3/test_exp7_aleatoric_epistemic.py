"""Exp7: aleatoric and epistemic: two things or one, and are both better than one?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase3.exp7_aleatoric import DETERMINISTIC, AleatoricEpistemic, AleatoricResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(AleatoricEpistemic)

test_claims = claims_of(AleatoricEpistemic)
test_contract = contract_of(AleatoricEpistemic)


def test_every_family_is_reported(
    completed: Completed[AleatoricResult], record_property: Callable[[str, object], None]
) -> None:
    experiment, result = completed.experiment, completed.result
    assert isinstance(experiment, AleatoricEpistemic)
    for name, relation in result.relations.items():
        record_property(
            f"epistemic vs {name}",
            f"{relation.rho}; given norm {relation.given_norm}; without noise {relation.disattenuated}",
        )
    for name, figures in result.figures.items():
        said = f"rho(entropy) {figures['rho_uncertainty_vs_entropy']}; AUROC(error) {figures['auroc_error']}"
        record_property(name, said)
    families = {f"aleatoric_{family}" for family in experiment.families}
    assert set(result.relations) == {*families, "aleatoric_rank"}
    known = {name for name, relation in result.relations.items() if relation.disattenuated is not None}
    assert known == {f"aleatoric_{family}" for family in DETERMINISTIC}
    for family in families:
        assert (result.scores[family] > 0).all(), f"{family} does nothing to some image"
