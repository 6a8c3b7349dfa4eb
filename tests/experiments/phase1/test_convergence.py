"""Convergence: where does reliability saturate, and could one smaller run have told?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments import convergence
from mcdo.experiments.bench import Bench

pytestmark = [
    pytest.mark.phase1,
    pytest.mark.estimator("mc"),
    pytest.mark.first_model,
    pytest.mark.experiment(convergence, convergence.ConvergenceConfig),
]

LAW_TOLERANCE = 0.1
"""How far the law may be from a measured figure, beyond the measured interval (its known error is up to .07)."""


def test_one_run_predicts_reliability_at_every_larger_t(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    settings = bench.settings
    config = convergence.ConvergenceConfig.of(settings.protocol, settings.seed, settings.dropout)
    run = bench.run(convergence.needs(config, model))
    result = bench.once(config, model, lambda: convergence.compute(config, run))
    convergence.write(config, run, result, settings.reports / "phase1")

    usable = result.usable_from
    record_property(
        "smallest usable T, predicted", f"{usable.continuous} [{usable.low}, {usable.high}], on grid {usable.on_grid}"
    )
    for t in config.passes:
        measured, predicted = result.measured[t], result.predicted[t]
        record_property(f"T={t} spearman measured", str(measured.estimate("spearman")))
        record_property(f"T={t} spearman predicted", str(predicted.spearman))
        if t > config.predict_from:
            low, high = measured.spearman_ci
            assert low - LAW_TOLERANCE <= predicted.spearman.value <= high + LAW_TOLERANCE, (
                f"{model} T={t}: predicted from T={config.predict_from} {predicted.spearman}, "
                f"measured {measured.estimate('spearman')}"
            )
