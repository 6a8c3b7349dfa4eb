"""Is an image more uncertain once it has been damaged, and can the score be read as a severity?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.estimators import TRACES
from mcdo.experiments.prelim.damage import DegradationResult
from mcdo.experiments.prelim.degradation import DegradationTest
from mcdo.harness import Completed, Images
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(DegradationTest)

test_claims = claims_of(DegradationTest)
test_contract = contract_of(DegradationTest)


def test_every_degradation_is_reported_with_both_kinds_of_masks(
    completed: Completed[DegradationResult], record_property: Callable[[str, object], None]
) -> None:
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, DegradationTest)
    assert set(result.damage) == set(experiment.degradations(result.size))
    images = completed.inputs.images(Images(experiment.n))
    for spec, damage in result.damage.items():
        common, independent = damage.increase["trace_pre"], damage.independent["trace_pre"]
        record_property(f"{spec}: common masks", f"{common.fraction}, change {common.relative_change}")
        record_property(f"{spec}: independent masks", str(independent.fraction))
        record_property(f"{spec}: accuracy", str(damage.accuracy))
        assert common.n == independent.n == len(images)
        assert common.fraction.n == damage.cosine.n == len(set(images.origins))
        assert damage.at_input <= damage.native or damage.at_input == pytest.approx(damage.native)
        assert all(damage.p_holm[name] >= damage.increase[name].p_value for name in TRACES)


def test_clean_and_degraded_images_share_masks_and_origins(completed: Completed[DegradationResult]) -> None:
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, DegradationTest)
    clean = inputs.images(Images(experiment.n))
    for spec in completed.result.damage:
        images = inputs.images(Images(experiment.n, degradation=spec))
        assert (images.mask_ids, images.origins) == (clean.mask_ids, clean.origins)
        assert not set(images.ids) & set(clean.ids)
