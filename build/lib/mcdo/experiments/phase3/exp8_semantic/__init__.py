"""Exp8: does the variance over passes lie where meaning lies?"""

from mcdo.experiments.phase3.exp8_semantic.experiment import SemanticResult, SemanticSpace

__all__ = ["SemanticResult", "SemanticSpace"]
