"""Exp4 (subset): is the trace or the angular variance the better recipe?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments import exp0_nested_mc as exp0
from mcdo.experiments import exp4_subset_recipe as exp4
from mcdo.experiments.bench import Bench

pytestmark = [pytest.mark.phase1, pytest.mark.estimator("mc"), pytest.mark.experiment(exp4, exp4.Exp4SubsetConfig)]


def test_trace_ranks_more_reliably_than_angular_variance(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    settings = bench.settings
    config = exp4.Exp4SubsetConfig.of(settings.protocol, settings.seed, settings.dropout)
    run = bench.run(exp4.needs(config, model))
    result = exp4.compute(config, run)
    exp4.write(config, run, result, settings.reports / "phase1", settings.session)

    trace, angular = result.reliability["trace"], result.reliability["angular"]
    record_property("trace spearman", str(trace.estimate("spearman")))
    record_property("angular spearman", str(angular.estimate("spearman")))
    record_property("spearman(trace, angular)", str(result.agreement))
    assert trace.spearman > angular.spearman, (
        f"{model}: trace {trace.estimate('spearman')} against angular variance {angular.estimate('spearman')}"
    )


@pytest.mark.experiment(exp0, exp0.Exp0Config)
def test_exp4_is_exp0_on_the_same_passes(model: str, bench: Bench) -> None:
    """Their agreement is no evidence (the published project offered it as such): they are one measurement."""
    settings = bench.settings
    four = exp4.Exp4SubsetConfig.of(settings.protocol, settings.seed, settings.dropout)
    zero = exp0.Exp0Config.of(settings.protocol, settings.seed, settings.dropout)
    one = bench.run(exp4.needs(four, model)).scores("trace_pre", four.passes)[: four.trials]
    other = bench.run(exp0.needs(zero, model)).scores("trace_pre", four.passes)[: four.trials]
    np.testing.assert_array_equal(one, other)
