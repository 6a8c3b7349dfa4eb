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
    HeldOut,
    Interval,
    Recipe,
    Response,
    SiteWeight,
    read_recipe,
    write_recipe,
)
from mcdo.recipes.scoring import AppliedRecipe, OutsideCalibrationWarning, RecipeScores, load_recipe

__all__ = [
    "VERSION",
    "AppliedRecipe",
    "Calibration",
    "Confirmation",
    "Difference",
    "Dimensions",
    "Domain",
    "EncoderIdentity",
    "Estimator",
    "Gain",
    "HeldOut",
    "Interval",
    "OutsideCalibrationWarning",
    "Recipe",
    "RecipeScores",
    "Response",
    "SiteWeight",
    "load_recipe",
    "read_recipe",
    "write_recipe",
]
