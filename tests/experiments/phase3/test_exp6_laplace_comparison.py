"""Exp6: MC dropout beside Laplace, on the same images and targets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp6_laplace as exp6
from mcdo.experiments.bench import Bench
from mcdo.experiments.laplace_scores import calibration_images, laplace_scores, runtimes
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS

pytestmark = [pytest.mark.phase3, pytest.mark.experiment(exp6, exp6.Exp6Config)]

Record = Callable[[str, object], None]


def measured(bench: Bench, model: str) -> tuple[exp6.Exp6Config, exp6.Exp6Result]:
    settings = bench.settings
    config = exp6.Exp6Config.of(settings.protocol, settings.seed, settings.dropout)

    def compute() -> exp6.Exp6Result:
        need = exp6.needs(config, model)
        run, laplace = bench.run(need), laplace_scores(bench, model, config.n, config.fit)
        first = bench.first_order(need, config.probes)
        logits, labels = bench.logits(model, config.n), bench.images(config.n).labels
        linear = {name: first.scores(name) for name in ("trace_pre", "trace_post")}
        scores = exp6.gathered(run, config.passes, laplace, linear, logits)
        return exp6.compute(config, scores, run.feature_norm, logits, labels)

    return config, bench.once(config, model, compute)


def test_every_score_is_compared_on_the_same_images(model: str, bench: Bench, record_property: Record) -> None:
    config, result = measured(bench, model)
    run, fitted = bench.run(exp6.needs(config, model)), calibration_images(bench, config.n, config.fit)
    laplace = laplace_scores(bench, model, config.n, config.fit)
    seconds = runtimes(bench, model, config.n, config.fit, config.dropout, config.passes, config.seed)
    settings = bench.settings
    exp6.write(config, run, result, laplace, seconds, settings.reports / "phase3", settings.session)
    for name, ratio in exp6.cost(seconds).items():
        record_property(f"time of {name} in plain passes", f"{ratio:.1f}")
    for target, family in result.differences.items():
        for name, difference in family.items():
            record_property(f"{target}: {name} - {exp6.REFERENCE}", str(difference))
    assert not set(fitted.ids) & set(run.ids), "an image was fitted on and scored"
    assert all(score.shape == (len(run.ids),) and np.isfinite(score).all() for score in result.scores.values())
    assert {*exp6.LAPLACE, "first_order", "inverse_norm", "zero_shot_entropy"} <= set(result.scores)
    ratios = exp6.cost(seconds)
    assert ratios["laplace_head"] < ratios["mc_dropout"], "one pass and a product must be cheaper than T passes"


@pytest.mark.parametrize("score", exp6.LAPLACE)
@pytest.mark.parametrize("bar", list(BARS))
def test_laplace_follows_ambiguity(
    model: str,
    score: str,
    bar: str,
    bench: Bench,
    judge: Judges,
) -> None:
    key, threshold = BARS[bar]
    found = measured(bench, model)[1].estimates[score]
    beside = f"given the feature norm {found[f'{key}_given_norm']}"
    judge("exp6").above(f"{bar}/{score}", found[key], threshold, beside)


@pytest.mark.parametrize("other", [*exp6.LAPLACE, "inverse_norm"])
@pytest.mark.parametrize("target", ["entropy", "error"])
def test_mc_dropout_is_better_than_what_takes_one_pass(
    model: str,
    other: str,
    target: str,
    bench: Bench,
    judge: Judges,
) -> None:
    """Met where the other score's figure lies below MC dropout's, paired over images."""
    result = measured(bench, model)[1]
    if target not in result.differences:
        pytest.skip("undecided: the images have no labels, so errors are not known")
    found = result.differences[target][other]
    judge("exp6").below(
        f"better_than_{other}/{target}", found.estimate, 0.0, f"{other} - {exp6.REFERENCE}", found.p_holm
    )
