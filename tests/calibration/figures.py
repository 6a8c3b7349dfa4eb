"""Every interval of ``mcdo.stats`` that a report prints, as a figure of a simulated data set whose truth is known.

A truth is the figure of an infinitely large sample: of the same scores, or, where the trials share noise and the
interval claims to hold it, of noise-free ones. It comes from a closed form, or from very large data sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from populations import Array, Population, Sample
from scipy import special

from mcdo.stats import (
    Estimate,
    auroc,
    auroc_differences,
    auroc_high,
    group_differences,
    mean,
    median,
    partial_spearman,
    rank_matrix,
    reliability,
    share,
    spearman,
    spearman_differences,
    trial_drift,
    wilcoxon_increase,
)
from mcdo.stats.attenuation import disattenuated_spearman, trial_spearman
from mcdo.stats.mean_differences import t_mean

OWN = ("normal", "log_normal", "heavy_images")
INDEPENDENT = ("normal", "log_normal", "heavy_images", "heavy_noise", "clustered")
EVERY = (*INDEPENDENT, "shared_noise")
HIGH = float(special.ndtri(0.8))
"""Of a latent trait: one image in five lies above it."""
RISE = 0.5
"""Of what is compared before and after."""


@dataclass(frozen=True)
class Draw:
    """A data set, a second score with trials of its own, and how its intervals are to be made."""

    sample: Sample
    rivals: Array
    shared: bool
    origins: Mapping[str, Any]
    resampling: Mapping[str, Any]

    @property
    def how(self) -> dict[str, Any]:
        return {**self.origins, **self.resampling}

    @property
    def noise(self) -> dict[str, Any]:
        """What an interval must be told of its scores' noise."""
        return {**self.origins, "shared_noise": self.shared}

    @property
    def high(self) -> Array:
        return np.asarray(self.sample.target > HIGH)


Found = Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class Group:
    """Intervals that one data set gives together.

    Attributes:
        label: of the table.
        found: them, by name.
        populations: where they are simulated.
        trials: the K; where trials only change the size of the noise one is enough.
        truth: closed form by name, of (population, K); very large data sets otherwise.
        complete: whether all have a closed form.
        noise_free: whether shared noise is held by the interval, so that the truth is without it.

    """

    label: str
    found: Callable[[Draw], Found]
    populations: tuple[str, ...]
    trials: tuple[int, ...] = (5,)
    truth: Mapping[str, Callable[[Population, int], float]] = field(default_factory=dict)
    complete: bool = False
    noise_free: bool = False


def _associations(draw: Draw) -> Found:
    of, how = draw.sample, {**draw.how, **draw.noise}
    scores = {"score": of.scores, "rival": of.rival}
    areas = auroc_differences(scores, "rival", draw.high, **draw.noise)
    return {
        "Spearman": spearman(of.scores, of.target, **how),
        "partial Spearman": partial_spearman(of.scores, of.target, of.norm, **how),
        "difference of Spearman": spearman_differences(scores, "rival", of.target, **how)["score"].estimate,
        "AUROC, 1 in 5 positive": auroc(of.scores, draw.high, **draw.noise),
        "AUROC, 1 in 10 positive": auroc_high(of.scores, of.target, **draw.noise),
        "difference of AUROC": areas["score"].estimate,
    }


def _reliability(draw: Draw) -> Found:
    found = reliability(draw.sample.scores, **draw.how)
    named = {"median ρ": "spearman", "SNR": "snr", "corrected SNR": "snr_corrected", "ICC": "icc"}
    return {name: found.estimate(key) for name, key in named.items()}


def _among_scores(draw: Draw) -> Found:
    matrix = rank_matrix({"score": draw.sample.scores, "rival": draw.rivals}, **draw.how)
    return {
        "rank matrix, raw": matrix.pair("raw", "score", "rival"),
        "rank matrix, disattenuated": matrix.pair("disattenuated", "score", "rival"),
        "mean ρ of trials": matrix.reliability["score"],
        "difference of mean ρ": matrix.reliability_difference["score", "rival"].estimate,
        "trial by trial ρ": trial_spearman(draw.sample.scores, draw.rivals, **draw.how),
    }


def _disattenuated(draw: Draw) -> Found:
    return {"disattenuated ρ": disattenuated_spearman(draw.sample.scores, draw.sample.target, **draw.how)}


