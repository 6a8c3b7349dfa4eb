"""Exp5 (subset): does the score follow ambiguity, and beyond the feature norm?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mcdo.experiments.phase1.exp5_subset_ambiguity import AmbiguityResult, SubsetAmbiguity
from mcdo.harness import Completed, Images
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(SubsetAmbiguity)

test_claims = claims_of(SubsetAmbiguity)
test_contract = contract_of(SubsetAmbiguity)


def test_ambiguity_is_reported_for_every_score_and_head(
    completed: Completed[AmbiguityResult], record_property: Callable[[str, object], None]
) -> None:
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, SubsetAmbiguity)
    record_property("accuracy", str(result.accuracy))
    for score, figures in result.figures.items():
        for name, estimate in figures.items():
            record_property(f"{score} {name}", str(estimate))
    scores = ("trace_pre", "trace_post", "trace_pre_relative", "feature_norm")
    heads = ("softmax", "neighbours" if result.by_prototypes else "sigmoid")
    assert {f"{score}/{head}" for score in scores for head in heads} <= {
        name.removesuffix("/first_order") for name in result.figures
    }
    images = completed.inputs.images(Images(experiment.n))
    logits = completed.inputs[experiment.logits(completed.inputs.model)]["logits"]
    assert (np.ptp(logits, axis=2) > 0).all(), "an image is equally like every class"
    assert len(images) == logits.shape[1] <= experiment.n
    assert not any(name.startswith("n0") and name[1:].isdigit() for name in images.class_names), "prompts need words"
