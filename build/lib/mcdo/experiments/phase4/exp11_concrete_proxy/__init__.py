"""Exp11: a drop probability of its own for each depth."""

from mcdo.experiments.phase4.exp11_concrete_proxy.experiment import SCORES, ConcreteProxy
from mcdo.experiments.phase4.exp11_concrete_proxy.result import ProxyResult
from mcdo.experiments.phase4.exp11_concrete_proxy.search import GRADIENT, RANDOM, UNIFORM

__all__ = ["GRADIENT", "RANDOM", "SCORES", "UNIFORM", "ConcreteProxy", "ProxyResult"]
