"""Cost of a pass in forward equivalents, and what reliability costs. ``pytest tests/perf --benchmark``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from mcdo.experiments.cost.estimator_cost import EstimatorCost
from mcdo.experiments.cost.pass_cost import (
    DETERMINISTIC,
    LINEAR,
    NATIVE,
    SIGNS,
    SPARSE,
    TIED,
    TIED_OVER_IMAGES,
    PassCost,
    Way,
    ceiling,
    ways,
    with_probes,
)
from mcdo.harness import Session
from mcdo.harness.tests import claims_of, contract_of

pytestmark = pytest.mark.perf

test_claims_about_a_pass = claims_of(PassCost)
test_contract_of_pass_cost = contract_of(PassCost)
test_claims_about_reliability = claims_of(EstimatorCost)
test_contract_of_estimator_cost = contract_of(EstimatorCost)

PROBES = (1, 8)
NOISE = 1.1
"""Times itself that the deterministic pass may seem to cost: how far a ratio can be believed."""
WAYS = (DETERMINISTIC, NATIVE, SPARSE, TIED, TIED_OVER_IMAGES, SIGNS, LINEAR, *map(with_probes, PROBES))


@pytest.mark.parametrize("way", WAYS, ids=[way.replace(" ", "-") for way in WAYS])
def test_time(model: str, way: str, session: Session, in_forwards: Callable[[Way], Mapping[str, float]]) -> None:
    encoder = session.encoder(model)
    forwards = in_forwards(ways(encoder, session.settings.dropout.p, PROBES)[way]())
    allowed = {DETERMINISTIC: NOISE, SPARSE: ceiling(encoder)}.get(way, math.inf)
    assert forwards["q1"] <= allowed, f"{model}: {way} costs {forwards['median']:.2f} forwards"
