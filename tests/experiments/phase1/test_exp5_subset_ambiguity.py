"""Exp5 (subset): does the score follow ambiguity? The bars on it are in tests/gates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments import exp5_subset_ambiguity as exp5
from mcdo.experiments.bench import Bench

pytestmark = [pytest.mark.phase1, pytest.mark.estimator("mc"), pytest.mark.experiment(exp5, exp5.Exp5SubsetConfig)]


def test_ambiguity_is_reported_for_every_score_and_head(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    settings = bench.settings
    config = exp5.Exp5SubsetConfig.of(settings.protocol, settings.seed, settings.dropout)
    images, run = bench.images(config.n), bench.run(exp5.needs(config, model))
    logits = bench.logits(model, config.n)
    result = bench.once(config, model, lambda: exp5.compute(config, run, logits, images.labels))
    exp5.write(config, run, images, logits, result, settings.reports / "phase1", settings.session)

    record_property("accuracy", str(result.accuracy))
    for score, estimates in result.estimates.items():
        for name, estimate in estimates.items():
            record_property(f"{score} {name}", str(estimate))
    assert set(result.reports) == {
        f"{score}/{head}"
        for score in ("trace_pre", "trace_post", "trace_pre_relative", "feature_norm")
        for head in ("softmax", "sigmoid")
    }
    assert np.isfinite(logits).all()
    assert len(images) == min(config.n, len(images)) == logits.shape[1]
    assert not any(name.startswith("n0") and name[1:].isdigit() for name in images.class_names), "prompts need words"
