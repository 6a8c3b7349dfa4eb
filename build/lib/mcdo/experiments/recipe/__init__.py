"""The recipe: which sites, which score, and what they are worth on images that chose nothing."""
