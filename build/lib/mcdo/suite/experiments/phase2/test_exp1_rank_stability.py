"""Exp1: does the ranking survive a change of p?"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from mcdo.experiments.phase2.exp1_rank_stability import RankStability, StabilityResult
from mcdo.harness import Completed
from mcdo.harness.tests import check_drift, claims_of, contract_of, of_experiment

pytestmark = of_experiment(RankStability)

test_claims = claims_of(RankStability)
test_contract = contract_of(RankStability)


def test_trials_at_one_p_do_not_drift(
    completed: Completed[StabilityResult], record_property: Callable[[str, object], None]
) -> None:
    """Stacked dropouts (the published sweep) would make trial k + 1 times as large."""
    drifts = {f"p={p:g}": drift for p, drift in completed.result.drift.items()}
    for p, drift in drifts.items():
        record_property(f"relative drift per trial, {p}", str(drift))
    check_drift(drifts, completed.inputs.requests[0].config.trials)  # type: ignore[attr-defined]


def test_the_sweep_is_reported_whole(
    completed: Completed[StabilityResult], record_property: Callable[[str, object], None]
) -> None:
    result = completed.result
    originals = len(set(completed.inputs[completed.inputs.requests[0]].origins))
    for name, table in {"mean": result.means, "ratio to first order": result.ratio}.items():
        for p, estimate in table.items():
            record_property(f"{name}, p={p:g}", str(estimate))
            assert estimate.n == originals, "an interval counts originals"
    grid = tuple(result.means)
    for matrix in result.matrices.values():
        assert matrix.names == tuple(f"{each:g}" for each in grid)
    assert len(result.stable()) == len(grid) * (len(grid) - 1) // 2
    for (p, less), (q, more) in itertools.pairwise(result.means.items()):
        assert less.high < more.low, f"more dropout, more variance: {less} at p={p:g}, {more} at p={q:g}"
