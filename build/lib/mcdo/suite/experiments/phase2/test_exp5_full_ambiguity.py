"""Exp5 (full): does the score follow ambiguity, and more than the feature norm does?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.estimators import TRACES
from mcdo.experiments.phase2.exp5_full_ambiguity import BASELINE, FullAmbiguity, FullAmbiguityResult
from mcdo.harness import Completed, Images
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(FullAmbiguity)

test_claims = claims_of(FullAmbiguity)
test_contract = contract_of(FullAmbiguity)


def test_every_figure_is_over_originals(
    completed: Completed[FullAmbiguityResult], record_property: Callable[[str, object], None]
) -> None:
    """Ten thousand digits are variants of 600 originals: intervals over images would be far too narrow."""
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, FullAmbiguity)
    images = completed.inputs.images(Images(experiment.n))
    record_property("images", len(images))
    record_property("originals", result.originals)
    record_property("accuracy", str(result.accuracy))
    record_property("mean entropy (nats)", str(result.entropy))
    assert len(set(images.origins)) == result.originals
    for name, figures in result.figures.items():
        for key, estimate in figures.items():
            record_property(f"{name} {key}", str(estimate))
            assert estimate.n == result.originals
    assert {name.split("/")[0] for name in result.figures} >= {*TRACES, BASELINE}
    assert set(result.gain) >= set(TRACES)
