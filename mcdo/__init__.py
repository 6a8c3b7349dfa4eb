"""mcdo: can the uncertainty of a frozen vision-language encoder be trusted?

The public names; everything else may change.
"""

from mcdo.encoders import Encoder, load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import DimensionWeights, FirstOrderRun, MonteCarloRun, census, first_order, monte_carlo
from mcdo.images import ImageSet, load_images
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    StochasticDepth,
    TiedDropout,
    matched_roles,
)
from mcdo.stats import Reliability, expected_calibration_error, reliability
from mcdo.store import Store

__version__ = "0.1.0"

__all__ = [
    "AttentionDropout",
    "DimensionWeights",
    "Dropout",
    "Encoder",
    "FirstOrderRun",
    "Gaussian",
    "HiddenDropout",
    "ImageSet",
    "McdoError",
    "MonteCarloRun",
    "Multiplicative",
    "Reliability",
    "StochasticDepth",
    "Store",
    "TiedDropout",
    "census",
    "expected_calibration_error",
    "first_order",
    "load_encoder",
    "load_images",
    "matched_roles",
    "monte_carlo",
    "reliability",
]
