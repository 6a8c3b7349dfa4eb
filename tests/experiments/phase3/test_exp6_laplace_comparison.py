"""Exp6: MC dropout beside Laplace, on the same images and targets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mcdo.experiments.phase3.exp6_laplace.experiment import LAPLACE, NORM, REFERENCE, LaplaceComparison, LaplaceResult
from mcdo.experiments.phase3.exp6_laplace.runtimes import TIMED, in_plain_passes
from mcdo.harness import Completed, Images
from mcdo.harness.laplace_requests import calibration_images
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(LaplaceComparison)

test_claims = claims_of(LaplaceComparison)
test_contract = contract_of(LaplaceComparison)


def test_every_score_is_compared_on_the_same_images(
    completed: Completed[LaplaceResult], record_property: Callable[[str, object], None]
) -> None:
    result, inputs = completed.result, completed.inputs
    assert isinstance(completed.experiment, LaplaceComparison)
    n = len(inputs.images(Images(completed.experiment.n)))
    for target, family in result.differences.items():
        for name, difference in family.items():
            record_property(f"{target}: {name} - {REFERENCE}", str(difference))
    assert {REFERENCE, *LAPLACE, "first_order", NORM, "zero_shot_entropy"} <= set(result.scores)
    assert {score.shape[-1] for score in result.scores.values()} == {n}
    assert len({e.n for figures in result.figures.values() for e in figures.values()}) == 1, "one sample for all"


def test_no_original_is_both_fitted_on_and_scored(completed: Completed[LaplaceResult]) -> None:
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, LaplaceComparison)
    scored = Images(experiment.n)
    fitted = calibration_images(inputs.images, inputs.settings, scored, experiment.fit)
    assert not set(fitted.origins) & set(inputs.images(scored).origins)


def test_one_pass_and_a_product_take_less_time_than_t_passes(
    completed: Completed[LaplaceResult], record_property: Callable[[str, object], None]
) -> None:
    """By ranges of repetitions: the usual time of Laplace lies below the least of dropout."""
    seconds = completed.result.seconds
    for name, ratio in in_plain_passes(seconds).items():
        record_property(f"time of {name} in plain passes", f"{ratio:.1f}")
    of = dict(zip(TIMED, seconds, strict=True))
    for name in LAPLACE:
        assert np.median(of[name]) < of[REFERENCE].min(), name
