"""An interval of ``mcdo.stats`` that a report prints is a figure of a simulated data set whose truth is known.

A truth is the figure of an infinitely large sample: of the same scores, or, where the trials share noise and the
interval claims to hold it, of noise-free ones. It comes from a closed form, or from very large data sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from populations import Array, Population, Sample

from mcdo.stats import Estimate

OWN = ("normal", "log_normal", "heavy_images")
INDEPENDENT = ("normal", "log_normal", "heavy_images", "heavy_noise", "clustered")
EVERY = (*INDEPENDENT, "shared_noise")
HIGH = NormalDist().inv_cdf(0.8)
"""Of a latent trait: one image in five lies above it."""
RISE = 0.5
"""Of what is compared before and after."""


@dataclass(frozen=True)
class Draw:
    """A data set, a second score with trials of its own, and how its intervals are to be made."""

    sample: Sample
    rivals: Array
    number: int
    population: Population
    origins: Mapping[str, Any]
    resampling: Mapping[str, Any]

    @property
    def shared(self) -> bool:
        return bool(self.population.shared)

    @property
    def how(self) -> dict[str, Any]:
        return {**self.origins, **self.resampling}

    @property
    def noise(self) -> dict[str, Any]:
        """What an interval must be told of its scores' noise."""
        return {**self.origins, "shared_noise": self.shared}

    @property
    def rng(self) -> np.random.Generator:
        """For what else a figure draws."""
        return np.random.default_rng((self.number, len(self.sample.own)))

    @property
    def idle(self) -> Array:
        """A trait that goes with nothing, [N]."""
        between, within = self.rng.normal(size=(2, len(self.sample.own)))
        part = self.population.clustered
        return np.asarray(math.sqrt(part) * between[self.sample.origins] + math.sqrt(1 - part) * within)

    @property
    def independent(self) -> Array:
        """Noise of trials whose images share none, [K, N]."""
        noise = math.sqrt((1 - self.population.icc) / self.population.icc)
        return np.asarray(noise * self.rng.normal(size=self.sample.scores.shape))

    @property
    def high(self) -> Array:
        return np.asarray(self.sample.target > HIGH)


Found = Mapping[str, Estimate]
Truth = Mapping[str, Callable[[Population, int], float]]


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
    truth: Truth = field(default_factory=dict)
    complete: bool = False
    noise_free: bool = False


def drawn(
    population: Population, sample: Sample, number: int, resamples: int, *, seed: int = 0, as_images: bool = False
) -> Draw:
    """Data set ``number``; ``as_images`` treats variants of an origin as independent, as no interval should.

    Few values of ``seed`` save time: resamples of the same origins are kept.
    """
    noise = math.sqrt((1 - population.icc) / population.icc)
    rng = np.random.default_rng((number, len(sample.own), 1))
    like = replace(population, noise="normal")
    rivals = sample.rival + noise * like.errors(rng, (1, *sample.scores.shape))[0]
    return Draw(
        sample, rivals, number, population,
        {"origins": None if as_images else sample.origins}, {"seed": seed, "resamples": resamples},
    )  # fmt: skip


@lru_cache
def names(group: Group) -> tuple[str, ...]:
    """Of the intervals of a group."""
    normal = Population()
    return tuple(group.found(drawn(normal, normal.sample(5, 100, 0), 0, 2)))


LARGE = 50_000
"""Images of a sample that is taken for an infinite one."""


def truth(group: Group, population: Population, K: int, large: int = 3 * LARGE) -> Mapping[str, float]:
    """By name, for infinitely many images: where no closed form is known, of ``large`` of them."""
    known = {name: of(population, K) for name, of in group.truth.items()}
    if group.complete:
        return known
    like = replace(population, clustered=0.0)  # variants of an origin have the margins of single images
    if group.noise_free:
        like = replace(like, shared=0.0, icc=1.0)
    return {**_measured(group, like, K, large), **known}


@lru_cache
def _measured(group: Group, population: Population, K: int, large: int) -> Mapping[str, float]:
    found = [
        group.found(drawn(population, population.sample(K, min(large, LARGE), seed), seed, 2, as_images=True))
        for seed in range(max(1, large // LARGE))
    ]
    return {name: float(np.mean([one[name].value for one in found])) for name in found[0]}
