"""Exp0, first order: reliable with few probes, and inside its validity domain?"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability, FirstOrderResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(FirstOrderReliability)

test_claims = claims_of(FirstOrderReliability)
test_contract = contract_of(FirstOrderReliability)


def test_reliability_and_domain_are_reported(
    completed: Completed[FirstOrderResult], record_property: Callable[[str, object], None]
) -> None:
    result = completed.result
    for probes, spaces in result.reliability.items():
        for space, r in spaces.items():
            record_property(f"{space} R={probes} spearman", str(r.estimate("spearman")))
            assert r.status != "insufficient_trials", f"{space} R={probes}: a trial's scores do not vary"
    domains = {**{f"p={p:g}": by for p, by in result.domain.items()}, **result.groups}
    for where, scores in domains.items():
        for score, found in scores.items():
            record_property(f"{where} {score}", f"{found}; ranking {found.ranking}, level {found.level}")
    for site, of in result.sites.items():
        record_property(f"linearity {site}", f"{of.ratio}, {of.share:.1%} of the first-order variance")
    assert sum(of.share for of in result.sites.values()) == pytest.approx(1)
    assert all(0 < of.ratio.value < 3 for of in result.sites.values())


def test_the_mean_does_not_depend_on_the_number_of_probes(completed: Completed[FirstOrderResult]) -> None:
    """Every R estimates the same trace: with all trials together the means differ by the noise of few probes only."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, FirstOrderReliability)
    runs = [inputs[experiment.at(inputs.model, probes)] for probes in experiment.probes]
    for score in ("trace_pre", "trace_post"):
        by_trial = [run.scores(score).mean(axis=1) for run in runs]
        for few, many in itertools.pairwise(by_trial):
            error = (few.var(ddof=1) / len(few) + many.var(ddof=1) / len(many)) ** 0.5
            assert abs(few.mean() - many.mean()) < 4 * error, f"{score}: {few.mean()} and {many.mean()} ± {error}"
