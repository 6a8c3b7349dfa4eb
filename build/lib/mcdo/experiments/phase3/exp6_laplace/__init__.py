"""Exp6: MC dropout beside Laplace."""

from mcdo.experiments.phase3.exp6_laplace.experiment import LaplaceComparison, LaplaceResult

__all__ = ["LaplaceComparison", "LaplaceResult"]
