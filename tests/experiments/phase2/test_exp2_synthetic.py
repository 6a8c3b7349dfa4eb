"""Exp2: is the score lower on natural images than on synthetic ones?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp2_synthetic as exp2
from mcdo.experiments.bench import Bench

pytestmark = [pytest.mark.phase2, pytest.mark.experiment(exp2, exp2.Exp2Config)]


def _config(bench: Bench) -> exp2.Exp2Config:
    settings = bench.settings
    return exp2.Exp2Config.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> exp2.Exp2Result:
    config = _config(bench)
    categories = (*exp2.SYNTHETIC, exp2.NATURAL)
    runs = {name: bench.run(need) for name, need in zip(categories, exp2.needs(config, model), strict=True)}

    def compute() -> exp2.Exp2Result:
        found = exp2.compute(config, runs)
        exp2.write(config, runs, found, bench.settings.reports / "phase2", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def test_every_category_holds_distinct_images_and_its_own_pixels(model: str, bench: Bench) -> None:
    """The published gradients held 4 images, and a pixel cache served one category's pixels for another."""
    config = _config(bench)
    runs = [(need, bench.run(need)) for need in exp2.needs(config, model)]
    for need, run in runs:
        images = bench.images(need.n, need.images)
        assert len(images) >= min(40, config.n)
        assert len(set(images.content_hashes)) == len(images)
        assert run.ids == images.ids
    features = np.concatenate([run.features for _, run in runs])
    # solid colours may be alike to an encoder, never equal
    assert len(np.unique(features, axis=0)) == len(features), "two images have the very same features"


def test_order_of_means_is_reported(model: str, bench: Bench, record_property: Callable[[str, object], None]) -> None:
    result = _result(bench, model)
    for score in exp2.SCORES:
        record_property(f"{score} ascending", " < ".join(result.order(score)))
        for name, mean in result.means[score].items():
            record_property(f"{score} {name}", str(mean))
            assert mean.low <= mean.value <= mean.high
        assert len(result.pairs[score]) == 6


@pytest.mark.parametrize("score", ["trace_pre", "trace_pre_relative", "trace_post"])
def test_natural_images_have_the_lowest_score(score: str, model: str, bench: Bench, judge: Judges) -> None:
    result = _result(bench, model)
    means = ", ".join(f"{name} {result.means[score][name].value:.3g}" for name in result.order(score))
    gaps = "; ".join(
        f"natural - {name}: p_holm {d.p_holm:.2g}, P(natural above) {d.exceedance}"
        for name in exp2.SYNTHETIC
        for d in [result.pairs[score][name, exp2.NATURAL]]
    )
    judge("exp2").outcome(f"natural_lowest/{score}", result.familiarity(score), means, gaps)
