"""Estimators: from an encoder under perturbation to per-image scores."""

from mcdo.estimators.monte_carlo import census, monte_carlo, provenance
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun
from mcdo.estimators.scores import (
    GEOMETRY_SCORES,
    MOMENT_SCORES,
    WEIGHTED_SCORES,
    DimensionWeights,
    off_diagonal_floor,
)

__all__ = [
    "GEOMETRY_SCORES",
    "MOMENT_SCORES",
    "WEIGHTED_SCORES",
    "DimensionWeights",
    "MonteCarloConfig",
    "MonteCarloRun",
    "census",
    "monte_carlo",
    "off_diagonal_floor",
    "provenance",
]
