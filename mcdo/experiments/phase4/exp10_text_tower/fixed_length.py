"""Scores of prompts with their length held fixed, and with every frame counted once.

Values are [N], or [K, N] where the prompts of a trial share its noise (probes of first order); what other trials would
have given is then part of the intervals (:mod:`mcdo.stats.trials`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.experiments.phase4.exp10_text_tower.prompt_bank import GENERIC_STYLE, Prompt
from mcdo.stats import (
    Estimate,
    GroupDifference,
    Inferred,
    Origins,
    auroc,
    corrected,
    group_differences,
    ratio_of_means,
    t_mean,
)
from mcdo.stats.ranks import mid_ranks
from mcdo.stats.trials import widened

Array = NDArray[np.float64]


def same_length_ranks(values: ArrayLike, tokens: ArrayLike) -> Array:
    """Mid-rank of each value among those with as many tokens, from 0 to 1 without its ends; .5 where alone.

    ``values`` and the ranks are [N] or [K, N], trial by trial; ``tokens`` [N].
    """
    held, lengths = np.asarray(values, dtype=np.float64), np.asarray(tokens)
    ranks = np.empty(held.shape)
    for length in np.unique(lengths):
        members = lengths == length
        ranks[..., members] = (mid_ranks(held[..., members]) - 0.5) / members.sum()
    return ranks


def crossed(tokens: ArrayLike, specific: ArrayLike) -> NDArray[np.bool_]:
    """Prompts ``[N]`` whose length more than one specificity has: only they say anything at a fixed length."""
    lengths, values = np.asarray(tokens), np.asarray(specific)
    varied = [length for length in np.unique(lengths) if np.ptp(values[lengths == length]) > 1e-12]
    return np.isin(lengths, varied)


def frame_means(values: ArrayLike, prompts: Sequence[Prompt]) -> dict[str, Array]:
    """By style the mean of each frame, [K, frames]: frames count once, however many classes they were filled with."""
    held = np.atleast_2d(np.asarray(values, dtype=np.float64))
    styles: dict[str, set[str]] = {}
    for prompt in prompts:
        styles.setdefault(prompt.style, set()).add(prompt.frame)

    def mean(style: str, frame: str) -> Array:
        of = np.array([(prompt.style, prompt.frame) == (style, frame) for prompt in prompts])
        return np.asarray(held[:, of].mean(axis=1))

    return {
        style: np.stack([mean(style, frame) for frame in sorted(frames)], axis=1)
        for style, frames in sorted(styles.items())
    }


def style_means(ranks: ArrayLike, prompts: Sequence[Prompt]) -> dict[str, Estimate]:
    """By style the mean over its frames, with Student's interval over them; none for a single frame."""
    found = {}
    for style, means in frame_means(ranks, prompts).items():
        by_frame = means.mean(axis=0)
        alone = Estimate(float(by_frame[0]), math.nan, math.nan, 1)
        found[style] = alone if len(by_frame) < 2 else _over_trials(t_mean(by_frame), means.mean(axis=1), (0, 1))
    return found


def generic_differences(
    ranks: Mapping[str, ArrayLike], prompts: Sequence[Prompt], seed: int
) -> dict[str, GroupDifference]:
    """By score, generic frames against all others, with Holm over the scores; nothing for fewer than two of either.

    The exceedance is an area under the ROC curve over frames, with its interval, so none for fewer than
    :data:`~mcdo.stats.detection.LEAST_CLASS` of either: a bootstrap of so few would say [1, 1] where they lie apart.
    """
    found = {name: _generic(values, prompts, seed) for name, values in ranks.items()}
    differences = {name: difference for name, difference in found.items() if difference is not None}
    return corrected(differences)


def _generic(ranks: ArrayLike, prompts: Sequence[Prompt], seed: int) -> GroupDifference | None:
    means = frame_means(ranks, prompts)
    generic = means.pop(GENERIC_STYLE, np.empty((1, 0)))
    named = np.concatenate(list(means.values()), axis=1) if means else np.empty((1, 0))
    if min(generic.shape[1], named.shape[1]) < 2:
        return None
    shared = len(named) > 1
    groups = {"named": named, GENERIC_STYLE: generic}
    (difference,) = group_differences(groups, shared_noise=shared, seed=seed).values()
    frames, labels = (
        np.concatenate([named, generic], axis=1),
        np.repeat([False, True], [named.shape[1], generic.shape[1]]),
    )
    return replace(difference, exceedance=auroc(frames, labels, shared_noise=shared))


def level_ratio(measured: Array, predicted: Array, origins: Origins, seed: int) -> Estimate:
    """Mean of ``measured`` over that of ``predicted``, [K, N] both; ``predicted`` shares noise where it has trials."""
    return ratio_of_means(measured.mean(axis=0), predicted, origins=origins, shared_noise=len(predicted) > 1, seed=seed)


def _over_trials(estimate: Estimate, by_trial: Array, bounds: tuple[float, float]) -> Estimate:
    """The mean of what each trial gives [K], widened by their spread."""
    K = len(by_trial)
    if K < 2:
        return estimate
    without = (by_trial.sum() - by_trial) / (K - 1)
    return widened(Inferred(estimate, math.nan), without, bounds).estimate
