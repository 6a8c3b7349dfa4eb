"""mcdo: can the uncertainty of a frozen vision-language encoder be trusted?

The public names; everything else may change.
"""

from mcdo.encoders import Encoder, load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import DimensionWeights, MonteCarloRun, census, monte_carlo
from mcdo.images import ImageSet, load_images
from mcdo.perturbation import Dropout, matched_roles
from mcdo.stats import Reliability, expected_calibration_error, reliability
from mcdo.store import Store

__version__ = "0.1.0"

__all__ = [
    "DimensionWeights",
    "Dropout",
    "Encoder",
    "ImageSet",
    "McdoError",
    "MonteCarloRun",
    "Reliability",
    "Store",
    "census",
    "expected_calibration_error",
    "load_encoder",
    "load_images",
    "matched_roles",
    "monte_carlo",
    "reliability",
]
