"""Populations with known truth, to simulate what an interval covers and how often a verdict is wrong.

Scores are ``[K, N]``, x_ki = own_i + noise_ki, with own_i a monotone transform of a latent normal trait. Target, rival
and norm have latent traits of their own, and the four are jointly normal, so every rank correlation between
noise-free quantities is (6/π) asin(r/2) of the latent correlation r (Pearson 1907), whatever the margins. ``icc`` sets
the noise: λ/(λ + noise) with λ = Var(own), noise = E Var_k. What has no closed form is measured once on a very
large sample (:meth:`Population.large_sample`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tail = Literal["normal", "log_normal", "t3"]
TRAITS = ("own", "rival", "target", "norm")
LATENT = np.array([[1.0, 0.6, 0.5, 0.5], [0.6, 1.0, 0.3, 0.3], [0.5, 0.3, 1.0, 0.3], [0.5, 0.3, 0.3, 1.0]])
"""Correlations of the latent traits, in the order of :data:`TRAITS`."""
VARIANTS = 5
"""Images of one origin in a clustered population."""


@dataclass(frozen=True)
class Sample:
    """One data set: ``scores`` [K, N] and, per image, ``own``, ``rival``, ``target``, ``norm`` and ``origins``, [N]."""

    scores: Array
    own: Array
    rival: Array
    target: Array
    norm: Array
    origins: NDArray[np.intp]


@dataclass(frozen=True)
class Population:
    """Where data sets are drawn from; ``POPULATIONS`` holds those of the calibration suite.

    Attributes:
        icc: λ/(λ + noise) of one trial.
        images: distribution of own over images, scaled to λ = 1 unless log-normal: "normal"; "log_normal",
            exp(skew · normal), with noise that grows with the score (own · χ²/df); "t3", where a few images carry
            the variance.
        noise: "normal" or "t3", of one cell (trial, image). Log-normal images have χ² noise.
        shared: part of the noise variance that images of one trial share, as z_k · v_i with z and v standard normal.
        level: mean of v over images, in units of its standard deviation: the trial moves the level of all.
        clustered: five variants of each origin; share of the variance of every trait that lies between origins.
        skew: of log-normal images.

    """

    icc: float = 0.75
    images: Tail = "normal"
    noise: Literal["normal", "t3"] = "normal"
    shared: float = 0.0
    level: float = 0.0
    clustered: float = 0.0
    skew: float = 0.5

    def with_icc(self, icc: float) -> Population:
        """The same with other noise."""
        return replace(self, icc=icc)

    def sample(self, K: int, N: int, seed: int) -> Sample:
        """One data set."""
        return next(self.samples(1, K, N, seed))

    def samples(self, count: int, K: int, N: int, seed: int) -> Iterator[Sample]:
        """``count`` data sets, drawn as [count, K, N] at once."""
        origins = np.arange(N) // VARIANTS if self.clustered else np.arange(N)
        yield from self.of_origins(np.random.default_rng((seed, K, N)), count, K, origins)

    def of_origins(self, rng: np.random.Generator, count: int, K: int, origins: NDArray[np.intp]) -> Iterator[Sample]:
        """``count`` data sets of images of these ``origins`` [N], numbered in ascending order."""
        traits = self._traits(rng, count, origins)
        own = self._margin(traits[..., 0])
        scores = self._scores(rng, own, K)
        for b in range(count):
            _, rival, target, norm = traits[b].T
            yield Sample(scores[b], own[b], rival, target, norm, origins)

    @property
    def between(self) -> float:
        """λ, the variance of own over images."""
        return math.exp(self.skew**2) * (math.exp(self.skew**2) - 1) if self.images == "log_normal" else 1.0

    def snr(self, K: int) -> float:
        """E(signal)/E(noise) = λ/noise + 1/K: variance of the mean over K trials, over the variance within images."""
        assert not self.level, "a common level is noise within images, and none of the variance of their means"
        return self.icc / (1 - self.icc) + 1 / K

    def spearman(self, K: int) -> float:
        """Expected median over pairs of K trials of the rank correlation, on infinitely many images."""
        if self.images != "normal" or self.noise != "normal":
            assert not self.shared, "no truth for shared noise on other margins"
            return _large_sample_spearman(replace(self, clustered=0.0))
        return float(np.median(self._pairs(K), axis=1).mean())

    def mean_spearman(self) -> float:
        """Expected rank correlation of two trials, on infinitely many normal images."""
        return float(self._pairs(2).mean())

    def across_spearman(self, a: str, b: str) -> float:
        """Expected rank correlation of a trial of one of :data:`TRAITS` with one of another, each with noise."""
        spread = self._spreads(2)
        r = LATENT[TRAITS.index(a), TRAITS.index(b)] / (spread[:, 0] * spread[:, 1])
        return float((6 / np.pi * np.arcsin(r / 2)).mean())

    def _pairs(self, K: int) -> Array:
        """Rank correlations of all pairs of K trials, for many draws of what their images share."""
        return _pairs(self.icc, self.shared, self.level, K)

    def _spreads(self, K: int) -> Array:
        return np.sqrt(
            1 + (1 - self.icc) / self.icc * (1 - self.shared) + _common(self.icc, self.shared, self.level, K) ** 2
        )

    def latent_spearman(self, a: str, b: str) -> float:
        """Rank correlation of two of :data:`TRAITS`, noise-free."""
        return normal_spearman(float(LATENT[TRAITS.index(a), TRAITS.index(b)]))

    def large_sample(self, figure: Callable[[Sample], float], K: int, N: int = 100_000, draws: int = 10) -> float:
        """Mean of ``figure`` over ``draws`` very large data sets: the truth of what has no closed form."""
        return float(np.mean([figure(sample) for i in range(draws) for sample in self.samples(1, K, N, i)]))

    def _traits(self, rng: np.random.Generator, count: int, origins: NDArray[np.intp]) -> Array:
        root = np.linalg.cholesky(LATENT)
        own = rng.normal(size=(count, len(origins), len(TRAITS)))
        if self.clustered:
            between = rng.normal(size=(count, int(origins[-1]) + 1, len(TRAITS)))[:, origins]
            own = math.sqrt(self.clustered) * between + math.sqrt(1 - self.clustered) * own
        return np.asarray(own @ root.T)

    def _margin(self, trait: Array) -> Array:
        if self.images == "log_normal":
            return np.exp(self.skew * trait)
        return (
            np.asarray(scipy.stats.t.ppf(scipy.special.ndtr(trait), 3) / math.sqrt(3)) if self.images == "t3" else trait
        )

    def _scores(self, rng: np.random.Generator, own: Array, K: int) -> Array:
        shape = (len(own), K, own.shape[-1])
        variance = self.between * (1 - self.icc) / self.icc
        if self.images == "log_normal":
            freedom = 2 * math.exp(2 * self.skew**2) / variance  # Var(own · χ²/df) within images = 2 E(own²)/df
            return np.asarray(own[:, None] * rng.chisquare(freedom, shape) / freedom)
        return np.asarray(own[:, None] + math.sqrt(variance) * self.errors(rng, shape))

    def errors(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
        """Noise of variance one, [count, K, N]; that of log-normal images is another."""
        count, K, N = shape
        cell = rng.normal(size=shape) if self.noise == "normal" else rng.standard_t(3, size=shape) / math.sqrt(3)
        weight = (self.level + rng.normal(size=(count, 1, N))) / math.sqrt(1 + self.level**2)
        common = rng.normal(size=(count, K, 1)) * weight
        return np.asarray(math.sqrt(1 - self.shared) * cell + math.sqrt(self.shared) * common)


POPULATIONS = {
    "normal": Population(),
    "log_normal": Population(images="log_normal"),
    "heavy_images": Population(images="t3"),
    "heavy_noise": Population(noise="t3"),
    "clustered": Population(clustered=0.8),
    "shared_noise": Population(shared=0.5),
    "shared_level": Population(shared=0.5, level=1.0),
}


def normal_spearman(r: float) -> float:
    """Spearman's ρ of two normals with correlation r: (6/π) asin(r/2) (Pearson 1907)."""
    return 6 / math.pi * math.asin(r / 2)


def _common(icc: float, shared: float, level: float, K: int) -> Array:
    """Standard deviation over images of what K trials share, [draws, K]: the level is none of it."""
    scale = math.sqrt((1 - icc) / icc * shared / (1 + level**2))
    return np.asarray(np.random.default_rng(0).normal(size=(100_000, K)) * scale)


@lru_cache
def _pairs(icc: float, shared: float, level: float, K: int) -> Array:
    """Given the trials' z, scores of two trials are jointly normal: their ρ, [draws, pairs]."""
    z = _common(icc, shared, level, K)
    spread = np.sqrt(1 + (1 - icc) / icc * (1 - shared) + z**2)
    first, second = np.triu_indices(K, 1)
    r = (1 + z[:, first] * z[:, second]) / (spread[:, first] * spread[:, second])
    return np.asarray(6 / np.pi * np.arcsin(r / 2))


@lru_cache
def _large_sample_spearman(population: Population) -> float:
    return population.large_sample(lambda sample: float(scipy.stats.spearmanr(*sample.scores).statistic), K=2, draws=10)
