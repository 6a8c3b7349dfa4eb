"""What passes say of a choice, from halves in which it is known which images rise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.recipe.choice import CHOSEN_ON, OVER_ALL, UNSEEN
from mcdo.experiments.recipe.confirmation import Confirmation, confirmed
from mcdo.experiments.recipe.halves import Half
from mcdo.stats import agreement

Array = NDArray[np.float64]
K, N = 5, 40
BLUR, NOISE = "blur:4%", "noise:0.2"
OWN, *SPREAD = np.exp(np.random.default_rng(0).normal(size=(1 + 2 * K, N)))
LINEAR = OWN * np.exp(0.05 * np.random.default_rng(1).normal(size=(K, 1))) * np.power(SPREAD[:K], 0.2)


def half(rising: dict[str, int]) -> Half:
    """Scores [K, N, 1] of which so many images rise under each degradation, in every trial; the others fall."""
    clean = OWN * np.power(SPREAD[K:], 0.1)
    rise = {spec: np.where(np.arange(N) < count, 0.1, -0.1) * np.ones((K, N)) for spec, count in rising.items()}
    return Half(clean[..., None], {s: r[..., None] for s, r in rise.items()}, tuple(map(str, range(N))), False)


CHOSEN, EVERY = half({BLUR: N, NOISE: 0}), half({BLUR: N // 2, NOISE: N // 4})


def found(linear: Array | None = None) -> Confirmation:
    unseen = {"noise": NOISE}
    return confirmed(CHOSEN, EVERY, linear, [BLUR], unseen, p=0.01, passes=16, seed=0, resamples=100)


def test_shares_are_of_the_chosen_sites_and_of_all_on_what_was_chosen_on_and_on_what_was_not() -> None:
    shares = {key: estimate.value for key, estimate in found().shares.items()}
    assert shares == {
        ("chosen", CHOSEN_ON): 1,
        (OVER_ALL, CHOSEN_ON): 0.5,
        ("chosen", UNSEEN): 0,
        (OVER_ALL, UNSEEN): 0.25,
        ("chosen", BLUR): 1,
        ("chosen", NOISE): 0,
    }


def test_gains_are_over_all_sites() -> None:
    gains = found().gains
    assert {scope: gain.estimate.value for scope, gain in gains.items()} == {CHOSEN_ON: 0.5, UNSEEN: -0.25}
    assert gains[CHOSEN_ON].estimate.outcome(0.0, ">") == "met"
    assert gains[UNSEEN].estimate.outcome(0.0, ">") == "not met"


def test_trials_of_first_order_share_their_probes_and_one_that_is_exact_has_none() -> None:
    """More images make a shared noise no smaller."""
    how: dict[str, Any] = {"origins": CHOSEN.origins, "seed": 0, "resamples": 100}
    scores = CHOSEN.clean[..., 0]
    shared, alone = (agreement(scores, LINEAR, shared_noise=noise, **how) for noise in (True, False))
    assert shared != alone
    assert found(LINEAR).domain == shared
    assert found(LINEAR[:1]).domain == agreement(scores, LINEAR[:1], shared_noise=False, **how)
    assert found().domain is None
