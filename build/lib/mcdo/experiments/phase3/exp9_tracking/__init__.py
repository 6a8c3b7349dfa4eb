"""Exp9: does an uncertainty help a tracker?"""

from mcdo.experiments.phase3.exp9_tracking.association import BASELINE, TrackingResult
from mcdo.experiments.phase3.exp9_tracking.experiment import OwnTracking, SyntheticTracking, Tracking
from mcdo.experiments.phase3.exp9_tracking.images import CONTROLS, MODES, ImageTracking

__all__ = [
    "BASELINE",
    "CONTROLS",
    "MODES",
    "ImageTracking",
    "OwnTracking",
    "SyntheticTracking",
    "Tracking",
    "TrackingResult",
]
