"""What a vector of drop probabilities is chosen for, and its comparison on images that chose nothing.

The published objective is ρ(−margin) + ρ(entropy) + .5 ρ(prompt sensitivity) + .10 ICC, with Spearman's ρ of the mean
over trials and ICC(1) of the trials. One trial has no ICC, so that term is left out: where the score is free of noise
(first order with all probes) it would be 1 for every p, and moves no comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import AmbiguityTargets, Difference, Estimate, Origins, Sample
from mcdo.stats.comparison import differences
from mcdo.stats.resampling import correlation, rank_covariance
from mcdo.stats.trials import Scores, widened

WEIGHTS = {"neg_margin": 1.0, "entropy": 1.0, "prompt_sensitivity": 0.5}
ICC_WEIGHT = 0.10
_LARGEST = sum(WEIGHTS.values()) + ICC_WEIGHT
Array = NDArray[np.float64]
Targets = Mapping[str, Array]


def published_targets(targets: AmbiguityTargets) -> dict[str, Array]:
    """The three targets [N] of the objective.

    Raises:
        McdoError: without prompt sensitivity.

    """
    if targets.prompt_sensitivity is None:
        raise McdoError("the objective needs prompt sensitivity: give logits of at least two templates")
    return {
        "neg_margin": targets.neg_margin,
        "entropy": targets.entropy,
        "prompt_sensitivity": targets.prompt_sensitivity,
    }


def objectives(scores: Array, targets: Targets) -> Array:
    """The objective of each of S scores ``[S, K, N]``: ``[S]``."""
    return np.asarray(_resampled(scores, targets, np.ones((1, scores.shape[-1])))[0])


def _resampled(scores: Array, targets: Targets, weights: Array) -> Array:
    """Objectives [R, S] of ``scores`` [S, K, N] in resamples, given as multiplicities ``weights`` [R, N]."""
    (S, K, _), means = scores.shape, scores.mean(axis=1)
    covariance = rank_covariance(np.stack([*means, *(targets[name] for name in WEIGHTS)]), weights)
    rho = correlation(covariance)[:, :S, S:] @ np.array(list(WEIGHTS.values()))
    if K < 2:
        return np.asarray(rho)
    total, about = weights.sum(axis=1, keepdims=True), means - means.mean(axis=1, keepdims=True)
    signal = (weights @ np.square(about).T - np.square(weights @ about.T) / total) / (total - 1)
    noise = weights @ scores.var(axis=1, ddof=1).T / total
    icc = (K * signal - noise) / (K * signal + (K - 1) * noise)
    return np.asarray(rho + ICC_WEIGHT * icc)


def compare(
    scores: Mapping[str, Array],
    targets: Targets,
    origins: Origins,
    *,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[dict[str, Estimate], dict[str, Difference]]:
    """Objectives of scores [K, N], and later less earlier for each pair, in the same resamples of the origins.

    Differences are named ``later - earlier``; Holm runs over them. With ``shared_noise`` what other trials would have
    given is part of intervals and p (:mod:`mcdo.stats.trials`).
    """
    Scores.of(scores, shared_noise=shared_noise, least=3)  # which refuses too few images or trials
    stack, names = np.stack(list(scores.values())), list(scores)
    pairs = [(second, first) for first, second in itertools.combinations(range(len(names)), 2)]
    later, earlier = ([pair[i] for pair in pairs] for i in (0, 1))

    def with_differences(values: Array) -> Array:
        return np.concatenate([values, values[..., later] - values[..., earlier]], axis=-1)

    sample = Sample(stack.shape[-1], origins, seed, resamples)
    whole, draws = sample.both(lambda weights: with_differences(_resampled(stack, targets, weights)))
    found = [sample.inferred(value, draws[:, i]) for i, value in enumerate(whole)]
    if shared_noise:
        trials = range(stack.shape[1])
        without = np.stack([with_differences(objectives(np.delete(stack, k, axis=1), targets)) for k in trials])
        reach = [_LARGEST] * len(names) + [2 * _LARGEST] * len(pairs)
        found = [widened(one, without[:, i], (-reach[i], reach[i])) for i, one in enumerate(found)]
    held = {name: one.estimate for name, one in zip(names, found, strict=False)}
    return held, differences([f"{names[b]} - {names[a]}" for b, a in pairs], found[len(names) :])
