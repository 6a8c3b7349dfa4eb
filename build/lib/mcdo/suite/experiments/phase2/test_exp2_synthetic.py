"""Exp2: is the score lower on natural images than on synthetic ones?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mcdo.estimators import TRACES
from mcdo.experiments.phase2.exp2_synthetic import SyntheticNatural, SyntheticResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(SyntheticNatural)

test_claims = claims_of(SyntheticNatural)
test_contract = contract_of(SyntheticNatural)


def test_every_category_holds_distinct_images_and_its_own_pixels(completed: Completed[SyntheticResult]) -> None:
    """The published gradients held 4 images, and a pixel cache served one category's pixels for another."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, SyntheticNatural)
    runs = experiment.runs(inputs)
    for name, shown in experiment.images(inputs.encoder().resolution).items():
        images = inputs.images(shown)
        assert len(images) >= min(40, experiment.n)
        assert len(set(images.content_hashes)) == len(images)
        assert runs[name].ids == images.ids
    features = np.concatenate([run.features for run in runs.values()])
    # solid colours may be alike to an encoder, never equal
    assert len(np.unique(features, axis=0)) == len(features), "two images have the very same features"


def test_order_of_means_is_reported(result: SyntheticResult, record_property: Callable[[str, object], None]) -> None:
    for score in TRACES:
        record_property(f"{score} ascending", " < ".join(result.order(score)))
        for name, average in result.means[score].items():
            record_property(f"{score} {name}", f"{average.value:.3g} [{average.low:.3g}, {average.high:.3g}]")
        assert sorted(result.order(score)) == sorted(result.means[score]), "an order of all categories"
        assert len(result.pairs[score]) == 6
