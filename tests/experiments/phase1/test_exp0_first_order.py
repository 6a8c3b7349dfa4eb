"""Exp0, first order: reliable with few probes, and inside its validity domain?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp0_first_order as exp0
from mcdo.experiments.bench import Bench
from mcdo.experiments.phase1.exp0_nested_mc import SPACES
from mcdo.stats import THRESHOLDS

pytestmark = [
    pytest.mark.phase1,
    pytest.mark.estimator("first_order"),
    pytest.mark.experiment(exp0, exp0.Exp0FirstOrderConfig),
]


def _config(bench: Bench) -> exp0.Exp0FirstOrderConfig:
    settings = bench.settings
    return exp0.Exp0FirstOrderConfig.of(settings.protocol, settings.seed, settings.dropout)


def test_reliability_and_domain_are_measured(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    settings, config = bench.settings, _config(bench)
    runs, _, _ = exp0.runs_of(bench, config, model)
    result = exp0.measure(bench, config, model)
    exp0.write(config, runs, result, settings.reports / "phase1", settings.session)
    for count, spaces in result.reliability.items():
        for space, r in spaces.items():
            record_property(f"{space} R={count} spearman", str(r.estimate("spearman")))
            assert r.status != "insufficient_trials", f"{model} {space} R={count}: a trial's scores do not vary"
    for p, limits in result.domain.items():
        for space, found in limits.items():
            record_property(f"{space} p={p} ratio", str(found.ratio))
            record_property(f"{space} p={p} spearman, corrected", str(found.corrected))
    few, many = config.probes[0], config.probes[-1]
    for space, score in SPACES.items():
        assert result.reliability[many][space].spearman > result.reliability[few][space].spearman, space
        means = [run.scores(score).mean() for run in runs.values()]
        assert np.ptp(means) / np.mean(means) < 0.1, f"{space}: the estimate must not depend on R: {means}"


@pytest.mark.gate
@pytest.mark.parametrize("space", list(SPACES))
def test_first_order_says_what_monte_carlo_says(model: str, space: str, bench: Bench, judge: Judges) -> None:
    """Its refusal: a score outside the domain takes no part in the decision (tests/gates/test_decision.py)."""
    config = _config(bench)
    found = exp0.measure(bench, config, model).domain[bench.settings.dropout.p][space]
    measured = f"ratio {found.ratio}, Spearman corrected {found.corrected} (raw {found.spearman})"
    accepted = f"accepted: ratio {exp0.RATIO_BAND}, Spearman >= {exp0.SPEARMAN_BAR}"
    judge("exp0_first_order").outcome(f"domain/{SPACES[space]}", found.holds, measured, accepted)


@pytest.mark.gate
@pytest.mark.parametrize("space", list(SPACES))
def test_few_probes_rank_images_reliably(model: str, space: str, bench: Bench, judge: Judges) -> None:
    config = _config(bench)
    count = config.probes[-1]
    r = exp0.measure(bench, config, model).reliability[count][space]
    beside = f"Spearman with {count} probes, status {r.status}"
    claim, bar = f"usable/{SPACES[space]}", THRESHOLDS.usable_spearman
    judge("exp0_first_order").at_least(claim, r.estimate("spearman"), bar, beside)
