"""Exp0: is the ranking the same when it is measured again? The go/no-go decision on it is in tests/gates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments import exp0_nested_mc as exp0
from mcdo.experiments.bench import Bench
from mcdo.report.files import written
from mcdo.stats import icc_from_snr

pytestmark = [pytest.mark.phase1, pytest.mark.estimator("mc"), pytest.mark.experiment(exp0, exp0.Exp0Config)]


def test_reliability_is_measured_at_every_t(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    settings = bench.settings
    config = exp0.Exp0Config.of(settings.protocol, settings.seed, settings.dropout)
    run = bench.run(exp0.needs(config, model))
    result = bench.once(config, model, lambda: exp0.compute(config, run))
    exp0.write(config, run, result, settings.reports / "phase1", settings.session)
    written(settings.reports / "phase1" / "manifest_all.json", bench.images(config.n).write_manifest)

    for t, spaces in result.items():
        for space, r in spaces.items():
            record_property(f"{space} T={t} spearman", f"{r.estimate('spearman')}")
            record_property(f"{space} T={t} snr", f"{r.snr:.3f}")
            record_property(f"{space} T={t} icc", f"{r.icc:.3f}")
            record_property(f"{space} T={t} status", r.status)
            assert r.status != "insufficient_trials", f"{model} {space} T={t}: a trial's scores do not vary"
            assert r.icc == pytest.approx(icc_from_snr(r.snr, config.trials)), "SNR and ICC say the same"
    first, last = config.passes[0], config.passes[-1]
    for space, score in exp0.SPACES.items():
        assert result[last][space].spearman > result[first][space].spearman, f"{space}: more passes, less noise"
        # Trials differ by their masks alone. Stacked dropouts (the published Phase 2) would make the trace grow.
        means = run.scores(score, last).mean(axis=1)
        assert np.ptp(means) / means.mean() < 0.1, (
            f"{space}: the mean over images must not drift from trial to trial: {means}"
        )
