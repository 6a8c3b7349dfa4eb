"""Exp4 (full): do models agree on which images are uncertain?"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from mcdo.experiments.phase2.exp4_full_agreement import AgreementResult, ModelAgreement
from mcdo.harness import Completed, Subject
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(ModelAgreement)

test_claims = claims_of(ModelAgreement)
test_contract = contract_of(ModelAgreement)


def test_every_two_models_are_compared_on_the_same_images(
    completed: Completed[AgreementResult], subject: Subject, record_property: Callable[[str, object], None]
) -> None:
    result, inputs = completed.result, completed.inputs
    originals = len(set(inputs[inputs.requests[0]].origins))
    if not result.matrices:
        pytest.skip(f"a matrix over models needs at least two; --models names {subject.model} only")
    for score, matrix in result.matrices.items():
        assert matrix.names == subject.models
        for pair in itertools.combinations(subject.models, 2):
            raw, corrected = matrix.raw[pair], matrix.disattenuated[pair]
            gap = matrix.reliability_difference[pair]
            record_property(f"{score} {'~'.join(pair)}", f"raw {raw}, corrected {corrected}, reliability gap {gap}")
            assert raw.n == originals, "an interval counts originals"
