"""Does the score beat what costs nothing?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments.bench import Bench
from mcdo.experiments.prelim import baselines as baselines

pytestmark = [pytest.mark.prelim, pytest.mark.experiment(baselines, baselines.BaselinesConfig)]
PAIRS = [(b, t) for b in baselines.CHEAP for t in ("entropy", "error")] + [(baselines.ZERO_SHOT, "error")]


def _result(bench: Bench, model: str) -> baselines.BaselinesResult:
    settings = bench.settings
    config = baselines.BaselinesConfig.of(settings.protocol, settings.seed, settings.dropout)

    def compute() -> baselines.BaselinesResult:
        images, run = bench.images(config.n), bench.run(baselines.needs(config, model))
        logits, pixels = bench.logits(model, config.n), baselines.pixel_baselines(images)
        found = baselines.compute(config, run, logits, images.labels, pixels)
        baselines.write(config, run, logits, pixels, found, settings.reports / "prelim", settings.session)
        return found

    return bench.once(config, model, compute)


def test_every_score_is_set_against_every_baseline(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    result = _result(bench, model)
    for (score, baseline, target), difference in result.advantages.items():
        record_property(f"{score} over {baseline} at {target}", str(difference))
    assert {(b, t) for _, b, t in result.advantages} >= set(PAIRS)
    assert {s for s, _, _ in result.advantages} == set(baselines.SCORES)
    assert all(np.isfinite(r.rho.value) for r in result.relations.values())
    if result.errors:
        assert all(np.isfinite(d.estimate.value) for d in result.advantages.values())


@pytest.mark.parametrize(("baseline", "target"), PAIRS, ids=[f"{b}-{t}" for b, t in PAIRS])
def test_the_score_beats_the_baseline(baseline: str, target: str, model: str, bench: Bench, judge: Judges) -> None:
    found = _result(bench, model).advantages
    beside = f"{found['trace_pre', baseline, target]}; trace_post {found['trace_post', baseline, target].estimate}"
    judge("prelim_baselines").above(
        f"beats/{baseline}/{target}", found["trace_pre", baseline, target].estimate, 0.0, beside
    )
