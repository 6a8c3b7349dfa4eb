"""Calibration errors of models whose true error is known: what bias is left, and what the subtasks' interval covers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from counts import Cell, Count
from populations import VARIANTS, Array

from mcdo.stats import Estimate, bootstrap
from mcdo.stats.calibration import expected_calibration_error
from mcdo.stats.debiased import debiased_ece

RESAMPLES = 100
IMAGES = 300


@dataclass(frozen=True)
class Model:
    """Confidence uniform in [.5, 1]; the chance of being right is ``too_high`` below it, so that is the true error.

    ``clustered``: variants of an origin share the confidence and that share of the latent variance of being right.
    """

    too_high: float = 0.0
    clustered: float = 0.0

    def samples(self, count: int, N: int, seed: int) -> Iterator[tuple[Array, Array, Array]]:
        """Confidence, being right and origins, [N] each."""
        rng = np.random.default_rng((seed, N))
        origins = np.arange(N) // VARIANTS if self.clustered else np.arange(N)
        for _ in range(count):
            confidence = rng.uniform(0.5, 1, N)[origins]
            latent = np.sqrt(self.clustered) * rng.normal(size=N)[origins]
            latent += np.sqrt(1 - self.clustered) * rng.normal(size=N)
            right = scipy.special.ndtr(latent) < confidence - self.too_high
            yield confidence, right.astype(np.float64), origins.astype(np.float64)


MODELS = {
    "calibrated": Model(),
    "overconfident by .05": Model(0.05),
    "overconfident by .10": Model(0.1),
    "calibrated, clustered": Model(clustered=0.5),
}


def biases(name: str, N: int, runs: int) -> tuple[float, float]:
    """Mean error of the plug-in and of the debiased ECE."""
    model = MODELS[name]
    found = [
        (expected_calibration_error(confidence, right), debiased_ece(confidence, right, origins=origins))
        for confidence, right, origins in model.samples(runs, N, seed=1)
    ]
    plug_in, debiased = np.mean(found, axis=0) - model.too_high
    return float(plug_in), float(debiased)


def interval(confidence: Array, right: Array, origins: Array, seed: int) -> Estimate:
    """As the study of subtasks prints it."""

    def error(stated: Array, hit: Array, of: Array) -> float:
        return debiased_ece(stated, hit, origins=of)

    arrays = (confidence, right, origins)
    return bootstrap(error, *arrays, origins=origins, seed=seed, resamples=RESAMPLES, recentred=True)


def counted(name: str, N: int, runs: int) -> Mapping[Cell, Count]:
    """How many intervals of ``runs`` data sets hold the true error."""
    model = MODELS[name]
    found = [interval(*sample, seed) for seed, sample in enumerate(model.samples(runs, N, seed=2))]
    hits = sum(one.low <= model.too_high <= one.high for one in found)
    return {Cell("ECE", name, 1, N): Count(hits, runs, runs)}
