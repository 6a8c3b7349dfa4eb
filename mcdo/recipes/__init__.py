"""Recipes: which sites, which score and how many passes were chosen for one encoder, and what was measured of them."""

from mcdo.recipes.file import (
    VERSION,
    Calibration,
    Confirmation,
    Difference,
    Dimensions,
    Domain,
    EncoderIdentity,
    Estimator,
    Gain,
    Interval,
    Recipe,
    Response,
    SiteWeight,
    Verdict,
    read_recipe,
    write_recipe,
)

__all__ = [
    "VERSION",
    "Calibration",
    "Confirmation",
    "Difference",
    "Dimensions",
    "Domain",
    "EncoderIdentity",
    "Estimator",
    "Gain",
    "Interval",
    "Recipe",
    "Response",
    "SiteWeight",
    "Verdict",
    "read_recipe",
    "write_recipe",
]
