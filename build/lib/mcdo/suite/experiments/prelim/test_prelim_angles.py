"""Angles 1 to 3: which metric, at which sample size, and what else does the score follow?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments.prelim.angle_view import CONTROLS, METRICS
from mcdo.experiments.prelim.angles import Angles, AnglesResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(Angles)

test_claims = claims_of(Angles)
test_contract = contract_of(Angles)


def test_every_angle_has_its_images(completed: Completed[AnglesResult]) -> None:
    experiment = completed.experiment
    assert isinstance(experiment, Angles)
    for angle, shown in experiment.angles.items():
        images = completed.inputs.images(shown)
        assert completed.result.sizes[angle] == (len(images), len(set(images.origins))), f"angle {angle} lost images"


def test_every_metric_stands_beside_itself_given_the_norm(
    result: AnglesResult, record_property: Callable[[str, object], None]
) -> None:
    for angle, table in result.metrics.items():
        assert {score for score, _ in table} == {*METRICS, *CONTROLS}
        for (score, target), relation in table.items():
            record_property(f"angle {angle}: {score} ~ {target}", str(relation))
            assert relation.rho.n == result.sizes[angle][1], "an interval counts originals"
            assert np.isnan(relation.given.value) == (score == "feature_norm")
            assert relation.p_holm >= relation.p_value


def test_trace_post_and_mean_cosine_dev_are_one_metric(result: AnglesResult) -> None:
    """Trap D13: their agreement is offered as evidence nowhere."""
    for table in result.metrics.values():
        for target in ("entropy", "negative_margin"):
            one, other = table["trace_post", target].rho.value, table["mean_cosine_dev", target].rho.value
            assert one == pytest.approx(other, abs=1e-4)
