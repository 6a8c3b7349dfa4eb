"""Exp10: dropout in the text tower."""

from mcdo.experiments.phase4.exp10_text_tower.experiment import FIRST_ORDER, JUDGED, ROLES, TextTowerDropout
from mcdo.experiments.phase4.exp10_text_tower.result import TextResult

__all__ = ["FIRST_ORDER", "JUDGED", "ROLES", "TextResult", "TextTowerDropout"]