def _means(draw: Draw) -> Found:
    of = draw.sample
    half = len(of.own) // 2
    groups = {"first": of.own[:half], "second": of.own[half:]}
    origins = {"first": of.origins[:half], "second": of.origins[half:]} if draw.origins["origins"] is not None else None
    apart = group_differences(groups, origins=origins, permutations=9, **draw.resampling)["first", "second"]
    return {
        "mean": mean(of.own, **draw.how),
        "mean, Student": t_mean(of.own, **draw.origins),
        "median": median(of.own, **draw.how),
        "difference of groups": apart.difference,
        "exceedance of groups": apart.exceedance,
    }


def _pairs(draw: Draw) -> Found:
    of = draw.sample
    after, before = np.exp((of.target + RISE) / 2), np.exp(of.norm / 2)
    increase = wilcoxon_increase(after, before, **draw.how)
    drift = trial_drift(before * np.exp(0.2 * draw.sample.scores), **draw.how)
    return {
        "share, 1 in 5": share(draw.high, **draw.origins),
        "share, 1 in 20": share(of.target > special.ndtri(0.95), **draw.origins),
        "Wilcoxon fraction": increase.fraction,
        "relative change": increase.relative_change,
        "drift over trials": drift,
    }


def _no_difference(population: Population, K: int) -> float:
    return 0.0


GROUPS = (
    Group("associations", _associations, INDEPENDENT),
    Group("associations, noise shared by trials", _associations, ("shared_noise",), (3, 5, 10), noise_free=True),
    Group(
        "reliability", _reliability, EVERY, (3, 5, 10),
        {
            "median ρ": lambda population, K: population.spearman(K),
            "SNR": lambda population, K: population.snr(K),
            "corrected SNR": lambda population, K: population.snr(K) - 1 / K,
            "ICC": lambda population, K: population.icc,
        },
        complete=True,
    ),
    Group(
        "several scores", _among_scores, INDEPENDENT, (3, 5),
        {"rank matrix, disattenuated": lambda population, K: population.latent_spearman("own", "rival")},
    ),
    Group(
        "one score without its noise", _disattenuated, EVERY, (3, 5, 10),
        {"disattenuated ρ": lambda population, K: population.latent_spearman("own", "target")},
        complete=True,
    ),
    Group("means", _means, (*OWN, "clustered"), truth={
        "difference of groups": _no_difference, "exceedance of groups": lambda population, K: 0.5,
        "mean": lambda population, K: math.exp(population.skew**2 / 2) if population.images == "log_normal" else 0.0,
        "mean, Student": lambda population, K: (
            math.exp(population.skew**2 / 2) if population.images == "log_normal" else 0.0
        ),
        "median": lambda population, K: 1.0 if population.images == "log_normal" else 0.0,
    }, complete=True),
    Group("shares and changes", _pairs, ("normal", "clustered"), truth={
        "share, 1 in 5": lambda population, K: 0.2,
        "share, 1 in 20": lambda population, K: 0.05,
        "Wilcoxon fraction": lambda population, K: float(special.ndtr(RISE / math.sqrt(2 * (1 - 0.3)))),
        "relative change": lambda population, K: math.exp(RISE / 2) - 1,
        "drift over trials": _no_difference,
    }, complete=True),
)  # fmt: skip


def drawn(population: Population, sample: Sample, seed: int, resamples: int, *, as_images: bool = False) -> Draw:
    """``as_images`` treats variants of an origin as independent, as no interval should."""
    noise = math.sqrt((1 - population.icc) / population.icc)
    rng = np.random.default_rng((seed, len(sample.own)))
    rivals = sample.rival + noise * rng.normal(size=sample.scores.shape)
    return Draw(
        sample, rivals, bool(population.shared),
        {"origins": None if as_images else sample.origins}, {"seed": seed % 4, "resamples": resamples},
    )  # fmt: skip


@lru_cache
def names(group: Group) -> tuple[str, ...]:
    """Of the intervals of a group."""
    normal = Population()
    return tuple(group.found(drawn(normal, normal.sample(5, 100, 0), 0, 1)))


def truth(group: Group, population: Population, K: int) -> Mapping[str, float]:
    """By name, for infinitely many images."""
    known = {name: of(population, K) for name, of in group.truth.items()}
    if group.complete:
        return known
    like = replace(population, clustered=0.0)  # variants of an origin have the margins of single images
    if group.noise_free:
        like = replace(like, shared=0.0, icc=1.0)
    return {**_measured(group, like, K), **known}


@lru_cache
def _measured(group: Group, population: Population, K: int) -> Mapping[str, float]:
    large = [
        group.found(drawn(population, population.sample(K, 50_000, seed), seed, 1, as_images=True)) for seed in range(3)
    ]
    return {name: float(np.mean([one[name].value for one in large])) for name in large[0]}
