"""Recipes: which sites, which score and how many passes were chosen for one encoder, and what was measured of them."""

from mcdo.recipes.file import Recipe, read_recipe
from mcdo.recipes.scoring import AppliedRecipe, RecipeScores, load_recipe

__all__ = ["AppliedRecipe", "Recipe", "RecipeScores", "load_recipe", "read_recipe"]
