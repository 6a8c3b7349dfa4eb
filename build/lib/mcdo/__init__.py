"""mcdo: can the uncertainty of a frozen vision-language encoder be trusted?

The public names; everything else may change. Each is imported when it is first used, so that a command that only looks
after the store does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcdo.encoders import Encoder, load_encoder, register_encoder
    from mcdo.errors import McdoError
    from mcdo.estimators import DimensionWeights, FirstOrderRun, MonteCarloRun, MultiFidelityRun, register_score
    from mcdo.estimators.census import census
    from mcdo.estimators.first_order import first_order
    from mcdo.estimators.forward_differences import forward_differences
    from mcdo.estimators.monte_carlo import monte_carlo
    from mcdo.estimators.multi_fidelity import multi_fidelity
    from mcdo.harness import register_experiment
    from mcdo.images import ImageSet, load_images
    from mcdo.perturbation import (
        AttentionDropout,
        Dropout,
        Gaussian,
        HiddenDropout,
        Multiplicative,
        Perturbation,
        Rademacher,
        StochasticDepth,
        TiedDropout,
        matched_roles,
        register_kind,
    )
    from mcdo.recipes import load_recipe
    from mcdo.stats import expected_calibration_error, with_domain
    from mcdo.stats.reliability import Reliability, reliability
    from mcdo.store import Store

__version__ = "0.1.0"

_ROOMS = {
    "encoders": ("Encoder", "load_encoder", "register_encoder"),
    "errors": ("McdoError",),
    "estimators": (
        "DimensionWeights",
        "FirstOrderRun",
        "MonteCarloRun",
        "MultiFidelityRun",
        "census",
        "first_order",
        "forward_differences",
        "monte_carlo",
        "multi_fidelity",
        "register_score",
    ),
    "harness": ("register_experiment",),
    "images": ("ImageSet", "load_images"),
    "perturbation": (
        "AttentionDropout",
        "Dropout",
        "Gaussian",
        "HiddenDropout",
        "Multiplicative",
        "Perturbation",
        "Rademacher",
        "StochasticDepth",
        "TiedDropout",
        "matched_roles",
        "register_kind",
    ),
    "recipes": ("load_recipe",),
    "stats": ("Reliability", "expected_calibration_error", "reliability", "with_domain"),
    "store": ("Store",),
}
_HOMES = {name: f"mcdo.{room}" for room, names in _ROOMS.items() for name in names}

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
    "MultiFidelityRun",
    "Multiplicative",
    "Perturbation",
    "Rademacher",
    "Reliability",
    "StochasticDepth",
    "Store",
    "TiedDropout",
    "census",
    "expected_calibration_error",
    "first_order",
    "forward_differences",
    "load_encoder",
    "load_images",
    "load_recipe",
    "matched_roles",
    "monte_carlo",
    "multi_fidelity",
    "register_encoder",
    "register_experiment",
    "register_kind",
    "register_score",
    "reliability",
    "with_domain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mcdo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
