"""Estimators: from an encoder under perturbation to per-image scores."""

from mcdo.estimators.blocks import prepared
from mcdo.estimators.first_order import first_order
from mcdo.estimators.first_order_run import (
    FIRST_ORDER_SCORES,
    FirstOrderConfig,
    FirstOrderRun,
    OutsideDomainWarning,
)
from mcdo.estimators.laplace import Laplace, ZeroShot
from mcdo.estimators.monte_carlo import census, monte_carlo
from mcdo.estimators.provenance import provenance
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun
from mcdo.estimators.scores import (
    GEOMETRY_SCORES,
    MOMENT_SCORES,
    WEIGHTED_SCORES,
    DimensionWeights,
    off_diagonal_floor,
)

__all__ = [
    "FIRST_ORDER_SCORES",
    "GEOMETRY_SCORES",
    "MOMENT_SCORES",
    "WEIGHTED_SCORES",
    "DimensionWeights",
    "FirstOrderConfig",
    "FirstOrderRun",
    "Laplace",
    "MonteCarloConfig",
    "MonteCarloRun",
    "OutsideDomainWarning",
    "ZeroShot",
    "census",
    "first_order",
    "monte_carlo",
    "off_diagonal_floor",
    "prepared",
    "provenance",
]
