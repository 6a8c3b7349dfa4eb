"""Plainly wrong arguments are refused by name: each of these gave a number, or ended in a library's own error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mcdo import stats
from mcdo.errors import McdoError
from mcdo.stats.selective import fpr95, retrieval_correct, risk_areas

N = 40
X, Y, *NOISE = np.random.default_rng(0).normal(size=(10, N))
SCORES = X + 0.3 * np.array(NOISE[:5])
POSITIVE = Y > 0.3
CURVE = np.abs(NOISE[5:]) + np.arange(3)[:, None] + 1
LOGITS = np.random.default_rng(1).normal(size=(3, N, 4))
UNITS, DRAWS = LOGITS[0, 0], LOGITS[0]


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, 2**63])
@pytest.mark.parametrize(
    "of",
    [
        lambda seed: stats.mean(X, seed=seed),
        lambda seed: stats.spearman(X, Y, seed=seed),
        lambda seed: stats.reliability(SCORES, seed=seed),
        lambda seed: stats.bootstrap(np.mean, X, seed=seed),
        lambda seed: stats.group_differences({"a": X, "b": Y}, seed=seed),
        lambda seed: stats.null_pass_rate(lambda _: True, X, permutations=1, seed=seed),
        lambda seed: stats.predicted_reliability(SCORES, 8, [16], seed=seed),
        lambda seed: risk_areas(X, POSITIVE, seed=seed),
        lambda seed: fpr95(X, Y, seed=seed),
    ],
)
def test_a_seed_that_is_none(of: Callable[[Any], object], seed: Any) -> None:
    """Without one, every call would give another figure."""
    with pytest.raises(McdoError, match="seed = "):
        of(seed)


@pytest.mark.parametrize(
    ("of", "said"),
    [
        (lambda: stats.auroc_high(X, Y, quantile=2), "quantile 2"),
        (lambda: stats.auroc_low(X, Y, quantile=math.nan), "quantile"),
        (lambda: stats.icc_from_snr(-1.0, 5), "snr = -1"),
        (lambda: stats.status_of(84.0, 3.0, 0.8), "spearman = 84: it lies between -1 and 1"),
        (lambda: stats.status_of(0.84, -3.0, 0.8), "snr = -3"),
        (lambda: stats.status_of(0.84, 3.0, 80), "icc = 80"),
        (lambda: stats.disattenuated(0.5, 80, 0.9), "reliability_x is 80"),
        (lambda: stats.disattenuated(2.5, 0.8, 0.9), "rho is 2.5"),
        (lambda: stats.stacked_drift(0), "trials = 0"),
        (lambda: stats.predicted_reliability(SCORES, 8, [1.5]), "target_passes = 1.5"),  # type: ignore[list-item]
        (lambda: stats.predicted_reliability(SCORES, math.inf, [16]), "measured_passes = inf"),  # type: ignore[arg-type]
        (lambda: stats.smallest_usable_passes(SCORES, 2.5), "measured_passes = 2.5"),  # type: ignore[arg-type]
        (lambda: stats.prompt_sensitivity(LOGITS, head="max"), "head 'max'"),  # type: ignore[arg-type]
        (lambda: stats.crossed_mean(UNITS, DRAWS, 30, level=-0.1), "level -0.1"),
        (lambda: stats.crossed_mean(UNITS, DRAWS, 0), "n = 0"),
        (lambda: stats.proportion(3, math.inf), "3 of inf is not a share"),  # type: ignore[arg-type]
        (lambda: stats.proportion(1, 3, method="normal"), "method 'normal'"),  # type: ignore[arg-type]
        (lambda: stats.null_pass_rate(lambda _: True, [1.0, math.nan]), "scores holds nan at image 1"),
        (lambda: stats.null_pass_rate(lambda _: True, X, permutations=2.5), "permutations = 2.5"),  # type: ignore[arg-type]
        (lambda: stats.group_differences({"a": X, "b": Y}, permutations=0), "permutations = 0"),
        (lambda: stats.response_curve([0, math.nan, 2], CURVE), "severities"),
        (lambda: stats.response_curve([0, 1, math.inf], CURVE), "must ascend from 0"),
        (lambda: stats.reading_error([0, 1, 2], 3.0), "give .S, N."),
        (lambda: stats.ambiguity_table({}, stats.ambiguity_targets(LOGITS[0])), "no scores are given"),
        (lambda: retrieval_correct(np.eye(4), [0, 0, 1]), "labels have shape .3. for 4 images"),
        (lambda: retrieval_correct(np.eye(4), [0, 0, 1, 1], ["a", "b", "c"]), "origins have shape .3. for 4 images"),
        (lambda: retrieval_correct(np.diag([1, 1, 1, 0]), [0, 0, 1, 1]), "the feature of image 3 is zero"),
        (
            lambda: retrieval_correct(np.array([[1, math.nan], [1, 0]]), [0, 1]),
            "features holds nan at image 0, dimension 1",
        ),
        (lambda: retrieval_correct([1.0, 2.0], [0, 1]), "give .N, D."),
    ],
)
def test_it_is_named(of: Callable[[], object], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        of()


def test_a_contrast_without_end_is_undefined_and_never_sure() -> None:
    for values, draws in ((np.r_[np.inf, UNITS[1:]], DRAWS), (UNITS, 1e300 * DRAWS)):
        with np.errstate(all="ignore"):
            found = stats.crossed_mean(values, draws, 30)
        assert np.isnan([found.estimate.value, found.p_value]).all()
    holed = DRAWS.copy()
    holed[0, 0] = np.inf  # a resample whose quotient has no end is left out, as one that is undefined
    assert stats.crossed_mean(UNITS, holed, 30) == stats.crossed_mean(UNITS, DRAWS[1:], 30)
