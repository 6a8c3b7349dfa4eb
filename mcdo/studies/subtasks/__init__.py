"""Subtasks and calibration (S2): do subtasks help a classifier on embeddings, and is its confidence to be trusted?"""

from mcdo.studies.subtasks.study import SubtaskStudy

__all__ = ["SubtaskStudy"]
