"""Subtasks and calibration (S2): do subtasks help a classifier on embeddings, and is its confidence to be trusted?"""

from mcdo.studies.subtasks.config import ARMS, Arm, Source
from mcdo.studies.subtasks.evaluate import Evaluation, evaluate
from mcdo.studies.subtasks.published import published_difference
from mcdo.studies.subtasks.runs import Run, Runs
from mcdo.studies.subtasks.splits import CalibrationSplit, Predictions, Splits, TestSplit, TrainSplit, ValidationSplit
from mcdo.studies.subtasks.study import SubtaskStudy
from mcdo.studies.subtasks.task import load_task
from mcdo.studies.subtasks.temperature import Temperature, fit_temperature

__all__ = [
    "ARMS",
    "Arm",
    "CalibrationSplit",
    "Evaluation",
    "Predictions",
    "Run",
    "Runs",
    "Source",
    "Splits",
    "SubtaskStudy",
    "Temperature",
    "TestSplit",
    "TrainSplit",
    "ValidationSplit",
    "evaluate",
    "fit_temperature",
    "load_task",
    "published_difference",
]
