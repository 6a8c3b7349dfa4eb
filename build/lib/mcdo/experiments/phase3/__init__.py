"""Comparisons; needs a GO from phase 1."""
