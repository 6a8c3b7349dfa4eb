"""Scores made of passes, with known truth at every T, to simulate what a prediction from few passes is worth.

A score from T passes is the mean of T energies, independent given the image (the squared deviation of one pass): the
noise falls as 1/T exactly, and everything else is free: how images differ, how heavy-tailed one pass is, whether rare
passes are disturbed. Runs are nested: T passes are the first T of the same run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRID = (4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Passes:
    """Where runs are drawn from; :data:`PASSES` holds those of the calibration suite.

    Attributes:
        spread: σ of the log-normal energy of images.
        dimension: effective number of feature dimensions: one pass' energy is own · χ²(dimension)/dimension.
        uneven: σ of the log-normal factor on the dimension of each image: images differ in their noise.
        strange: share of images whose energy is ``factor`` times as large.
        factor: of strange images.
        disturbed: chance of one pass to be disturbed, ``strength`` times the usual energy in the median image.
        strength: of disturbances; log-normal over images with σ = .6, independent of the calm energy.
        freedom: of the t-distributed features of one pass (they share its scale); 0: normal.

    """

    spread: float = 0.25
    dimension: float = 2.0
    uneven: float = 0.0
    strange: float = 0.0
    factor: float = 1.0
    disturbed: float = 0.0
    strength: float = 0.0
    freedom: float = 0.0

    def run(self, K: int, N: int, seed: int) -> dict[int, Array]:
        """One data set: scores [K, N] by T in :data:`GRID`."""
        rng = np.random.default_rng((seed, K, N))
        own = np.exp(self.spread * rng.normal(size=N)) * np.where(rng.random(N) < self.strange, self.factor, 1)
        dimension = self.dimension * np.exp(self.uneven * rng.normal(size=N))
        blow = self.strength * np.exp(0.6 * rng.normal(size=N))
        total, before, scores = np.zeros((K, N)), 0, {}
        for passes in GRID:
            total = total + own * self._energy(rng, dimension, passes - before, (K, N))
            if self.disturbed:
                hits = rng.binomial(passes - before, self.disturbed, (K, N))
                total += blow * rng.gamma(np.maximum(hits, 1e-9))
            scores[passes], before = total / passes, passes
        return scores

    def truth(self, passes: int) -> tuple[float, float]:
        """ρ between two trials, and ICC, on very many images."""
        return _truth(self, passes)

    def _energy(self, rng: np.random.Generator, dimension: Array, passes: int, shape: tuple[int, int]) -> Array:
        """Sum over ``passes`` of energies with mean 1."""
        if not self.freedom:
            return np.asarray(rng.gamma(dimension * passes / 2, 2 / dimension, shape))
        energy = np.zeros(shape)
        for _ in range(passes):
            energy += rng.gamma(dimension / 2, 2 / dimension, shape) / rng.chisquare(self.freedom, shape)
        return energy * (self.freedom - 2)


PASSES = {
    "even": Passes(spread=0.1, dimension=20),
    "mild": Passes(),
    "few_dimensions": Passes(dimension=0.5),
    "skewed": Passes(spread=0.5, dimension=1, uneven=0.5),
    "very_skewed": Passes(spread=1.0, dimension=0.5),
    "strange_images": Passes(strange=0.01, factor=30, dimension=1),
    "odd_images": Passes(strange=0.05, factor=5, dimension=1),
    "rarely_disturbed": Passes(disturbed=0.01, strength=60, dimension=6),
    "often_disturbed": Passes(disturbed=0.05, strength=20, dimension=6),
    "mostly_noise": Passes(spread=0.1, dimension=2, disturbed=0.1, strength=10),
    "heavy_passes": Passes(spread=0.3, dimension=4, freedom=6),
    "very_heavy_passes": Passes(spread=0.5, dimension=8, freedom=4.5),
}
"""In "very_heavy_passes" an energy has no third moment: the variance of the noise is that of a few passes."""


@lru_cache
def _truth(population: Passes, passes: int) -> tuple[float, float]:
    return _figures([run[passes] for run in _large(population)])


@lru_cache(1)
def _large(population: Passes) -> list[dict[int, Array]]:
    return [population.run(2, 50_000, seed) for seed in range(4)]


def _figures(samples: list[Array]) -> tuple[float, float]:
    rho = np.mean([scipy.stats.spearmanr(*scores).statistic for scores in samples])
    covariance = np.mean([np.cov(scores) for scores in samples], axis=0)
    return float(rho), float(covariance[0, 1] / np.diag(covariance).mean())
