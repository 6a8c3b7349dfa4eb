"""Scores that are no perturbation: what dropout has to beat, one file for each kind, and scores of one's own.

A rival is a function of what one deterministic pass gives (:class:`Seen`), registered by :func:`rival`; larger means
more uncertain. Scores that need more (their own passes, a fit) follow the :class:`Scorer` protocol.
"""

from mcdo.rivals.scorer import SCORERS, Scorer, register_scorer, scorer_named
from mcdo.rivals.seen import Calibration, Seen
from mcdo.rivals.table import RIVALS, TRIVIAL, Rival, rival

__all__ = [
    "RIVALS",
    "SCORERS",
    "TRIVIAL",
    "Calibration",
    "Rival",
    "Scorer",
    "Seen",
    "register_scorer",
    "rival",
    "scorer_named",
]
