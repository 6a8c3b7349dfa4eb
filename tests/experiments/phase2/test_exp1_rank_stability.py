"""Exp1: does the ranking survive a change of p?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp1_rank_stability as exp1
from mcdo.experiments.bench import Bench
from mcdo.stats import stacked_drift

pytestmark = [pytest.mark.phase2, pytest.mark.experiment(exp1, exp1.Exp1Config)]


def _config(bench: Bench) -> exp1.Exp1Config:
    settings = bench.settings
    return exp1.Exp1Config.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> exp1.Exp1Result:
    config = _config(bench)
    runs = {need.config.dropout.p: bench.run(need) for need in exp1.needs(config, model)}

    def compute() -> exp1.Exp1Result:
        first = bench.first_order(exp1.first_order_need(config, model), config.probes)
        linear = {p: first.scores("trace_pre", p=p)[: config.trials] for p in runs}
        found = exp1.compute(config, runs, linear)
        exp1.write(config, runs, found, bench.settings.reports / "phase2", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def test_trials_at_one_p_do_not_drift(model: str, bench: Bench, record_property: Callable[[str, object], None]) -> None:
    """Stacked dropouts (the published sweep) would make trial k + 1 times as large."""
    config, result = _config(bench), _result(bench, model)
    for p, drift in result.drift.items():
        record_property(f"relative drift per trial, p={p:g}", str(drift))
        assert drift.low <= 0 <= drift.high, f"{model}: the mean trace drifts over trials at p={p:g}: {drift}"
        assert drift.high < stacked_drift(config.trials), f"{model}: p={p:g}: {drift} cannot tell stacking apart"


def test_the_sweep_is_reported_whole(model: str, bench: Bench, record_property: Callable[[str, object], None]) -> None:
    config, result = _config(bench), _result(bench, model)
    for name, table in {"mean": result.means, "ratio to first order": result.ratio}.items():
        for p, estimate in table.items():
            record_property(f"{name}, p={p:g}", str(estimate))
            assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
    for matrix in result.matrices.values():
        assert matrix.names == (*(f"{p:g}" for p in config.p), exp1.FIRST_ORDER)
    assert len(result.stable()) == len(config.p) * (len(config.p) - 1) // 2
    means = [e.value for e in result.means.values()]
    assert means == sorted(means), f"{model}: more dropout, more variance: {means}"


def test_first_order_predicts_the_mean_score_at_the_smallest_p(model: str, bench: Bench, judge: Judges) -> None:
    """The delta method is exact as p tends to 0: within a tenth at the smallest p of the sweep."""
    ratio = _result(bench, model).ratio[min(_config(bench).p)]
    judge("exp1").within("first_order_mean/smallest_p", ratio, 0.9, 1.1, "measured / predicted mean")


@pytest.mark.parametrize(
    "p", [p for p in exp1.Exp1Config().p if p != exp1.Exp1Config().reference], ids=lambda p: f"p{p:g}"
)
def test_the_ranking_at_p_is_that_at_the_published_p(p: float, model: str, bench: Bench, judge: Judges) -> None:
    pair, matrices = (f"{p:g}", f"{_config(bench).reference:g}"), _result(bench, model).matrices
    trace = matrices["trace_pre"]
    beside = (
        f"raw {trace.pair('raw', *pair)}; over the squared norm "
        f"{matrices['trace_pre_relative'].pair('disattenuated', *pair)}"
    )
    judge("exp1").above(f"stable/p={p:g}", trace.pair("disattenuated", *pair), exp1.STABLE, beside)


def test_first_order_ranks_as_monte_carlo_does_at_the_published_p(model: str, bench: Bench, judge: Judges) -> None:
    trace = _result(bench, model).matrices["trace_pre"]
    pair = f"{_config(bench).reference:g}", exp1.FIRST_ORDER
    judge("exp1").above(
        "first_order_rank", trace.pair("disattenuated", *pair), exp1.STABLE, f"raw {trace.pair('raw', *pair)}"
    )
