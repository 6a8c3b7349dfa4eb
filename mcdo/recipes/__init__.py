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
    "Interval",
    "OutsideCalibrationWarning",
    "Recipe",
    "RecipeScores",
    "Response",
    "SiteWeight",
    "Verdict",
    "load_recipe",
    "read_recipe",
    "write_recipe",
]
