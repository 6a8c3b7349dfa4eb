"""Estimators: from an encoder under perturbation to per-image scores."""

from mcdo.estimators.blocks import prepared
from mcdo.estimators.census import census
from mcdo.estimators.first_order import first_order
from mcdo.estimators.first_order_run import FirstOrderConfig, FirstOrderRun, LevelWarning, OutsideDomainWarning
from mcdo.estimators.forward_differences import ForwardDifferencesRun, forward_differences
from mcdo.estimators.laplace import Laplace, ZeroShot
from mcdo.estimators.monte_carlo import monte_carlo
from mcdo.estimators.multi_fidelity import MultiFidelityRun, PairedRun, multi_fidelity
from mcdo.estimators.provenance import provenance
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun
from mcdo.estimators.score_table import SCORES, TRACES, Score, names_from, register_score
from mcdo.estimators.scores import DimensionWeights, off_diagonal_floor

__all__ = [
    "SCORES",
    "TRACES",
    "DimensionWeights",
    "FirstOrderConfig",
    "FirstOrderRun",
    "ForwardDifferencesRun",
    "Laplace",
    "LevelWarning",
    "MonteCarloConfig",
    "MonteCarloRun",
    "MultiFidelityRun",
    "OutsideDomainWarning",
    "PairedRun",
    "Score",
    "ZeroShot",
    "census",
    "first_order",
    "forward_differences",
    "monte_carlo",
    "multi_fidelity",
    "names_from",
    "off_diagonal_floor",
    "prepared",
    "provenance",
    "register_score",
]
