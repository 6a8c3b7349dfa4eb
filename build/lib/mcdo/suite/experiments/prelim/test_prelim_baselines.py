"""Does the score beat what costs nothing?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.estimators import TRACES
from mcdo.experiments.prelim.baselines import PAIRS, Baselines, BaselinesResult
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(Baselines)

test_claims = claims_of(Baselines)
test_contract = contract_of(Baselines)


def test_every_score_is_set_against_every_baseline(
    result: BaselinesResult, record_property: Callable[[str, object], None]
) -> None:
    for (score, baseline, target), difference in result.advantages.items():
        record_property(f"{score} over {baseline} at {target}", str(difference))
    labelled = {pair for pair in PAIRS if pair[1] != "error"} if not result.errors else set(PAIRS)
    assert {(b, t) for _, b, t in result.advantages} >= labelled
    assert {s for s, _, _ in result.advantages} >= set(TRACES)
    assert all(r.rho.n == result.originals for r in result.relations.values()), "an interval counts originals"
