"""Exp0b: what shape does the cloud of passes have?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments import exp0b_norm_geometry as exp0b
from mcdo.experiments.bench import Bench

pytestmark = [
    pytest.mark.phase1,
    pytest.mark.estimator("mc"),
    pytest.mark.first_model,
    pytest.mark.experiment(exp0b, exp0b.Exp0bConfig),
]


def test_geometry_stands_beside_its_floor(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    settings = bench.settings
    config = exp0b.Exp0bConfig.of(settings.protocol, settings.seed, settings.dropout)
    run = bench.run(exp0b.needs(config, model))
    result = exp0b.compute(config, run)
    exp0b.write(config, run, result, settings.reports / "phase1")

    for name, estimate in {**result.means, **result.correlations}.items():
        record_property(name, str(estimate))
        assert np.isfinite([estimate.value, estimate.low, estimate.high]).all(), name

    # No covariance looks less coupled than independent noise: nothing measured may lie below it.
    for mass in ("offdiag_pre", "offdiag_post", "offdiag_frobenius_pre", "offdiag_frobenius_post"):
        assert result.means[mass].value > result.means[f"{mass}_floor"].value - 0.005, mass
    d = run.features.shape[1]
    total = result.means["trace_pre_per_d"].value * d
    assert 0 < sum(result.eigenvalues) <= total * (1 + 1e-9), "the leading eigenvalues are part of the trace"
    assert 1 <= result.means["effective_rank"].value <= min(d, config.passes - 1)
